"""A look at the PC, the policy's answer, and what the agent hears of it."""

from __future__ import annotations

import asyncio
import time

from chorus_client.activity.seen import Activity
from chorus_client.policy import Condition, Limits, Policy, Reaction
from chorus_client.polite import NEW_WORDS_EVERY_S, Polite, local_time
from chorus_client.working_hours import LocalTime
from chorus_proto.values import ALL_OURS, Courtesy
from tests.support.clock import FakeClock

POLICY = Policy(
    reactions={Condition.CPU: Reaction.LOWER, Condition.OWNER: Reaction.PAUSE, Condition.MEMORY: Reaction.EVICT},
    limits=Limits(settle_s=0, memory_bytes=1000),
)


class Recorder:
    """The agent, and the PC that it runs on."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.seen = Activity()
        self.breaks = False
        self.told: list[Courtesy] = []
        self.freed: list[str] = []
        self.polite = Polite(POLICY, self.look, self.clock, self, every_s=0.001)

    async def look(self) -> Activity:
        if self.breaks:
            raise RuntimeError("a sense broke")
        return self.seen

    def be_polite(self, courtesy: Courtesy) -> None:
        self.told.append(courtesy)

    def free_idle_models(self, reason: str) -> None:
        self.freed.append(reason)

    def look_at(self, seen: Activity, *, after_s: float = 2.0) -> None:
        self.clock.advance(after_s)
        self.seen = seen
        asyncio.run(self.polite.step())


def test_the_agent_hears_of_a_change_at_once_and_only_once() -> None:
    pc = Recorder()
    pc.look_at(Activity())
    assert pc.told == []
    for _ in range(3):
        pc.look_at(Activity(idle_s=1))
    assert pc.told == [Courtesy(paused=True, reason="its owner is at the keyboard")]
    pc.look_at(Activity(idle_s=1000))
    assert pc.told[1:] == [ALL_OURS]


def test_a_reason_whose_numbers_change_is_told_now_and_then() -> None:
    pc = Recorder()
    for percent in range(60, 90):
        pc.look_at(Activity(foreign_cpu_percent=percent), after_s=NEW_WORDS_EVERY_S / 10)
    assert len(pc.told) == 3
    assert [told.slots for told in pc.told] == [1, 1, 1]
    assert pc.told[-1].reason == "other programs use 80 % of the CPU"


def test_a_stronger_reaction_is_told_at_once() -> None:
    pc = Recorder()
    pc.look_at(Activity(foreign_cpu_percent=60))
    pc.look_at(Activity(foreign_cpu_percent=60, idle_s=0), after_s=0.1)
    assert [(told.paused, told.slots) for told in pc.told] == [(False, 1), (True, None)]


def test_models_are_freed_at_each_look_for_as_long_as_it_takes() -> None:
    pc = Recorder()
    for _ in range(3):
        pc.look_at(Activity(ram_available_bytes=10))
    assert len(pc.freed) == 3
    assert len(pc.told) == 1
    pc.look_at(Activity(ram_available_bytes=10_000))
    assert len(pc.freed) == 3


def test_a_look_that_breaks_is_not_the_last_one() -> None:
    pc = Recorder()

    async def scenario() -> None:
        pc.breaks = True
        task = asyncio.create_task(pc.polite.run())
        await asyncio.sleep(0)
        pc.breaks, pc.seen = False, Activity(idle_s=0)
        async with asyncio.timeout(5):
            while not pc.told:
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_hours_are_the_owners_local_time() -> None:
    noon = time.mktime((2026, 3, 4, 12, 34, 0, 0, 0, -1))  # a Wednesday
    assert local_time(noon) == LocalTime(weekday=2, minute=12 * 60 + 34)
