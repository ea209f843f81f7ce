"""A real client of Socket.IO that remembers what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import socketio

from tests.support.http_face import WITHIN_S
from tests.support.patience import granted_s

WEBSOCKET = ("websocket",)
POLLING = ("polling",)
UPGRADE = ("polling", "websocket")


class LiveClient:
    """`told` holds every event with its argument, in order."""

    def __init__(self, url: str, transports: tuple[str, ...]) -> None:
        self._url = url
        self._transports = list(transports)
        self._heard = asyncio.Event()
        self.told: list[tuple[str, Any]] = []  # Any: whatever JSON the server sends; tests compare it
        self.closed = asyncio.Event()
        self.socket = socketio.AsyncClient(reconnection=False)
        self.socket.on("*", self._hear)  # pyright: ignore[reportUnknownMemberType]  # the library has no types
        self.socket.on("disconnect", self._gone)  # pyright: ignore[reportUnknownMemberType]  # as above

    async def _hear(self, event: str, *arguments: object) -> None:
        self.told.append((event, arguments[0] if arguments else None))
        self._heard.set()

    async def _gone(self, _reason: str) -> None:
        self.closed.set()

    async def open(self, key: str | None = None, **headers: str) -> None:
        await self.socket.connect(  # pyright: ignore[reportUnknownMemberType]  # as above
            self._url,
            auth=None if key is None else {"key": key},
            headers=headers,
            transports=self._transports,
            wait_timeout=int(WITHIN_S),
        )

    async def ask(self, event: str, argument: object | None = None) -> dict[str, Any]:  # Any: see `told`
        """Send an event; its acknowledgement."""
        reply = await self.socket.call(event, {} if argument is None else argument, timeout=int(WITHIN_S))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # as above
        return cast("dict[str, Any]", reply)

    def of(self, event: str) -> list[Any]:  # Any: see `told`
        return [argument for name, argument in self.told if name == event]

    def events(self) -> list[dict[str, Any]]:  # Any: see `told`
        """Of the cluster, whatever batches they came in."""
        return [one for batch in self.of("cluster") for one in batch]

    async def until(self, count: int, event: str) -> list[Any]:  # Any: see `told`
        """Wait for so many of one event; of the cluster's, single ones are counted."""
        async with asyncio.timeout(granted_s(WITHIN_S)):
            while len(found := self.events() if event == "cluster" else self.of(event)) < count:
                self._heard.clear()
                await self._heard.wait()
        return found

    async def until_stream(self, kind: str) -> dict[str, Any]:  # Any: see `told`
        """Wait for a `stream` event of one kind."""
        async with asyncio.timeout(granted_s(WITHIN_S)):
            while not (found := [one for one in self.of("stream") if one["kind"] == kind]):
                self._heard.clear()
                await self._heard.wait()
        return found[0]

    async def until_closed(self) -> None:
        async with asyncio.timeout(granted_s(WITHIN_S)):
            await self.closed.wait()

    def cut(self) -> None:
        """Lose the connection as a cable that is pulled: nobody is told goodbye."""
        transport = self.socket.eio.ws._conn.transport  # pyright: ignore  # no cable to pull in a test
        transport.abort()  # pyright: ignore  # as above

    async def close(self) -> None:
        await self.socket.disconnect()  # pyright: ignore[reportUnknownMemberType]  # as above


@asynccontextmanager
async def live_client(
    url: str, key: str | None = None, *, transports: tuple[str, ...] = WEBSOCKET, **headers: str
) -> AsyncGenerator[LiveClient]:
    client = LiveClient(url, transports)
    await client.open(key, **headers)
    try:
        yield client
    finally:
        await client.close()
