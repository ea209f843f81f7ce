"""The queue before the model: so many generations at once, so many waiting, and everybody else is told at once."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import msgspec

from chorus_proto.errors import QueueFull, QueueTimeout

_RETRY_AFTER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """`within_s`: how long a caller who does not say waits for a slot."""

    slots: int
    most_waiting: int
    within_s: float


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /queue/status` shows. Totals are since the start."""

    max_concurrent: int
    active: int
    max_waiting: int
    waiting: int
    oldest_wait_s: float
    started_total: int
    refused_total: int
    timed_out_total: int


class Admission:
    """First come, first served. Whoever entered leaves exactly once."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._active = 0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._started = self._refused = self._timed_out = 0

    @property
    def slots(self) -> int:
        return self._limits.slots

    @property
    def active(self) -> int:
        return self._active

    async def enter(self, *, within_s: float | None = None) -> None:
        """Take a slot, waiting for one if need be. Raises QueueFull, or QueueTimeout after `within_s`."""
        if self._active < self._limits.slots:
            self._active += 1
            self._started += 1
            return
        if len(self._waiting) >= self._limits.most_waiting:
            self._refused += 1
            raise QueueFull(
                f"The queue is full: {self._active} generations run and {len(self._waiting)} wait.",
                retry_after_s=_RETRY_AFTER_S,
            )
        limit_s = self._limits.within_s if within_s is None else within_s
        loop = asyncio.get_running_loop()
        place = (loop.create_future(), loop.time())
        self._waiting.append(place)
        try:
            async with asyncio.timeout(limit_s):
                await place[0]
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
            elif not place[0].cancelled():
                self.leave()  # the slot came in the moment in which its caller gave up
            if isinstance(error, TimeoutError):
                self._timed_out += 1
                raise QueueTimeout(f"No slot came free within {limit_s:g} s.", retry_after_s=_RETRY_AFTER_S) from None
            raise
        self._started += 1

    def leave(self) -> None:
        """Give the slot to who waits longest, or back."""
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._active -= 1

    def status(self) -> QueueStatus:
        now_s = asyncio.get_running_loop().time()
        return QueueStatus(
            max_concurrent=self._limits.slots,
            active=self._active,
            max_waiting=self._limits.most_waiting,
            waiting=len(self._waiting),
            oldest_wait_s=round(now_s - self._waiting[0][1], 3) if self._waiting else 0.0,
            started_total=self._started,
            refused_total=self._refused,
            timed_out_total=self._timed_out,
        )
