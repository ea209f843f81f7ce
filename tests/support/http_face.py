"""The HTTP wrapper on a real port, and raw sockets to talk to it as no polite client would."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from chorus_http.app import create_app
from chorus_http.chats.store import ChatStore
from chorus_http.listen import HttpServer, serving
from chorus_http.rag.opening import LibraryDoor
from chorus_http.response_store import ResponseStore
from chorus_http.settings import HttpSettings
from chorus_http.tls import http_tls
from chorus_proto.clock import Clock, SystemClock
from chorus_proto.cluster import Cluster
from tests.support.patience import granted_s

WITHIN_S = 10.0


@asynccontextmanager
async def http_face(
    cluster: Cluster,
    settings: HttpSettings | None = None,
    documents: LibraryDoor | None = None,
    *,
    chats: ChatStore | None = None,
    responses: ResponseStore | None = None,
    clock: Clock | None = None,
) -> AsyncGenerator[HttpServer, None]:
    chosen = settings or HttpSettings(http_port=0, drain_within_s=1.0)
    # `clock`: of the certificate alone.
    async with http_tls(chosen, clock or SystemClock()) as tls:
        ca_pem = None if tls is None else tls.authority.pem
        app = create_app(cluster, chosen, SystemClock(), documents, chats=chats, responses=responses, ca_pem=ca_pem)
        async with serving(app, chosen, tls) as server:
            yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        return msgspec.json.decode(self.body, type=dict[str, object])

    def rows(self, name: str) -> list[dict[str, object]]:
        """The objects in the list `name`."""
        return msgspec.convert(self.json()[name], list[dict[str, object]])

    def error(self) -> dict[str, object]:
        return msgspec.convert(self.json()["error"], dict[str, object])


def post(path: str, body: bytes, *, content_type: str | None = "application/json", extra: str = "") -> bytes:
    """The bytes of one POST on a connection that closes after it."""
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}{extra}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def get(path: str, *, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


async def send_raw(port: int, sent: bytes, tls: ssl.SSLContext | None = None) -> Reply:
    """Send these bytes, read until the server closes; `tls`: whom to trust, None in clear."""
    async with asyncio.timeout(granted_s(WITHIN_S)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        try:
            writer.write(sent)
            return parse(await reader.read())
        finally:
            writer.close()


def parse(raw: bytes) -> Reply:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Reply(status=int(lines[0].split(" ")[1]), headers=headers, body=body)


async def until(done: Callable[[], bool], *, within_s: float = WITHIN_S) -> float:
    """Poll until `done()`; the seconds it took. Fails the test when it does not come true in time."""
    started = time.monotonic()
    while not done():
        if time.monotonic() - started > granted_s(within_s):
            raise AssertionError(f"did not come true within {within_s} s")
        await asyncio.sleep(0.005)
    return time.monotonic() - started


def _unchunked(raw: bytes) -> bytes:
    body = b""
    while raw:
        size, _, rest = raw.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        body += rest[:length]
        raw = rest[length + 2 :]
    return body
