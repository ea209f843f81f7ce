"""The idle probe, against an engine in the test and against a process that is stopped dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psutil
import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.engines.scripted import SCRIPTED_MODEL, ScriptedEngine
from chorus_client.engines.served_process import ServeLimits
from chorus_client.idle_probe import ProbeLimits, probe_when_idle
from chorus_proto.generation import Generation, PieceBatches
from chorus_proto.values import EngineKind, ModelFile
from tests.client.engine_contract import silent
from tests.support.fake_engine import FakeEngine, FakeLoaded
from tests.support.patience import granted_s

QUICK = ProbeLimits(every_s=0.1, within_s=0.3)


class Counting(FakeLoaded):
    """How often it was asked."""

    asked = 0

    def generate(self, generation: Generation) -> PieceBatches:
        self.asked += 1
        return super().generate(generation)


class Probed:
    """A fake model under the probe. `idle_s` is what the pool would say."""

    def __init__(self, limits: ProbeLimits = QUICK) -> None:
        self.loaded = Counting(LoadOptions(slots=1), FakeEngine())
        self.idle_s = 1000.0
        self.heard: list[str] = []
        self.task = asyncio.create_task(
            probe_when_idle(self.loaded, limits, idle_s=lambda: self.idle_s, on_hung=self.heard.append)
        )

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await scenario()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_an_idle_engine_that_answers_is_tried_again_and_again() -> None:
    async def scenario() -> None:
        probed = Probed()
        while probed.loaded.asked < 3:
            await asyncio.sleep(0.01)
        assert not probed.task.done()
        assert probed.heard == []
        await probed.end()

    play(scenario)


def test_an_idle_engine_that_says_nothing_is_hung() -> None:
    async def scenario() -> None:
        probed = Probed()
        probed.loaded.hold.clear()
        await probed.task
        assert probed.heard == ["idle, it was asked for a token and gave none within 0.3 s"]
        assert probed.loaded.generating == 0

    play(scenario)


def test_an_engine_that_fails_every_token_is_hung_too() -> None:
    async def scenario() -> None:
        probed = Probed()
        probed.loaded.closed.set()
        await probed.task
        assert probed.heard == ["idle, it was asked for a token and failed: the engine is gone"]

    play(scenario)


def test_a_used_engine_is_left_alone() -> None:
    async def scenario() -> None:
        probed = Probed()
        probed.idle_s = 0.0
        probed.loaded.hold.clear()
        await asyncio.sleep(0.5)
        assert probed.loaded.asked == 0
        assert not probed.task.done()
        await probed.end()

    play(scenario)


def test_the_probe_makes_way_when_somebody_asks() -> None:
    async def scenario() -> None:
        probed = Probed(ProbeLimits(every_s=0.1, within_s=10))
        probed.loaded.hold.clear()
        while not probed.loaded.generating:
            await asyncio.sleep(0.01)
        probed.idle_s = 0.0
        async with asyncio.timeout(granted_s(1)):
            while probed.loaded.generating:
                await asyncio.sleep(0.01)
        assert probed.heard == []
        assert not probed.task.done()
        await probed.end()

    play(scenario)


def test_no_probe_when_it_is_switched_off() -> None:
    async def scenario() -> None:
        await Probed(ProbeLimits(every_s=0)).task

    play(scenario)


def test_ending_the_probe_ends_its_generation() -> None:
    async def scenario() -> None:
        probed = Probed()
        probed.loaded.hold.clear()
        while not probed.loaded.generating:
            await asyncio.sleep(0.01)
        await probed.end()
        assert probed.loaded.generating == 0

    play(scenario)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_that_stands_still_while_idle_is_found(stopped: bool) -> None:
    async def scenario() -> None:
        file = ModelFile(name=SCRIPTED_MODEL, file_bytes=0, engine=EngineKind.SCRIPTED)
        limits = ServeLimits(stop_grace_s=0.2)
        loaded = await ScriptedEngine(limits=limits).load(file, LoadOptions(slots=1), silent)
        heard: list[str] = []
        try:
            if stopped:
                psutil.Process(loaded.pid).suspend()
            probing = asyncio.create_task(
                probe_when_idle(
                    loaded, ProbeLimits(every_s=0.05, within_s=0.5), idle_s=lambda: 1000.0, on_hung=heard.append
                )
            )
            await asyncio.wait((probing,), timeout=2)
            assert bool(heard) is stopped
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
        finally:
            await loaded.unload(force=True)

    play(scenario)
