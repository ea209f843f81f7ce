"""Keeps an engine alive: one life after the other, with growing pauses, until one ends for good or it is a crash loop.

The one supervisor of everything the agent starts: `pooled_model` brings loaded models, `local_servers` the owner's
servers. How an engine is started, watched and ended is the life's own affair; when it starts again is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from chorus_client.restarts import NextStart, Restarts
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeEnd:
    """How a life ended. `final`: no other follows. `counts`: it was a crash, and too many of them are a crash loop."""

    error: ClusterError
    final: bool = False
    counts: bool = True


End = TypeVar("End", bound=LifeEnd)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp(Generic[End]):
    """The last life's end. `crash_loop`: it was one crash too many."""

    end: End
    crash_loop: bool
    crashes: int


class Supervisor(Generic[End]):
    """`restarts` outlives the supervisor where crashes must be remembered. `probes`: a crash loop is tried again
    every now and then instead of being given up."""

    def __init__(self, restarts: Restarts, clock: Clock, *, probes: bool) -> None:
        self._restarts = restarts
        self._clock = clock
        self._probes = probes
        self._now = asyncio.Event()

    def came_up(self) -> None:
        """A life tells that its engine answers."""
        self._restarts.started(self._clock.monotonic_s())

    def retry_now(self) -> None:
        """Somebody asked for another try: forget the crashes and do not wait any longer."""
        self._restarts.retry_now()
        self._now.set()

    async def run(self, life: Callable[[], Awaitable[End]], paused: Callable[[End, NextStart], None]) -> GivenUp[End]:
        """Until a life ends for good. `paused` hears of each pause before another one."""
        while True:
            end = await life()
            if not end.counts:
                return GivenUp(end=end, crash_loop=False, crashes=0)
            following = self._restarts.crashed(self._clock.monotonic_s(), random.random())
            over = not self._probes if following.crash_loop else end.final
            if over:
                return GivenUp(end=end, crash_loop=following.crash_loop, crashes=following.crashes)
            paused(end, following)
            self._now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(following.after_s):
                    await self._now.wait()
