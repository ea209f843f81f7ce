"""A load generator that costs little: raw sockets, one request per connection, server-sent events counted, not parsed.

Every streamed request gives the moments at which its events arrived, in seconds on this process's clock.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(slots=True)
class Streamed:
    """One answer: when it was asked for, when its events came (a read may hold several), and its size."""

    began_s: float
    arrivals_s: list[float] = field(default_factory=list[float])
    status: int = 0
    tail: bytes = b""

    @property
    def ttft_s(self) -> float:
        return self.arrivals_s[0] - self.began_s

    @property
    def complete(self) -> bool:
        return self.status == 200 and b"[DONE]" in self.tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to ask. `headers` holds extra header lines, e.g. the engine's key."""

    url: str
    model: str
    headers: tuple[str, ...] = ()
    extra: tuple[tuple[str, object], ...] = ()

    def request(self, prompt: str, *, max_tokens: int, stream: bool) -> bytes:
        parts = urlsplit(self.url)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": stream,
            **dict(self.extra),
        }
        raw = json.dumps(body).encode()
        head = [
            "POST /v1/chat/completions HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(raw)}",
            "Connection: close",
            *self.headers,
        ]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + raw

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80


async def streamed(target: Target, prompt: str, *, max_tokens: int) -> Streamed:
    """Ask once, streaming; read to the end."""
    answer = Streamed(time.perf_counter())
    reader, writer = await asyncio.open_connection(*target.address)
    try:
        writer.write(target.request(prompt, max_tokens=max_tokens, stream=True))
        status_line = await reader.readline()
        answer.status = int(status_line.split()[1])
        while (await reader.readline()).strip():
            pass
        while block := await reader.read(65536):
            now_s = time.perf_counter()
            answer.arrivals_s += [now_s] * block.count(b'"content":"')
            answer.tail = (answer.tail + block)[-200:]
    finally:
        writer.close()
    return answer


async def whole(target: Target, prompt: str, *, max_tokens: int) -> bool:
    """Ask once without streaming; True when the answer was a 200."""
    reader, writer = await asyncio.open_connection(*target.address)
    try:
        writer.write(target.request(prompt, max_tokens=max_tokens, stream=False))
        raw = await reader.read()
        return raw.startswith(b"HTTP/1.1 200")
    finally:
        writer.close()


async def closed_loop(one: Callable[[int], Awaitable[bool]], *, at_once: int, total: int) -> tuple[float, int]:
    """`total` requests, `at_once` in flight; returns (seconds, how many went well)."""
    numbers = iter(range(total))
    good = 0

    async def worker() -> None:
        nonlocal good
        for number in numbers:
            went_well = await one(number)
            good += went_well

    began_s = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return time.perf_counter() - began_s, good


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` (0-1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
