"""A load generator on connections that are kept, as real clients keep them; a streamed answer's tokens are timed.

Costs the client's core a few microseconds for each read, so that on two cores what is measured is the proxy.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

ANSWER_WITHIN_S = 120.0
_TOKEN = b'"token '


@dataclass(slots=True)
class Answer:
    """One answer: seconds on this process's clock, and when each token came (a read may hold several)."""

    began_s: float
    status: int = 0
    arrivals_s: list[float] = field(default_factory=list[float])
    body: bytearray = field(default_factory=bytearray)

    @property
    def ttft_s(self) -> float:
        return self.arrivals_s[0] - self.began_s


class BrokenAnswer(Exception):
    """What came was no whole, good answer."""


class _Wire(asyncio.Protocol):
    """The client's end of one connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.answer = Answer(0.0)
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.keeps_body = True
        self._tail = b""
        self._read_at_s = 0.0

    def data_received(self, data: bytes) -> None:
        self._read_at_s = time.perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        seen = self._tail + body
        if tokens := seen.count(_TOKEN):
            self.answer.arrivals_s += [self._read_at_s] * tokens
        self._tail = seen[1 - len(_TOKEN) :]  # one may be cut in two
        if not self.keeps_body:
            self.answer.body.clear()
        self.answer.body += body

    def on_message_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        if not self.whole.done():
            self.whole.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.whole.done():
            self.whole.set_exception(BrokenAnswer(f"the connection was closed: {exc}"))
            self.whole.exception()  # nobody may be waiting


class Connection:
    """One kept connection; one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        self._at = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._wire: _Wire | None = None
        self._transport: asyncio.Transport | None = None

    async def ask(self, request: bytes, *, keeps_body: bool = True) -> Answer:
        """Raises BrokenAnswer for anything but a whole answer with status 200."""
        if self._transport is None or self._wire is None or self._transport.is_closing():
            self._transport, self._wire = await asyncio.get_running_loop().create_connection(_Wire, *self._at)
        wire = self._wire
        wire.keeps_body = keeps_body
        wire.answer = answer = Answer(time.perf_counter())
        wire.whole = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await wire.whole
        if answer.status != 200:
            raise BrokenAnswer(f"{self._host} answered {answer.status}: {bytes(answer.body[:300])!r}")
        return answer

    async def stream(self, request: bytes, tokens: int) -> Answer:
        """A streamed answer of so many tokens."""
        answer = await self.ask(request, keeps_body=False)
        if len(answer.arrivals_s) != tokens:
            raise BrokenAnswer(f"{self._host} streamed {len(answer.arrivals_s)} tokens of {tokens}")
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def request(url: str, path: str, body: object | None = None) -> bytes:
    """A POST of `body`, or a GET without one."""
    raw = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {urlsplit(url).netloc}",
        "Accept: */*",
        "User-Agent: bench",
    ]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def chat(url: str, model: str, *, tokens: int, pace: int = 0, stream: bool = True, salt: object = "") -> bytes:
    """A chat that tells the mock engine what to answer."""
    words = f"{salt} tokens={tokens}" + (f" pace={pace}" if pace else "")
    messages = [{"role": "user", "content": words}]
    return request(url, "/v1/chat/completions", {"model": model, "messages": messages, "stream": stream})


def lateness_ms(answers: Sequence[Answer], pace: float) -> list[float]:
    """How late each token came, against a metronome that starts with its answer's earliest beat."""
    late: list[float] = []
    for answer in answers:
        beats = [arrival - number / pace for number, arrival in enumerate(answer.arrivals_s)]
        start = min(beats)
        late += [(beat - start) * 1000 for beat in beats]
    return late
