"""Frames of a file on their way through the coordinator: a few wait here, and then their sender does.

What is not taken from the sender's stream fills HTTP/2's window, so that a slow receiver slows its sender and nothing
piles up in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from chorus_proto.clock import Clock

Frame = TypeVar("Frame")

WAITING_FRAMES = 2


class Relay(Generic[Frame]):
    """One puts, one takes. `clear` drops what waits, when its sender is given up."""

    def __init__(self, limit: int = WAITING_FRAMES) -> None:
        self._limit = limit
        self._frames: deque[Frame] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    async def put(self, frame: Frame) -> bool:
        """Waits for room; False when the relay was closed meanwhile."""
        while len(self._frames) >= self._limit and not self._closed:
            await self._change()
        if self._closed:
            return False
        self._frames.append(frame)
        self._notify()
        return True

    async def take(self) -> Frame | None:
        """The next frame; None once the relay is closed."""
        while not self._frames and not self._closed:
            await self._change()
        if self._closed:
            return None
        frame = self._frames.popleft()
        self._notify()
        return frame

    def clear(self) -> None:
        self._frames.clear()
        self._notify()

    def close(self) -> None:
        """Nothing goes through any more; what waits is dropped."""
        self._closed = True
        self.clear()

    async def _change(self) -> None:
        changed = self._changed
        await changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Throttle:
    """At most `bytes_per_s` go through, all users together; 0 is without a limit."""

    def __init__(self, bytes_per_s: int, clock: Clock) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._free_at_s = 0.0

    async def take(self, count_bytes: int) -> None:
        """Wait until so many bytes may go. Always lets other tasks of the loop run first: tokens, above all."""
        wait_s = 0.0
        if self._bytes_per_s:
            now_s = self._clock.monotonic_s()
            begin_s = max(now_s, self._free_at_s)
            self._free_at_s = begin_s + count_bytes / self._bytes_per_s
            wait_s = begin_s - now_s
        await asyncio.sleep(wait_s)
