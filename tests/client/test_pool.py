"""The pool loads once, reports everything, and never frees a model under a running generation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.pool import Pool
from chorus_proto.errors import LoadFailed
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ReplicaReport, ReplicaState
from tests.support.clock import FakeClock
from tests.support.fake_engine import FakeEngine
from tests.support.open_gate import open_gate

ECHO = ModelName("echo")
OPTIONS = LoadOptions(slots=2, context_tokens=512)


class Bench:
    """A pool on a fake engine, with every report it made."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.reports: list[ReplicaReport] = []
        self.pool = Pool({EngineKind.SCRIPTED: self.engine}, FakeClock(), self.reports.append, open_gate())

    async def until(self, state: ReplicaState) -> ReplicaReport:
        async with asyncio.timeout(5):
            while not self.reports or self.reports[-1].state is not state:
                await asyncio.sleep(0)
        return self.reports[-1]


def play(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench()
        await bench.pool.inventory()
        await scenario(bench)
        await bench.pool.aclose()

    asyncio.run(run())


def test_a_load_is_reported_from_its_start_to_ready() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        ready = await bench.until(ReplicaState.READY)
        assert [report.state for report in bench.reports[:2]] == [ReplicaState.LOADING, ReplicaState.LOADING]
        assert bench.reports[1].progress == 0.5
        assert (ready.slots, ready.context_tokens, ready.resident_bytes) == (2, 512, 1_000_000)
        assert ready.engine is EngineKind.SCRIPTED

    play(scenario)


def test_two_orders_to_load_load_once() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.gate.clear()
        bench.pool.load(ECHO, OPTIONS)
        bench.pool.load(ECHO, OPTIONS)
        bench.engine.gate.set()
        await bench.until(ReplicaState.READY)
        bench.pool.load(ECHO, OPTIONS)
        assert len(bench.engine.loads) == 1

    play(scenario)


def test_a_failed_load_says_why_and_can_be_tried_again() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.refusal = "no such file"
        bench.pool.load(ECHO, OPTIONS)
        assert "no such file" in (await bench.until(ReplicaState.FAILED)).detail
        bench.engine.refusal = None
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)

    play(scenario)


def test_a_model_that_is_not_here_fails_to_load_naming_it() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ModelName("parrot"), OPTIONS)
        assert "parrot" in (await bench.until(ReplicaState.FAILED)).detail

    play(scenario)


def test_an_unload_waits_for_running_generations() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        with bench.pool.acquire(ECHO):
            bench.pool.unload(ECHO, drain_s=5)
            await bench.until(ReplicaState.UNLOADING)
            with pytest.raises(LoadFailed, match="unloading"):
                bench.pool.acquire(ECHO)
            assert bench.engine.loads[0].unloads == 0
        await bench.until(ReplicaState.GONE)
        assert bench.engine.loads[0].unloads == 1

    play(scenario)


def test_an_unload_does_not_wait_longer_than_its_drain() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        with bench.pool.acquire(ECHO):
            bench.pool.unload(ECHO, drain_s=0.01)
            await bench.until(ReplicaState.GONE)
        assert bench.engine.loads[0].unloads == 1

    play(scenario)


def test_an_engine_that_dies_is_reported_with_its_last_words() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        bench.engine.loads[0].closed.set()
        assert (await bench.until(ReplicaState.FAILED)).detail == "it was switched off"
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)

    play(scenario)


def test_an_engine_that_cannot_tell_its_memory_still_serves() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.blind = True
        bench.pool.load(ECHO, OPTIONS)
        assert (await bench.until(ReplicaState.READY)).resident_bytes is None

    play(scenario)


def test_an_engine_that_cannot_let_go_does_not_hold_up_the_node() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.clings = True
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        bench.pool.unload(ECHO, drain_s=1)
        assert "did not confirm" in (await bench.until(ReplicaState.GONE)).detail
        bench.engine.clings = False
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)

    play(scenario)


def test_a_load_that_failed_for_memory_says_so_by_code() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.too_big = True
        bench.pool.load(ECHO, OPTIONS)
        assert (await bench.until(ReplicaState.FAILED)).failure_code == "insufficient_memory"

    play(scenario)


def test_the_end_of_the_agent_unloads_everything_and_closes_the_engines() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        await bench.pool.aclose()
        assert bench.engine.loads[0].unloads == 1
        assert bench.engine.closed

    play(scenario)
