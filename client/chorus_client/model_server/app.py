"""The HTTP side of the model server: it answers at once whatever the model does, and gives it the work in turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from chorus_client.model_server.admission import Admission
from chorus_client.model_server.answers import StreamRendering, WholeRendering
from chorus_client.model_server.computing import Call, CallEvent, Computing
from chorus_client.model_server.frames import Begin, Ended, Prefilled, Refused, Said
from chorus_client.model_server.gate import error_response, errors_as_answers, keys_asked_for, stream_failure
from chorus_client.model_server.requests import Asked, read_request
from chorus_client.thinking.counts import CountingSplitter
from chorus_client.thinking.select import splitter_for
from chorus_client.thinking.think_tags import OPENING
from chorus_proto.catalogue import normalised
from chorus_proto.errors import (
    ClusterError,
    EngineUnavailable,
    InvalidRequest,
    ModelNotFound,
    error_of,
)
from chorus_proto.ids import new_request_id
from chorus_proto.values import ThinkingStyle

log = logging.getLogger(__name__)

_MOST_BODY_BYTES = 10 << 20
_BODY_WITHIN_S = 30.0
_WRITE_WITHIN_S = 30.0
"""A caller that takes nothing for so long is cut: its slot is needed."""
_RETRY_WHILE_LOADING_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served. `context_tokens` is per slot."""

    model: str
    context_tokens: int
    splits_thoughts: bool
    created_unix_s: int


class ModelServer:
    """The application's state; one per process."""

    def __init__(self, served: Served, computing: Computing, admission: Admission) -> None:
        self._served = served
        self._computing = computing
        self._admission = admission

    def application(self, keys: Sequence[bytes]) -> web.Application:
        app = web.Application(client_max_size=_MOST_BODY_BYTES, middlewares=[errors_as_answers(), keys_asked_for(keys)])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._one_model)
        app.router.add_get("/props", self._props)
        app.router.add_get("/slots", self._slots)
        app.router.add_get("/queue/status", self._queue_status)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completion)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        if self._computing.ready is not None and self._computing.failure is None:
            return web.json_response({"status": "ok", "model": self._served.model})
        body: dict[str, object] = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        state = "loading"
        if self._computing.failure is not None:
            state, body["message"] = "failed", self._computing.failure
        progress = {"share": round(self._computing.share(), 3), "stage": self._computing.stage}
        return web.json_response({"status": state, "progress": progress, "error": body}, status=503)

    def _row(self) -> dict[str, object]:
        loaded = self._computing.ready is not None
        return {
            "id": self._served.model,
            "object": "model",
            "created": self._served.created_unix_s,
            "owned_by": "chorus",
            "status": {"value": "loaded" if loaded else "loading"},
        }

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._row()]})

    async def _one_model(self, request: web.Request) -> web.Response:
        self._check_name(request.match_info["model"])
        return web.json_response(self._row())

    async def _props(self, request: web.Request) -> web.Response:
        ready = self._computing.ready
        return web.json_response(
            {
                "default_generation_settings": {"n_ctx": self._served.context_tokens},
                "total_slots": self._admission.slots,
                "model_alias": self._served.model,
                "device": ready.device if ready else None,
                "dtype": ready.dtype if ready else None,
            }
        )

    async def _slots(self, request: web.Request) -> web.Response:
        active = self._admission.active
        return web.json_response([{"id": n, "is_processing": n < active} for n in range(self._admission.slots)])

    async def _queue_status(self, request: web.Request) -> web.Response:
        return web.json_response(msgspec.to_builtins(self._admission.status()))

    def _check_name(self, name: str) -> None:
        if normalised(name) != normalised(self._served.model):
            raise ModelNotFound(
                f"The model {name[:64]!r} is not served here; {self._served.model!r} is.", param="model"
            )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=True)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=False)

    async def _complete(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        if request.content_type != "application/json":
            # A web page of another site can send other types without asking first.
            raise InvalidRequest("The body must be JSON, sent with 'Content-Type: application/json'.")
        try:
            async with asyncio.timeout(_BODY_WITHIN_S):
                raw = await request.read()
        except TimeoutError:
            raise InvalidRequest(f"The body did not arrive within {_BODY_WITHIN_S:g} s.") from None
        asked = read_request(raw, chat=chat)
        self._check_name(asked.parsed.model)
        if self._computing.ready is None:
            raise EngineUnavailable(
                f"The model is loading ({self._computing.share():.0%}).", retry_after_s=_RETRY_WHILE_LOADING_S
            )
        await self._admission.enter(within_s=asked.parsed.queue_within_s)
        call = self._computing.begin(lambda number: _order(asked, number), self._admission.leave)
        try:
            return await self._answer(request, asked, call)
        finally:
            # The slot is free again once the computing process has let go of it.
            call.cancel()

    async def _answer(self, request: web.Request, asked: Asked, call: Call) -> web.StreamResponse:
        events = await call.next()
        opened = False
        for event in events:
            if isinstance(event, Refused):
                raise _error(event)
            opened = opened or (isinstance(event, Prefilled) and event.opens_thought)
        splitter = self._splitter(asked, opened=opened)
        made = (asked, splitter, new_request_id(), int(time.time()))
        if asked.parsed.stream:
            return await _streamed(request, StreamRendering(*made), call, events)
        return await _whole(WholeRendering(*made), call, events)

    def _splitter(self, asked: Asked, *, opened: bool) -> CountingSplitter | None:
        """None where the text goes out as the model wrote it."""
        ready = self._computing.ready
        if not asked.chat or asked.separate_thinking is False or ready is None:
            return None
        if not self._served.splits_thoughts and not asked.separate_thinking:
            return None
        if ready.thoughts is ThinkingStyle.PLAIN and asked.separate_thinking is None:
            return None
        style = ThinkingStyle.TAGS if ready.thoughts is ThinkingStyle.PLAIN else ready.thoughts
        return CountingSplitter(splitter_for(style, prompt=OPENING if opened else ""))


def _order(asked: Asked, number: int) -> Begin:
    generation = asked.parsed.generation
    if asked.ignore_end:
        generation = msgspec.structs.replace(generation, ignore_end=True)
    return Begin(
        number=number,
        generation=generation,
        top_k=asked.top_k,
        reasoning=asked.reasoning,
        developer_instructions=asked.developer_instructions,
    )


def _error(event: Refused) -> ClusterError:
    return error_of(event.code, event.message, param=event.param)


async def _streamed(
    request: web.Request, rendering: StreamRendering, call: Call, events: list[CallEvent]
) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    said = False
    while True:
        out: list[bytes] = []
        over = False
        for event in events:
            if isinstance(event, Prefilled):
                out.append(rendering.progress(event))
            elif isinstance(event, Said):
                out.append(rendering.said(event))
                said = True
            else:
                over = True
                failed = isinstance(event, Refused)
                out.append(stream_failure(_error(event), partial=said) if failed else rendering.ended(event))
        try:
            async with asyncio.timeout(_WRITE_WITHIN_S):
                await response.write(b"".join(out))
                if over:
                    await response.write_eof()
        except TimeoutError:
            log.info("a caller took nothing for %g s and was cut", _WRITE_WITHIN_S)
            if request.transport is not None:
                request.transport.abort()
            return response
        if over:
            return response
        events = await call.next()


async def _whole(rendering: WholeRendering, call: Call, events: list[CallEvent]) -> web.StreamResponse:
    while True:
        for event in events:
            if isinstance(event, Said):
                rendering.said(event)
            elif isinstance(event, Ended):
                return web.Response(body=rendering.ended(event), content_type="application/json")
            elif isinstance(event, Refused):
                return error_response(_error(event))
        events = await call.next()
