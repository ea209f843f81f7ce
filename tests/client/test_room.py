"""Memory for a load: who gives way, who waits, and that nobody is starved. The PC and its engines are emulated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from chorus_client.engines.base import Ending, LoadOptions
from chorus_client.ledger import RAM
from chorus_client.model_options import ModelOptions
from chorus_client.pool import Pool, PoolRules
from chorus_client.restarts import RestartRules
from chorus_client.watchdog import WatchLimits
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ReplicaReport, ReplicaState
from tests.support.clock import FakeClock
from tests.support.emulated_pc import EmulatedPc
from tests.support.patience import granted_s

OPTIONS = LoadOptions(slots=1, context_tokens=4096)
A, B, SMALL = ModelName("a"), ModelName("b"), ModelName("small")
LIKES = {"a": "llama3.1:8b", "b": "qwen3:8b", "small": "gemma3:1b"}
"""A and B take about 6 GB each, small about 1 GB."""


class Bench:
    def __init__(
        self,
        folder: Path,
        total_gb: float,
        *,
        own: dict[ModelName, ModelOptions] | None = None,
        card: bool = False,
    ) -> None:
        self.pc = EmulatedPc(int(total_gb * 1e9), LIKES, card=card)
        self.clock = FakeClock()
        self.reports: list[ReplicaReport] = []
        # The clock leaps in these tests; that is no silence of an engine.
        patient = WatchLimits(first_s=1e6, first_cap_s=1e6, between_s=1e6, between_cap_s=1e6)
        rules = PoolRules(
            watch=patient, room_within_s=1.0, swap_after_s=10.0, restarts=RestartRules(first_s=0.01, jitter=(1.0, 1.0))
        )
        self.gate = self.pc.gate(folder)
        self.pool = Pool(
            {EngineKind.LLAMA_SERVER: self.pc},
            self.clock,
            self.reports.append,
            self.gate,
            rules=rules,
            options=own,
        )

    def outstanding_bytes(self) -> int:
        """Promised to loads that have not taken it."""
        return self.gate.outstanding_bytes(RAM)

    def latest(self, model: ModelName) -> ReplicaReport | None:
        return next((report for report in reversed(self.reports) if report.model == model), None)

    async def until(self, model: ModelName, state: ReplicaState) -> ReplicaReport:
        async with asyncio.timeout(granted_s(8)):
            while (latest := self.latest(model)) is None or latest.state is not state:
                await asyncio.sleep(0.001)
        return latest

    async def ready(self, model: ModelName) -> ReplicaReport:
        self.pool.load(model, OPTIONS)
        return await self.until(model, ReplicaState.READY)

    async def use(self, model: ModelName) -> None:
        with self.pool.acquire(model) as loaded:
            async for _ in loaded.generate(Generation(prompt="x")):
                pass


def play(folder: Path, total_gb: float, scenario: Callable[[Bench], Awaitable[None]], **more: object) -> None:
    async def run() -> None:
        bench = Bench(folder, total_gb, **more)  # pyright: ignore[reportArgumentType]  # the constructor's own options
        await bench.pool.inventory()
        await scenario(bench)
        await bench.pool.aclose()
        assert bench.pc.kills == 0
        assert bench.pc.used_bytes == 0, "nothing is left behind"
        assert bench.outstanding_bytes() == 0, "no promise is left behind"

    asyncio.run(run())


def test_models_that_fit_together_stay_warm_together(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.ready(A)
        await bench.ready(SMALL)
        assert {report.state for report in bench.pool.reports()} == {ReplicaState.READY}

    play(tmp_path, 9, scenario)


def test_an_idle_model_gives_way_to_one_that_is_wanted(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.ready(A)
        await bench.use(A)
        ready = await bench.ready(B)
        assert "fits" in ready.arithmetic or "needs" in ready.arithmetic
        gone = await bench.until(A, ReplicaState.GONE)
        assert gone.evicted_for == B

    play(tmp_path, 9, scenario)


def test_a_model_on_a_card_gives_way_too_since_its_report_says_what_it_takes_there(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        for model, other in ((A, B), (B, A), (A, B)):
            await bench.ready(model)
            async with asyncio.timeout(granted_s(8)):
                while (report := bench.latest(model)) is not None and report.resident_bytes is None:
                    await asyncio.sleep(0.001)
            assert report is not None
            assert report.resident_bytes == bench.pc.latest[model].size_bytes
            await bench.use(model)
            gone = bench.latest(other)
            assert gone is None or gone.state is ReplicaState.GONE

    play(tmp_path, 8, scenario, card=True)


def test_a_model_that_was_just_loaded_is_not_taken_before_its_first_use(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.ready(A)
        bench.pool.load(B, OPTIONS)
        await asyncio.sleep(0.1)
        assert bench.latest(A) is not None
        assert bench.pool.reports()[0].state is ReplicaState.READY
        await bench.use(A)
        await bench.until(B, ReplicaState.READY)

    play(tmp_path, 9, scenario)


def test_a_busy_model_is_never_cut_and_gives_way_once_its_generations_have_ended(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.ready(A)
        bench.pc.latest[A].hold.clear()
        using = asyncio.create_task(bench.use(A))
        await asyncio.sleep(0)
        bench.clock.advance(20)
        bench.pool.load(B, OPTIONS)
        await bench.until(A, ReplicaState.UNLOADING)
        await asyncio.sleep(0.05)
        assert not using.done(), "the running generation stays"
        bench.pc.latest[A].hold.set()
        await using
        await bench.until(B, ReplicaState.READY)

    play(tmp_path, 9, scenario)


def test_two_callers_who_want_two_models_that_do_not_fit_together_are_both_served(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(A, OPTIONS)
        bench.pool.load(B, OPTIONS)

        async def caller(model: ModelName) -> None:
            await bench.until(model, ReplicaState.READY)
            await bench.use(model)

        await asyncio.gather(caller(A), caller(B))
        assert bench.pc.loads == [A, B], "each was loaded once"

    play(tmp_path, 9, scenario)


def test_a_model_larger_than_the_pc_is_refused_at_once_with_the_arithmetic(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(A, OPTIONS)
        failed = await bench.until(A, ReplicaState.FAILED)
        assert failed.failure_code == "insufficient_memory"
        assert "needs" in failed.detail
        assert not bench.pc.loads, "no engine was started"

    play(tmp_path, 3, scenario)


def test_a_load_that_waits_for_a_model_in_use_gives_up_in_time_and_says_for_whom_it_waited(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.ready(A)
        bench.pc.latest[A].hold.clear()
        using = asyncio.create_task(bench.use(A))
        await asyncio.sleep(0)
        bench.clock.advance(20)
        bench.pool.load(B, OPTIONS)
        failed = await bench.until(B, ReplicaState.FAILED)
        assert "did not end within 1 s" in failed.detail
        await bench.until(A, ReplicaState.READY)
        bench.pc.latest[A].hold.set()
        await using

    play(tmp_path, 9, scenario)


def test_a_pinned_model_is_never_evicted(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.ready(A)
        await bench.use(A)
        bench.pool.load(B, OPTIONS)
        await bench.until(B, ReplicaState.FAILED)
        assert bench.latest(A).state is ReplicaState.READY  # pyright: ignore[reportOptionalMemberAccess]  # it is loaded

    play(tmp_path, 9, scenario, own={A: ModelOptions(pin=True)})


def test_an_engine_that_runs_out_of_memory_goes_on_with_half_the_slots(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(SMALL, LoadOptions(slots=4, context_tokens=4096))
        await bench.until(SMALL, ReplicaState.READY)
        bench.pc.latest[SMALL].end(Ending(reason="the system killed it", for_memory=True))
        await bench.until(SMALL, ReplicaState.LOADING)
        assert (await bench.until(SMALL, ReplicaState.READY)).slots == 2

    play(tmp_path, 9, scenario)


def test_other_programs_memory_counts(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pc.others_bytes = 8_000_000_000
        bench.pool.load(A, OPTIONS)
        assert "other programs 8.0 GB" in (await bench.until(A, ReplicaState.FAILED)).detail

    play(tmp_path, 9, scenario)


def test_ten_thousand_random_orders_kill_nobody_and_use_the_memory(tmp_path: Path) -> None:
    # bench/pool_orders.py runs the same with more seeds and prints how full the memory was.
    from bench.pool_orders import play_orders

    outcome = asyncio.run(play_orders(tmp_path, orders=10_000, seed=1))
    assert outcome.kills == 0
    assert outcome.fullest_share >= 0.92
    assert outcome.served > 1000


def test_an_engine_that_hangs_while_its_memory_is_waited_for_is_ended_all_the_same(tmp_path: Path) -> None:
    for steps in range(12):

        async def scenario(bench: Bench, steps: int = steps) -> None:
            await bench.ready(A)
            with bench.pool.acquire(A):
                bench.clock.advance(20)
                bench.pool.load(B, OPTIONS)
                await bench.until(A, ReplicaState.UNLOADING)
                bench.pool.hung(A, "silent for 60 s")
                # The generation that hung ends a little later.
                for _ in range(steps):
                    await asyncio.sleep(0)
            await bench.until(B, ReplicaState.READY)
            assert bench.pc.latest[A].forced or not bench.pc.latest[A].size_bytes
            await bench.use(B)
            await bench.ready(A)

        play(tmp_path / str(steps), 9, scenario)


def test_an_engine_that_crashes_while_its_memory_is_waited_for_leaves_the_books_right(tmp_path: Path) -> None:
    for steps in range(12):

        async def scenario(bench: Bench, steps: int = steps) -> None:
            await bench.ready(A)
            await asyncio.sleep(0.01)  # it is measured
            with bench.pool.acquire(A):
                bench.clock.advance(20)
                bench.pool.load(B, OPTIONS)
                await bench.until(A, ReplicaState.UNLOADING)
                bench.pc.latest[A].end(Ending(reason="killed"))
                for _ in range(steps):
                    await asyncio.sleep(0)
            await bench.until(B, ReplicaState.READY)
            await bench.use(B)
            await bench.ready(A)

        play(tmp_path / str(steps), 9, scenario)


def test_loads_that_hold_no_memory_yet_are_no_reason_to_wait(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pc.others_bytes = 8_000_000_000
        bench.pc.reading_steps = 1
        bench.pool.load(A, OPTIONS)
        bench.pool.load(B, OPTIONS)
        for model in (A, B):
            assert "did not end" not in (await bench.until(model, ReplicaState.FAILED)).detail

    play(tmp_path, 9, scenario)


def test_a_model_that_somebody_began_to_use_while_memory_was_weighed_is_not_cut(tmp_path: Path) -> None:
    for steps in range(12):

        async def scenario(bench: Bench, steps: int = steps) -> None:
            await bench.ready(A)
            await bench.use(A)
            bench.pc.reading_steps = 2
            bench.pool.load(B, OPTIONS)
            for _ in range(steps):
                await asyncio.sleep(0)
            if bench.pool.reports()[0].state is ReplicaState.READY:
                with bench.pool.acquire(A):
                    await asyncio.sleep(0.02)
                    assert bench.pc.latest[A].size_bytes, "it is not cut"
            await bench.until(B, ReplicaState.READY)

        play(tmp_path / str(steps), 9, scenario)


def test_a_load_that_is_given_up_at_any_moment_leaves_no_promise_and_no_model_half_unloaded(tmp_path: Path) -> None:
    for moment in range(30):

        async def scenario(bench: Bench, moment: int = moment) -> None:
            await bench.ready(A)
            bench.clock.advance(20)
            bench.pc.reading_steps = 1
            bench.pc.latest[A].hold.clear()
            using = asyncio.create_task(bench.use(A))
            await asyncio.sleep(0)
            bench.pool.load(B, OPTIONS)
            for step in range(moment):
                if step == 12:
                    bench.pc.latest[A].hold.set()
                await asyncio.sleep(0)
            bench.pool.unload(B, drain_s=0)
            await bench.until(B, ReplicaState.GONE)
            bench.pc.latest[A].hold.set()
            await using
            await asyncio.sleep(0.01)
            assert all(report.state is ReplicaState.READY for report in bench.pool.reports()), moment
            assert bench.outstanding_bytes() == 0

        play(tmp_path / str(moment), 9, scenario)


def test_memory_that_came_free_for_a_moment_leaves_no_promise(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pc.others_bytes = 5_000_000_000
        await bench.ready(A)
        await asyncio.sleep(0.01)  # it is measured
        bench.pc.latest[A].hold.clear()
        using = asyncio.create_task(bench.use(A))
        await asyncio.sleep(0)
        # Another program ends just when it is asked whether waiting would help, and starts again.
        wavers = iter([5_000_000_000] * 4 + [0] * 2)
        bench.pc.wavers = lambda: next(wavers, 5_000_000_000)
        bench.pool.load(B, OPTIONS)
        await bench.until(B, ReplicaState.FAILED)
        assert bench.outstanding_bytes() == 0
        bench.pc.latest[A].hold.set()
        await using

    play(tmp_path, 14, scenario)


def test_a_preloaded_model_is_weighed_with_the_context_that_its_engine_will_take(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.preload()
        ready = await bench.until(A, ReplicaState.READY)
        assert ready.predicted_bytes == bench.pc.true_bytes(A, LoadOptions(slots=4, context_tokens=4096))
        assert (ready.slots, ready.context_tokens) == (4, 4096)

    play(tmp_path, 9, scenario, own={A: ModelOptions(preload=True)})
