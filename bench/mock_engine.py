"""A mock of an OpenAI engine that costs next to nothing: `python -m bench.mock_engine [--port N]`.

What to answer stands in the prompt, which every proxy passes on: `tokens=N` how many, `pace=P` how many a second.
Without a pace they come in a burst: `BURST_EVENTS` events a write, each a chunk of HTTP, as fast as the reader takes
them. Paced tokens leave at absolute deadlines: sleeping between them would drift. Embeddings are made one request after
the other, at `--texts-per-s`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import cast

import httptools
import uvloop

MODEL = "mock"
BURST_EVENTS = 16
VECTOR = b"[" + b",".join(b"0.%04d" % (n * 7919 % 10000) for n in range(384)) + b"]"

_TOKENS = re.compile(rb"tokens=(\d+)")
_PACE = re.compile(rb"pace=(\d+)")
_STREAM = re.compile(rb'"stream":\s*true')
_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}).encode()


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def _event(choices: list[dict[str, object]], usage: dict[str, int] | None = None) -> bytes:
    told: dict[str, object] = {"id": "mock-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    told["choices"] = choices
    if usage is not None:
        told["usage"] = usage
    return _chunk(b"data: %b\n\n" % json.dumps(told, separators=(",", ":")).encode())


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": tokens + 8}


_ROLE = _event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
_TWO_TOKENS = tuple(
    _event([{"index": 0, "delta": {"content": text}, "finish_reason": None}]) for text in ("token a ", "token b ")
)
"""In turn: LiteLLM ends an answer that says the same a hundred times."""
_STOP = _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])


def _tokens(count: int) -> bytes:
    return b"".join(_TWO_TOKENS) * (count // 2) + _TWO_TOKENS[0] * (count % 2)


def _end(tokens: int) -> bytes:
    return _STOP + _event([], _usage(tokens)) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _whole(tokens: int) -> bytes:
    message = {"role": "assistant", "content": "token a " * tokens}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    told = {"id": "mock-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices}
    return json.dumps({**told, "usage": _usage(tokens)}).encode()


class _Texts:
    """Embeds at a fixed speed, one request after the other."""

    def __init__(self, texts_per_s: float) -> None:
        self._texts_per_s = texts_per_s
        self._free_at_s = 0.0

    async def embedded(self, body: bytes) -> bytes:
        inputs = json.loads(body)["input"]
        count = 1 if isinstance(inputs, str) else len(inputs)
        loop = asyncio.get_running_loop()
        self._free_at_s = max(loop.time(), self._free_at_s) + count / self._texts_per_s
        await asyncio.sleep(self._free_at_s - loop.time())
        rows = b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % (n, VECTOR) for n in range(count))
        usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (count, count)
        return b'{"object":"list","model":"%b","data":[%b],"usage":%b}' % (MODEL.encode(), rows, usage)


class _Connection(asyncio.Protocol):
    """One connection; its requests come one after the other."""

    def __init__(self, texts: _Texts) -> None:
        self._texts = texts
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""
        self._room = asyncio.Event()
        self._room.set()
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()  # sglang-router tries HTTP/2 first

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body = self._body
        if self._url.endswith(b"/embeddings"):
            self._later(self._embed(body))
        elif self._url.endswith(b"/completions"):
            self._complete(body)
        else:
            self._transport.write(_JSON % (len(_MODELS), _MODELS))

    def _complete(self, body: bytes) -> None:
        found, pace = _TOKENS.search(body), _PACE.search(body)
        tokens = int(found[1]) if found else 1
        if not _STREAM.search(body):
            answer = _whole(tokens)
            self._transport.write(_JSON % (len(answer), answer))
        elif pace:
            self._later(self._paced(tokens, float(pace[1])))
        elif tokens <= BURST_EVENTS:
            self._transport.write(_HEAD + _ROLE + _tokens(tokens) + _end(tokens))
        else:
            self._later(self._burst(tokens))

    def _later(self, work: Awaitable[None]) -> None:
        self._answering = asyncio.ensure_future(work)

    async def _embed(self, body: bytes) -> None:
        answer = await self._texts.embedded(body)
        self._transport.write(_JSON % (len(answer), answer))

    async def _burst(self, tokens: int) -> None:
        self._transport.write(_HEAD + _ROLE)
        for left in range(tokens, 0, -BURST_EVENTS):
            self._transport.write(_tokens(min(left, BURST_EVENTS)))
            await asyncio.sleep(0)
            await self._room.wait()
        self._transport.write(_end(tokens))

    async def _paced(self, tokens: int, per_s: float) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        self._transport.write(_HEAD + _ROLE)
        for number in range(tokens):
            await asyncio.sleep(began_s + number / per_s - loop.time())
            self._transport.write(_TWO_TOKENS[number % 2])
        self._transport.write(_end(tokens))


async def _serve(port: int, texts_per_s: float, told: Callable[[str], None]) -> None:
    texts = _Texts(texts_per_s)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(texts), "127.0.0.1", port)
    told(f"listening http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--texts-per-s", type=float, default=10_000.0)
    told = parser.parse_args()
    uvloop.run(_serve(told.port, told.texts_per_s, lambda line: print(line, flush=True)))
