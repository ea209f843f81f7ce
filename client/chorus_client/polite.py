"""Looks at the PC every few seconds and applies the policy: tells the coordinator, and frees models when it must."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from chorus_client.activity.seen import Activity
from chorus_client.policy import Policy, Stance, decide
from chorus_client.working_hours import LocalTime
from chorus_proto.clock import Clock
from chorus_proto.values import ALL_OURS, Courtesy

log = logging.getLogger(__name__)

NEW_WORDS_EVERY_S = 30.0
"""A reason's numbers change with each look; the coordinator is told of nothing else at most so often."""


class Obliged(Protocol):
    """Who acts on a stance; the agent."""

    def be_polite(self, courtesy: Courtesy) -> None:
        """Tell the coordinator, now or on the next link."""
        ...

    def free_idle_models(self, reason: str) -> None: ...


class Polite:
    """`look` senses, `run` is to be a task as long as the agent lives."""

    def __init__(
        self,
        policy: Policy,
        look: Callable[[], Awaitable[Activity]],
        clock: Clock,
        agent: Obliged,
        *,
        every_s: float,
    ) -> None:
        self._policy = policy
        self._look = look
        self._clock = clock
        self._agent = agent
        self._every_s = every_s
        self._stance = Stance()
        self._told = ALL_OURS
        self._told_at_s = clock.monotonic_s()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.step()
            except Exception:
                # The supervisor of politeness: one look that broke must not leave the owner without any.
                log.exception("a look at what the PC's owner does broke")
            await asyncio.sleep(self._every_s)

    async def step(self) -> None:
        """One look, and what follows from it."""
        seen = await self._look()
        now_s = self._clock.monotonic_s()
        self._stance = decide(self._policy, seen, self._stance, now_s, local_time(self._clock.unix_s()))
        courtesy = self._stance.courtesy
        if self._is_news(courtesy, now_s):
            self._told, self._told_at_s = courtesy, now_s
            self._agent.be_polite(courtesy)
        if self._stance.evict:
            self._agent.free_idle_models(courtesy.reason)

    def _is_news(self, courtesy: Courtesy, now_s: float) -> bool:
        if (courtesy.paused, courtesy.slots) != (self._told.paused, self._told.slots):
            log.info("%s", courtesy.words or "the owner leaves this PC to us again")
            return True
        return courtesy != self._told and now_s - self._told_at_s >= NEW_WORDS_EVERY_S


def local_time(unix_s: float) -> LocalTime:
    """On the owner's clock, summer time and all."""
    local = time.localtime(unix_s)
    return LocalTime(weekday=local.tm_wday, minute=local.tm_hour * 60 + local.tm_min)
