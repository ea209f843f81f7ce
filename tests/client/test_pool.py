"""The pool loads once, reports everything, and never frees a model under a running generation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.footprint import Resident
from chorus_client.model_options import ModelOptions
from chorus_client.pool import Pool, PoolRules
from chorus_client.restarts import RestartRules
from chorus_client.watchdog import WatchLimits
from chorus_proto.clock import Clock, SystemClock
from chorus_proto.errors import EngineFailed, LoadFailed
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ReplicaReport, ReplicaState
from tests.support.clock import FakeClock
from tests.support.fake_engine import FakeEngine, FakeLoaded
from tests.support.open_gate import open_gate
from tests.support.patience import granted_s

ECHO = ModelName("echo")
OPTIONS = LoadOptions(slots=2, context_tokens=512)


class Bench:
    """A pool on a fake engine, with every report it made."""

    def __init__(self, clock: Clock, watch: WatchLimits) -> None:
        self.engine = FakeEngine()
        self.reports: list[ReplicaReport] = []
        quick = RestartRules(first_s=0.01, jitter=(1.0, 1.0))
        self.pool = Pool(
            {EngineKind.SCRIPTED: self.engine},
            clock,
            self.reports.append,
            open_gate(),
            rules=PoolRules(look_every_s=0.01, restarts=quick, watch=watch),
        )

    async def until_not(self, state: ReplicaState) -> None:
        async with asyncio.timeout(granted_s(5)):
            while self.reports[-1].state is state:
                await asyncio.sleep(0)

    async def until(self, state: ReplicaState) -> ReplicaReport:
        async with asyncio.timeout(granted_s(5)):
            while not self.reports or self.reports[-1].state is not state:
                await asyncio.sleep(0)
        return self.reports[-1]


def play(
    scenario: Callable[[Bench], Awaitable[None]], *, clock: Clock | None = None, watch: WatchLimits | None = None
) -> None:
    async def run() -> None:
        bench = Bench(clock or FakeClock(), watch or WatchLimits())
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
        assert (ready.slots, ready.context_tokens) == (2, 512)
        assert ready.engine is EngineKind.SCRIPTED
        async with asyncio.timeout(granted_s(5)):
            while bench.reports[-1].resident_bytes is None:
                await asyncio.sleep(0)
        assert bench.reports[-1].resident_bytes == 1_000_000

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


def test_an_engine_that_dies_is_started_again_and_its_last_words_are_told() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        bench.engine.loads[0].closed.set()
        down = await bench.until(ReplicaState.LOADING)
        assert down.detail.startswith("it was switched off; starts again in")
        assert down.restarts == 1
        with pytest.raises(LoadFailed, match="loading"):
            bench.pool.acquire(ECHO)
        await bench.until(ReplicaState.READY)
        assert len(bench.engine.loads) == 2
        assert bench.engine.loads[0].forced

    play(scenario)


def test_an_engine_that_hangs_is_ended_by_force_and_started_again() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        bench.engine.loads[0].hold.clear()
        with pytest.raises(EngineFailed, match="no first token"), bench.pool.acquire(ECHO) as hold:
            async for _ in hold.generate(Generation(prompt="one two")):
                pass
        assert "hangs: no first token" in (await bench.until(ReplicaState.LOADING)).detail
        await bench.until(ReplicaState.READY)
        assert bench.engine.loads[0].forced

    play(scenario, clock=SystemClock(), watch=WatchLimits(first_s=0.05, slowness=0.0))


def test_the_fifth_crash_is_a_crash_loop_which_a_person_can_end() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        for _ in range(5):
            await bench.until(ReplicaState.READY)
            bench.engine.loads[-1].closed.set()
            await bench.until_not(ReplicaState.READY)
        failed = await bench.until(ReplicaState.FAILED)
        assert failed.failure_code == "crash_loop"
        assert "switched off" in failed.detail
        bench.pool.load(ECHO, OPTIONS)
        await asyncio.sleep(0.05)
        assert len(bench.engine.loads) == 5, "an order without a person behind it changes nothing"
        bench.pool.load(ECHO, OPTIONS, retry=True)
        await bench.until(ReplicaState.READY)

    play(scenario)


def test_a_model_that_never_comes_up_is_the_coordinators_to_try_again_until_it_is_a_crash_loop() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.refusal = "its flags are wrong"
        codes: list[str] = []
        for _ in range(6):
            bench.reports.clear()
            bench.pool.load(ECHO, OPTIONS)
            if codes and codes[-1] == "crash_loop":
                break
            codes.append((await bench.until(ReplicaState.FAILED)).failure_code)
        assert codes == ["load_failed"] * 4 + ["crash_loop"]

    play(scenario)


def test_a_server_of_the_owners_is_not_started_again() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS, adopted=True)
        assert (await bench.until(ReplicaState.READY)).kept
        bench.engine.loads[0].closed.set()
        assert (await bench.until(ReplicaState.FAILED)).detail == "it was switched off"
        bench.pool.load(ECHO, OPTIONS, adopted=True)
        await bench.until(ReplicaState.READY)

    play(scenario)


def test_a_model_that_nobody_uses_is_freed_after_its_time_to_live() -> None:
    clock = FakeClock()

    async def scenario(bench: Bench) -> None:
        running = asyncio.create_task(bench.pool.run())
        bench.pool.load(ECHO, OPTIONS, keep_alive_s=60)
        assert (await bench.until(ReplicaState.READY)).keep_alive_s == 60
        with bench.pool.acquire(ECHO):
            clock.advance(100)
            await asyncio.sleep(0.05)
            assert bench.reports[-1].state is ReplicaState.READY, "a model in use stays"
        clock.advance(59)
        await asyncio.sleep(0.05)
        assert bench.reports[-1].state is ReplicaState.READY, "its time runs from the last use"
        clock.advance(2)
        assert "not used" in (await bench.until(ReplicaState.GONE)).detail
        running.cancel()

    play(scenario, clock=clock)


def test_a_model_that_is_wanted_for_good_loses_its_time_to_live() -> None:
    clock = FakeClock()

    async def scenario(bench: Bench) -> None:
        running = asyncio.create_task(bench.pool.run())
        bench.pool.load(ECHO, OPTIONS, keep_alive_s=60)
        await bench.until(ReplicaState.READY)
        bench.pool.load(ECHO, OPTIONS)
        assert bench.reports[-1].keep_alive_s is None
        clock.advance(1000)
        await asyncio.sleep(0.05)
        assert bench.reports[-1].state is ReplicaState.READY
        running.cancel()

    play(scenario, clock=clock)


def test_an_unload_gives_up_a_load_on_its_way() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.gate.clear()
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.LOADING)
        bench.pool.unload(ECHO, drain_s=5)
        await bench.until(ReplicaState.GONE)
        bench.engine.gate.set()
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        assert len(bench.engine.loads) == 1

    play(scenario)


def test_what_the_owner_set_wins_and_is_loaded_from_the_start() -> None:
    async def scenario(bench: Bench) -> None:
        own = {ECHO: ModelOptions(slots=3, context_tokens=256, preload=True, keep_alive_s=5.0)}
        pool = Pool({EngineKind.SCRIPTED: bench.engine}, FakeClock(), bench.reports.append, open_gate(), options=own)
        await pool.inventory()
        pool.preload()
        ready = await bench.until(ReplicaState.READY)
        assert (ready.slots, ready.context_tokens, ready.kept) == (3, 256, True)
        pool.load(ECHO, OPTIONS)
        assert bench.reports[-1].slots == 3
        await pool.aclose()

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


def test_a_measurement_that_takes_long_ends_with_its_model_and_tells_nothing_of_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(bench: Bench) -> None:
        slow = asyncio.Event()
        monkeypatch.setattr(FakeLoaded, "resident", _after(slow, Resident(total_bytes=7_000_000)))
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        await asyncio.sleep(0.01)  # the measurement has begun
        monkeypatch.setattr(FakeLoaded, "resident", _after(None, None))
        with bench.pool.acquire(ECHO):
            pass  # the first use is measured too, while the measurement of the load still runs
        bench.pool.unload(ECHO, drain_s=1)
        await bench.until(ReplicaState.GONE)
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        slow.set()
        await asyncio.sleep(0.05)
        assert [report.state for report in bench.pool.reports()] == [ReplicaState.READY], "the pool knows its model"
        assert bench.reports[-1].state is ReplicaState.READY
        assert all(report.resident_bytes is None for report in bench.reports)

    play(scenario)


def _after(
    event: asyncio.Event | None, resident: Resident | None
) -> Callable[[FakeLoaded], Awaitable[Resident | None]]:
    async def measured(_: FakeLoaded) -> Resident | None:
        if event is not None:
            await event.wait()
        return resident

    return measured


def test_a_model_that_comes_up_while_the_agent_stops_takes_nothing_new() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.gate.clear()
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.LOADING)
        bench.pool.close_doors()
        bench.engine.gate.set()
        assert (await bench.until(ReplicaState.UNLOADING)).detail == "its agent stops"
        with pytest.raises(LoadFailed, match="unloading"):
            bench.pool.acquire(ECHO)

    play(scenario)


def test_an_engine_that_died_holds_no_memory_until_it_is_back() -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(ECHO, OPTIONS)
        await bench.until(ReplicaState.READY)
        async with asyncio.timeout(granted_s(5)):
            while bench.reports[-1].resident_bytes is None:
                await asyncio.sleep(0)
        bench.engine.loads[0].closed.set()
        assert (await bench.until(ReplicaState.LOADING)).resident_bytes is None

    play(scenario)


def test_an_owner_gets_the_memory_of_what_nobody_uses_but_for_what_he_keeps_loaded() -> None:
    async def run() -> None:
        engine = FakeEngine("idle", "busy", "pinned", "adopted")
        options = {ModelName("pinned"): ModelOptions(pin=True)}
        reports: list[ReplicaReport] = []
        pool = Pool({EngineKind.SCRIPTED: engine}, FakeClock(), reports.append, open_gate(), options=options)
        await pool.inventory()
        for name in engine.names:
            pool.load(ModelName(name), OPTIONS, adopted=name == "adopted")
        async with asyncio.timeout(granted_s(5)):
            while any(one.state is not ReplicaState.READY for one in pool.models()):
                await asyncio.sleep(0)
            with pool.acquire(ModelName("busy")):
                pool.free_idle("he plays")
                while len(pool.models()) > 3:
                    await asyncio.sleep(0)
                assert {one.model for one in pool.models()} == {"busy", "pinned", "adopted"}
            pool.free_idle("he plays")
            while len(pool.models()) > 2:
                await asyncio.sleep(0)
        leaving = {report.model: report.detail for report in reports if report.state is ReplicaState.UNLOADING}
        assert leaving == dict.fromkeys(("idle", "busy"), "makes way for the PC's owner: he plays")
        await pool.aclose()

    asyncio.run(run())
