"""After a sleep of the PC: old work is dropped, the link is opened anew, and the engines must show their speed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from chorus_client.sleep_watch import Gap, SleepWatch
from chorus_proto.clock import Clock

log = logging.getLogger(__name__)

HEARD_WITHIN_S = 2.0
"""A link that lives has a heartbeat answered within this."""
_POLL_S = 0.05


class Link(Protocol):
    """The link to the coordinator."""

    def heard_since(self, monotonic_s: float) -> bool:
        """Whether a heartbeat sent since then was answered."""
        ...

    def reopen(self, reason: str) -> None:
        """Drop all work and dial anew."""
        ...


class Wakefulness:
    """`run` is to be a task as long as the agent lives. `recheck` looks whether the engines are as fast as before."""

    def __init__(
        self, watch: SleepWatch, link: Link, clock: Clock, recheck: Callable[[], Awaitable[None]], *, every_s: float
    ) -> None:
        self._watch = watch
        self._link = link
        self._clock = clock
        self._recheck = recheck
        self._every_s = every_s
        self._checking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._every_s)
                await self.step()
        finally:
            await self._stop_checking()

    async def step(self) -> None:
        """One look at the clocks, and what follows from it."""
        gap = self._watch.look()
        if gap is None:
            return
        if gap.certain or not await self._is_heard():
            log.warning("%s; old work is dropped", gap.words)
            self._link.reopen(gap.words)
        else:
            log.warning("%s, by its clocks; the coordinator answers, so all goes on", gap.words)
        await self._stop_checking()
        self._checking = asyncio.create_task(self._check(gap), name="speed-check")

    async def _is_heard(self) -> bool:
        asked_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(HEARD_WITHIN_S):
                while not self._link.heard_since(asked_s):  # noqa: ASYNC110  # the link has no bell for renewals
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return False
        return True

    async def _check(self, gap: Gap) -> None:
        try:
            await self._recheck()
        except Exception:
            # The edge of one check: the agent goes on without it.
            log.exception("the check of the engines' speed after %.0f s of sleep broke", gap.seconds)

    async def _stop_checking(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
            self._checking = None
