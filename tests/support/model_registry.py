"""A real HTTP server on loopback that plays a registry of models, and the faults of bad ones.

Raw asyncio, because no web framework lets a handler lie about lengths or cut its own connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

MODEL_TYPE = "application/vnd.ollama.image.model"
_BLOCK_BYTES = 64 * 1024
_WITHIN_S = 20.0


@dataclass(slots=True, kw_only=True)
class Page:
    """One path. Faults happen `times` times (None: always), then it behaves.

    `cut_at`: the connection breaks before this byte of the file; `stall_at`: nothing comes from it on. `more`: bytes
    behind the end. `says`: the length that is told instead of the true one; 0 for none at all.
    """

    content: bytes = b""
    status: int = 200
    ranges: bool = True
    etag: str = ""
    location: str = ""
    cut_at: int | None = None
    stall_at: int | None = None
    more: bytes = b""
    says: int | None = None
    times: int | None = None
    asked: list[str] = field(default_factory=list[str])
    """The Range of each request; "" for none."""


class ModelRegistry:
    """`pages` by path. `async with model_registry() as registry`."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.url = ""
        self.heads: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def publish(
        self, model: str, content: bytes, *, tag: str = "latest", lie: Mapping[str, object] | None = None
    ) -> Page:
        """A model with its manifest; `lie`: another `digest`, `size`, `media_type` or `layers` for it."""
        more = lie or {}
        name = model if "/" in model else f"library/{model}"
        digest = str(more.get("digest", f"sha256:{hashlib.sha256(content).hexdigest()}"))
        layer = {
            "mediaType": more.get("media_type", MODEL_TYPE),
            "digest": digest,
            "size": more.get("size", len(content)),
        }
        layers = more.get("layers", [{"mediaType": "application/vnd.ollama.image.license"}, layer])
        manifest = {"schemaVersion": 2, "layers": layers}
        self.pages[f"/v2/{name}/manifests/{tag}"] = Page(content=json.dumps(manifest).encode())
        page = Page(content=content)
        self.pages[f"/v2/{name}/blobs/{digest}"] = page
        return page

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._answer(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
                await self._send(head, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _send(self, head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ", 2)[1]
        page = self.pages.get(path.partition("?")[0], Page(status=404))
        wanted = re.search(r"(?im)^range: *bytes=(\d+)-", head)
        page.asked.append("" if wanted is None else wanted[1])
        bad = page.times is None or page.times > 0
        page.times = None if page.times is None else max(0, page.times - 1)
        begin, status, extra = 0, page.status if bad else 200, ""
        if_range = re.search(r"(?im)^if-range: *(.+?)\r?$", head)
        if wanted is not None and page.ranges and status == 200 and (if_range is None or if_range[1] == page.etag):
            begin = int(wanted[1])
            if begin >= len(page.content):
                status = 416
            else:
                status = 206
                extra = f"Content-Range: bytes {begin}-{len(page.content) - 1}/{len(page.content)}\r\n"
        body = (page.content + page.more)[begin:] if status in (200, 206) else b""
        length = len(body) if page.says is None or not bad else page.says
        if length:
            extra += f"Content-Length: {length}\r\n"
        if page.etag:
            extra += f"ETag: {page.etag}\r\n"
        if page.location and bad:
            extra += f"Location: {page.location}\r\n"
        writer.write(f"HTTP/1.1 {status} Word\r\nConnection: close\r\n{extra}\r\n".encode())
        stop = len(body)
        for fault in (page.cut_at, page.stall_at):
            if bad and fault is not None:
                stop = min(stop, max(0, fault - begin))
        for start in range(0, stop, _BLOCK_BYTES):
            writer.write(body[start : min(stop, start + _BLOCK_BYTES)])
            await writer.drain()
        if bad and page.stall_at is not None:
            await writer.drain()
            await asyncio.Event().wait()


@asynccontextmanager
async def model_registry() -> AsyncGenerator[ModelRegistry]:
    """On a free port of loopback."""
    registry = ModelRegistry()
    server = await asyncio.start_server(registry.serve, "127.0.0.1", 0)
    registry.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with server:
            yield registry
    finally:
        await registry.aclose()
