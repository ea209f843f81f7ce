"""The proxy that one would write in ten minutes, for `bench.gateway`: FastAPI and httpx, answers passed on unread.

`python bench/plain_proxy.py ENGINE_URL PORT`, in the folder of peers: neither is a dependency of Chorus.
"""

# FastAPI is installed for the peers alone, so nothing of it is known here.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportUnknownArgumentType=false

from __future__ import annotations

import sys

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

ENGINE_URL, PORT = sys.argv[1], int(sys.argv[2])

app = FastAPI()
client = httpx.AsyncClient(base_url=ENGINE_URL, timeout=None, limits=httpx.Limits(max_connections=None))


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body = await request.json()
    if not body.get("stream"):
        answer = await client.post("/v1/chat/completions", json=body)
        return Response(answer.content, status_code=answer.status_code, media_type="application/json")
    asked = client.build_request("POST", "/v1/chat/completions", json=body)
    answer = await client.send(asked, stream=True)
    return StreamingResponse(answer.aiter_raw(), media_type="text/event-stream", background=None)


uvicorn.run(app, port=PORT, log_level="warning", access_log=False)
