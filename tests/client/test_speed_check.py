"""After a sleep: engines that kept their speed, lost it for one life, lost it for good, or stopped answering."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from chorus_client.engines.base import LoadedModel, LoadOptions, Report
from chorus_client.pool import Pool, PoolRules
from chorus_client.pooled_model import PooledModel
from chorus_client.restarts import RestartRules
from chorus_client.speed_check import SpeedRules, check_speeds
from chorus_proto.clock import SystemClock
from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Delta, Done, Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile, ReplicaReport, ReplicaState
from tests.support.fake_engine import FakeEngine, FakeLoaded
from tests.support.open_gate import open_gate

ECHO = ModelName("echo")
RULES = SpeedRules(trial_within_s=0.3, quiet_within_s=0.2, drain_within_s=0.2, restart_within_s=5)


class PacedModel(FakeLoaded):
    """Says that it generates at its engine's speed of now; at speed 0 it hangs after the first token."""

    def __init__(self, options: LoadOptions, engine: PacedEngine) -> None:
        super().__init__(options, engine)
        self.paced = engine

    async def generate(self, generation: Generation) -> PieceBatches:
        self.paced.generations += 1
        speed = self.paced.speeds.pop(0) if len(self.paced.speeds) > 1 else self.paced.speeds[0]
        if speed < 0:
            raise EngineFailed("it fell over")
        yield [Delta("one")]
        if speed == 0:
            await asyncio.sleep(60)
        await self.hold.wait()
        end = Done(finish_reason="stop", prompt_tokens=4, completion_tokens=20, decode_tokens_per_s=speed)
        yield [Delta("two"), end]


class PacedEngine(FakeEngine):
    """`speeds` of the generations to come, the last for all that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.speeds: list[float] = [100.0]
        self.generations = 0

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> LoadedModel:
        await self.gate.wait()
        loaded = PacedModel(options, self)
        self.loads.append(loaded)
        return loaded


class Bench:
    def __init__(self) -> None:
        self.engine = PacedEngine()
        self.reports: list[ReplicaReport] = []
        self.when_degraded: Callable[[], None] | None = None
        rules = PoolRules(restarts=RestartRules(first_s=0.01, jitter=(1.0, 1.0)))
        engines = {EngineKind.SCRIPTED: self.engine}
        self.pool = Pool(engines, SystemClock(), self.tell, open_gate(), rules=rules)

    def tell(self, report: ReplicaReport) -> None:
        self.reports.append(report)
        if report.degraded and self.when_degraded is not None:
            come, self.when_degraded = self.when_degraded, None
            come()

    @property
    def one(self) -> PooledModel:
        return self.pool.models()[0]

    async def ready(self, *, adopted: bool = False) -> None:
        await self.pool.inventory()
        self.pool.load(ECHO, LoadOptions(slots=2, context_tokens=64), adopted=adopted)
        async with asyncio.timeout(5):
            while self.one.state is not ReplicaState.READY:
                await asyncio.sleep(0)

    async def answer(self) -> None:
        with self.pool.acquire(ECHO) as hold:
            async with aclosing(hold.generate(Generation(prompt="hello"))) as pieces:
                async for _ in pieces:
                    pass

    async def check(self, *speeds: float) -> None:
        """With these speeds from now on."""
        self.engine.speeds = list(speeds)
        async with asyncio.timeout(10):
            await check_speeds(self.pool, SystemClock(), RULES)

    @property
    def flags(self) -> list[bool]:
        """Whether it was called degraded, each change once."""
        flags = [report.degraded for report in self.reports]
        return [flag for number, flag in enumerate(flags) if number == 0 or flag is not flags[number - 1]]


def play(scenario: Callable[[Bench], Awaitable[None]], *, adopted: bool = False) -> None:
    async def run() -> None:
        bench = Bench()
        await bench.ready(adopted=adopted)
        await bench.answer()
        try:
            await scenario(bench)
        finally:
            await bench.pool.aclose()

    asyncio.run(run())


def test_an_engine_as_fast_as_before_is_left_alone() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.check(60.0)
        assert len(bench.engine.loads) == 1
        assert bench.flags == [False]

    play(scenario)


def test_one_slow_trial_may_be_the_pcs_other_work() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.check(10.0, 90.0)
        assert len(bench.engine.loads) == 1
        assert bench.flags == [False]

    play(scenario)


def test_a_slow_engine_is_told_started_again_and_good_again_when_that_helped() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.check(10.0, 10.0, 95.0)
        assert len(bench.engine.loads) == 2
        assert bench.flags == [False, True, False]
        slow = next(report for report in bench.reports if report.degraded)
        assert slow.decode_tokens_per_s == 10.0
        assert slow.detail == "degraded: 10.0 tokens/s, 100.0 before"
        assert bench.one.report.decode_tokens_per_s is None

    play(scenario)


def test_an_engine_that_stays_slow_is_called_degraded_until_it_is_seen_to_be_fast() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.check(10.0)
        assert len(bench.engine.loads) == 2, "it was started again once, not again and again"
        assert bench.one.report.degraded
        assert bench.one.state is ReplicaState.READY, "slow answers are better than none"
        await bench.answer()
        assert bench.one.report.degraded
        assert bench.one.speed.tokens_per_s == 100.0, "the record is not spoilt by what is known to be slow"
        bench.engine.speeds = [80.0]
        await bench.answer()
        assert not bench.one.report.degraded

    play(scenario)


def test_an_engine_that_hangs_in_its_trial_is_started_again() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.check(0.0, 0.0, 100.0)
        assert len(bench.engine.loads) == 2
        assert not bench.one.report.degraded

    play(scenario)


def test_a_model_in_use_or_without_a_record_is_not_judged() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.pool.acquire(ECHO):
            await bench.check(10.0)
        assert len(bench.engine.loads) == 1
        bench.one.speed.tokens_per_s = None
        await bench.check(10.0)
        assert bench.engine.generations == 1, "nothing was tried"

    play(scenario)


def test_a_failing_trial_is_for_others_to_look_after() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.check(-1.0)
        assert len(bench.engine.loads) == 1
        assert bench.flags == [False]

    play(scenario)


def test_somebody_elses_server_is_neither_tried_nor_restarted() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.check(10.0)
        assert (bench.engine.generations, len(bench.engine.loads)) == (1, 1)

    play(scenario, adopted=True)


def test_an_answer_that_began_before_the_restart_may_finish() -> None:
    async def scenario(bench: Bench) -> None:
        loaded = bench.engine.loads[0]
        unloads_at_its_end: list[int] = []

        def somebody() -> None:
            hold = bench.pool.acquire(ECHO)
            hold.__enter__()

            def end() -> None:
                unloads_at_its_end.append(loaded.unloads)
                hold.__exit__()

            asyncio.get_running_loop().call_later(RULES.drain_within_s / 4, end)

        bench.when_degraded = somebody
        await bench.check(10.0)
        assert unloads_at_its_end == [0]
        assert len(bench.engine.loads) == 2

    play(scenario)


def test_only_answers_that_ran_alone_and_long_enough_make_the_record() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.speeds = [10.0]
        loaded = bench.engine.loads[0]
        loaded.hold.clear()
        both = [asyncio.create_task(bench.answer()) for _ in range(2)]
        async with asyncio.timeout(5):
            while bench.one.running < 2:
                await asyncio.sleep(0)
        loaded.hold.set()
        await asyncio.gather(*both)
        assert bench.one.speed.tokens_per_s == 100.0

    play(scenario)
