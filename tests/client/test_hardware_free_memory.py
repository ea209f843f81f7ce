"""Drivers that fail, hang and come back, while the agent asks for the free memory of their cards."""

from __future__ import annotations

import asyncio
import threading

import pytest

from chorus_client.hardware import LiveReader, live
from chorus_client.hardware.free_memory import DRIVER_RESTS_S, FreeMemory
from chorus_proto.values import Gpu, Hardware
from tests.support.clock import FakeClock

GIB = 1 << 30
PC = Hardware(
    os="Linux",
    arch="x86_64",
    gpus=(Gpu(name="card", vendor="nvidia", memory_bytes=8 * GIB, memory_free_bytes=7 * GIB),),
)


class Driver:
    """Tells 6 GiB unless it was told to fail or to hang."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = False
        self.goes_on = threading.Event()
        self.goes_on.set()

    def free_bytes(self) -> tuple[int | None, ...]:
        self.asked += 1
        self.goes_on.wait(30)
        if self.fails:
            raise OSError("gone")
        return (6 * GIB,)


def test_a_driver_that_failed_has_rest_and_is_asked_again() -> None:
    driver, clock = Driver(), FakeClock()
    driver.fails = True

    async def check() -> None:
        memory = FreeMemory("nvidia", 1, driver.free_bytes, clock)
        for _ in range(3):
            assert await memory.read(30) == (None,)
        assert driver.asked == 1
        driver.fails = False
        clock.advance(DRIVER_RESTS_S)
        for _ in range(3):
            assert await memory.read(30) == (6 * GIB,)

    asyncio.run(check())


def test_a_driver_that_hangs_holds_one_thread_and_not_one_a_minute() -> None:
    driver, clock = Driver(), FakeClock()
    driver.goes_on.clear()

    async def check() -> None:
        memory = FreeMemory("nvidia", 1, driver.free_bytes, clock)
        for _ in range(3):
            assert await memory.read(0.01) == (None,)
            clock.advance(DRIVER_RESTS_S)
        assert driver.asked == 1
        driver.goes_on.set()
        async with asyncio.timeout(30):
            while await memory.read(30) != (6 * GIB,):
                await asyncio.sleep(0.01)

    asyncio.run(check())


@pytest.mark.parametrize("told", [(), (6 * GIB,), (None, None)])
def test_an_answer_that_says_nothing_of_a_card_is_none(told: tuple[int | None, ...]) -> None:
    clock = FakeClock()
    asked: list[str] = []

    def question() -> tuple[int | None, ...]:
        asked.append("once more")
        return told

    async def check() -> None:
        memory = FreeMemory("nvidia", 2, question, clock)
        assert await memory.read(30) == await memory.read(30) == (None, None)
        assert len(asked) == 1

    asyncio.run(check())


def test_a_card_that_does_not_tell_does_not_silence_the_others() -> None:
    memory = FreeMemory("nvidia", 2, lambda: (None, 6 * GIB), FakeClock())
    assert asyncio.run(memory.read(30)) == (None, 6 * GIB)


def test_a_sleeping_driver_is_woken_with_more_patience_than_a_heartbeat_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_WAKING_S", 60.0)
    driver = Driver()
    driver.goes_on.clear()

    async def check() -> None:
        reader = LiveReader(PC, FakeClock(), drivers={"nvidia": driver.free_bytes})
        waking = asyncio.create_task(reader.wake())
        assert (await reader.read()).gpu_free_bytes == (None,)
        assert not waking.done()
        driver.goes_on.set()
        await waking

    asyncio.run(check())
