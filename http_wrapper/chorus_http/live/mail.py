"""What waits to be sent to one socket: the library's queue, with a measure of how full it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

ROOM_BYTES = 128 * 1024
"""Who has more to say waits until less than this waits to be sent."""
PACKETS_LIMIT = 1_024
"""Answers and refusals do not wait; a client that makes so many and reads none is cut off."""
_PACKET_BYTES = 64


class Packet(Protocol):
    """One of Engine.IO."""

    @property
    def data(self) -> object: ...


def _nothing() -> None:
    """Until somebody wants to know."""


class Mail(asyncio.Queue[Packet | None]):
    """Takes whatever comes, as the library expects; `room` is for those who can wait. Its overridden methods are those
    that `asyncio.Queue` has for that."""

    overflown: Callable[[], None] = staticmethod(_nothing)

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]  # typeshed leaves it out
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def _put(self, item: Packet | None) -> None:
        super()._put(item)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]  # typeshed leaves it out
        self._bytes += _size(item)
        if self._bytes >= ROOM_BYTES:
            self._room.clear()
        if self.qsize() > PACKETS_LIMIT:
            self.overflown()

    def _get(self) -> Packet | None:
        item: Packet | None = super()._get()  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownVariableType]  # typeshed leaves it out
        self._bytes -= _size(item)  # pyright: ignore[reportUnknownArgumentType]  # as above: typeshed leaves it out
        if self._bytes < ROOM_BYTES:
            self._room.set()
        return item  # pyright: ignore[reportUnknownVariableType]  # as above: typeshed leaves it out

    async def room(self) -> None:
        """Wait until the client has read enough to be sent more."""
        await self._room.wait()


def _size(packet: Packet | None) -> int:
    text = None if packet is None else packet.data
    return _PACKET_BYTES + (len(text) if isinstance(text, str) else 0)
