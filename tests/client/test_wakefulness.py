"""What follows from a sleep: the link, the old work, the engines' speed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chorus_client.sleep_watch import SleepWatch
from chorus_client.wakefulness import HEARD_WITHIN_S, Wakefulness
from chorus_proto.clock import SystemClock
from tests.support.clock import FakeClock


class Pc:
    """Its clocks, its link and its engines."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.asleep = 0.0
        self.link_lives = True
        self.reopened: list[str] = []
        self.checks = 0
        self.checked = asyncio.Event()
        self.may_check = asyncio.Event()
        self.may_check.set()
        self.check_error: Exception | None = None
        self.wakefulness = Wakefulness(
            SleepWatch(self.clock, lambda: self.asleep), self, SystemClock(), self.check, every_s=0.001
        )

    def heard_since(self, monotonic_s: float) -> bool:
        return self.link_lives

    def reopen(self, reason: str) -> None:
        self.reopened.append(reason)

    async def check(self) -> None:
        self.checks += 1
        await self.may_check.wait()
        self.checked.set()
        if self.check_error is not None:
            raise self.check_error

    async def sleeps(self, seconds: float) -> None:
        self.asleep += seconds
        self.clock.advance(1)
        await self.wakefulness.step()

    async def stands_still(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.wakefulness.step()


def play(scenario: Callable[[Pc], Awaitable[None]]) -> None:
    async def run() -> None:
        pc = Pc()
        task = asyncio.create_task(pc.wakefulness.run())
        try:
            await scenario(pc)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_after_a_sleep_the_link_is_opened_anew_whatever_it_seems_and_the_engines_are_tried() -> None:
    async def scenario(pc: Pc) -> None:
        await pc.sleeps(3600)
        assert pc.reopened == ["this PC stood still for 3600 s"]
        async with asyncio.timeout(5):
            await pc.checked.wait()

    play(scenario)


def test_a_process_that_stood_still_goes_on_when_the_coordinator_still_answers_and_tries_its_engines() -> None:
    async def scenario(pc: Pc) -> None:
        await pc.stands_still(20)
        assert pc.reopened == []
        async with asyncio.timeout(5):
            await pc.checked.wait()

    play(scenario)


def test_a_process_that_stood_still_begins_anew_when_the_coordinator_is_silent() -> None:
    async def scenario(pc: Pc) -> None:
        pc.link_lives = False
        async with asyncio.timeout(HEARD_WITHIN_S + 3):
            await pc.stands_still(20)
        assert pc.reopened == ["this PC stood still for 19 s"]

    play(scenario)


def test_no_gap_no_work() -> None:
    async def scenario(pc: Pc) -> None:
        for _ in range(5):
            await pc.stands_still(1)
        assert (pc.reopened, pc.checks) == ([], 0)

    play(scenario)


def test_a_second_sleep_begins_the_check_anew() -> None:
    async def scenario(pc: Pc) -> None:
        pc.may_check.clear()
        await pc.sleeps(60)
        async with asyncio.timeout(5):
            while not pc.checks:
                await asyncio.sleep(0)
        pc.may_check.set()
        await pc.sleeps(60)
        async with asyncio.timeout(5):
            await pc.checked.wait()
        assert pc.checks == 2
        assert len(pc.reopened) == 2

    play(scenario)


def test_a_check_that_breaks_harms_nobody() -> None:
    async def scenario(pc: Pc) -> None:
        pc.check_error = RuntimeError("broke")
        await pc.sleeps(60)
        async with asyncio.timeout(5):
            await pc.checked.wait()
        pc.checked.clear()
        await pc.sleeps(60)
        async with asyncio.timeout(5):
            await pc.checked.wait()

    play(scenario)
