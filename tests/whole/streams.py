"""Raw streamed requests for tests that pull plugs: the bytes as they come, and the connection to drop."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support.patience import granted_s


class OpenStream:
    """One streamed chat request. `read_until` collects what the server sends; leaving the block hangs up."""

    def __init__(self, http_url: str, model: str, question: str, *, max_tokens: int, stream: bool) -> None:
        parts = urlsplit(http_url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30)
        body = json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": question}],
                "max_tokens": max_tokens,
                "stream": stream,
            }
        ).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        self.received = b""
        self.ended_at_s: float | None = None

    def read_until(self, wanted: bytes | None, *, within_s: float) -> bytes:
        """Read until `wanted` has come, or, with None, until the server hangs up. Fails the test when time is up."""
        ends_at = time.monotonic() + granted_s(within_s)
        while wanted is None or wanted not in self.received:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                raise AssertionError(f"{wanted!r} did not come within {within_s:g} s, only {self.received[-500:]!r}")
            self._socket.settimeout(left_s)
            try:
                block = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not block:
                self.ended_at_s = time.monotonic()
                if wanted is None:
                    break
                raise AssertionError(f"the server hung up before {wanted!r}: {self.received[-500:]!r}")
            self.received += block
        return self.received

    @property
    def status(self) -> int:
        return int(self.received.split(b" ", 2)[1])

    @property
    def text(self) -> str:
        """The answer's text in the events received so far."""
        text = ""
        for line in self.received.split(b"\n"):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                for choice in event.get("choices", []):
                    text += choice["delta"].get("content") or ""
        return text

    def hang_up(self) -> None:
        self._socket.close()


@contextmanager
def open_stream(
    http_url: str, model: str, question: str, *, max_tokens: int = 200, stream: bool = True
) -> Generator[OpenStream]:
    one = OpenStream(http_url, model, question, max_tokens=max_tokens, stream=stream)
    try:
        yield one
    finally:
        one.hang_up()
