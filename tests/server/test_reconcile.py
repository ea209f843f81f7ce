"""Orders that follow from what nodes should hold and do hold."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from chorus_proto import node_pb2
from chorus_proto.backoff import LAST_S
from chorus_proto.errors import ErrorCode
from chorus_proto.ids import ModelName
from chorus_proto.values import Courtesy, ReplicaReport, ReplicaState
from chorus_server.link import AgentLink
from chorus_server.loads import Loads
from chorus_server.node_record import NodeRecord
from chorus_server.reconcile import Reconciler
from chorus_server.registry import Registry
from tests.support.clock import FakeClock
from tests.support.fake_node import hello_of

TINY, BIG = ModelName("tiny"), ModelName("big")


class Bench:
    """A registry with one node, and the orders sent to it so far."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.registry = Registry(self.clock, suspect_after_s=3, dead_after_s=10)
        self.loads = Loads(self.clock, slots=4, context_tokens=2048)
        self.reconciler = Reconciler(self.registry, self.loads, unload_within_s=30)
        hello = hello_of("attic", models=("tiny", "big"))
        self.link = AgentLink(hello.node_id, "attic", self.clock, window_bytes=1000)
        self.record: NodeRecord = self.registry.admit(hello, "10.0.0.1:5", self.link)

    def report(
        self,
        model: ModelName,
        state: ReplicaState,
        *,
        keep_alive_s: float | None = None,
        evicted_for: ModelName | None = None,
        code: str = "",
    ) -> float | None:
        """Returns the pause after a failure."""
        replica = self.record.replicas.get(model)
        before = None if replica is None else replica.report.state
        report = ReplicaReport(
            model=model, state=state, keep_alive_s=keep_alive_s, evicted_for=evicted_for, failure_code=code
        )
        self.registry.report(self.record, report)
        return self.loads.reported(self.record, report, before)

    def warm(self, model: ModelName, state: ReplicaState = ReplicaState.READY) -> None:
        self.report(model, state, keep_alive_s=300)

    def ordered(self) -> list[str]:
        """Step, and return what was ordered since the last look, as `load tiny`."""
        self.reconciler.step()

        async def look() -> list[str]:
            self.link.outbox.put(node_pb2.CoordinatorFrame())
            orders: list[str] = []
            async for batch in self.link.outbox.batches():
                for frame in batch:
                    kind = frame.WhichOneof("kind")
                    if kind is None:
                        return orders
                    orders.append(f"{kind} {frame.load.model if kind == 'load' else frame.unload.model}")
                    if frame.load.HasField("keep_alive_s"):
                        orders[-1] += f" for {frame.load.keep_alive_s:g} s"
                    if frame.load.retry:
                        orders[-1] += " again"
            raise AssertionError("the outbox closed")

        return asyncio.run(look())


def test_an_assigned_model_is_loaded_once() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    assert bench.ordered() == ["load tiny"]
    assert bench.ordered() == []
    bench.report(TINY, ReplicaState.LOADING)
    assert bench.ordered() == []
    bench.report(TINY, ReplicaState.READY)
    assert bench.ordered() == []


def test_the_old_model_leaves_before_the_new_one_comes() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    bench.report(TINY, ReplicaState.READY)
    bench.record.assigned = BIG
    assert bench.ordered() == ["unload tiny"]
    bench.report(TINY, ReplicaState.UNLOADING)
    assert bench.ordered() == []
    bench.report(TINY, ReplicaState.GONE)
    assert bench.ordered() == ["load big"]


def test_a_failed_load_is_ordered_again_after_a_pause_that_grows_to_its_cap() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    assert bench.ordered() == ["load tiny"]
    pauses: list[float] = []
    for _ in range(10):
        pause_s = bench.report(TINY, ReplicaState.FAILED)
        assert pause_s is not None
        pauses.append(pause_s)
        assert bench.ordered() == []
        bench.clock.advance(pauses[-1] + 0.01)
        assert bench.ordered() == ["load tiny"]
    assert 0.5 <= pauses[0] <= 1.5
    assert LAST_S * 0.5 <= pauses[-1] <= LAST_S * 1.5


def test_a_crash_after_a_good_load_is_loaded_again() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    assert bench.ordered() == ["load tiny"]
    bench.report(TINY, ReplicaState.READY)
    assert bench.ordered() == []
    pause_s = bench.report(TINY, ReplicaState.FAILED)
    assert pause_s is not None
    bench.clock.advance(pause_s + 0.01)
    assert bench.ordered() == ["load tiny"]


def test_a_node_without_a_link_gets_no_orders_and_a_new_link_gets_them_anew() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    assert bench.ordered() == ["load tiny"]
    bench.loads.link_is_new(bench.record)
    assert bench.ordered() == ["load tiny"]
    bench.record.link = None
    bench.loads.link_is_new(bench.record)
    assert bench.ordered() == []


def test_what_the_owner_of_the_pc_keeps_loaded_is_left_alone() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    bench.registry.report(bench.record, ReplicaReport(model=BIG, state=ReplicaState.READY, kept=True))
    assert bench.ordered() == ["load tiny"]
    bench.report(TINY, ReplicaState.READY)
    assert bench.ordered() == []


def test_a_warm_copy_is_left_to_its_agent_and_does_not_hold_up_the_assigned_model() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    bench.warm(BIG)
    assert bench.ordered() == ["load tiny"]
    bench.report(TINY, ReplicaState.READY)
    assert bench.ordered() == []


def test_a_warm_copy_that_is_assigned_is_told_once_to_stay_and_goes_when_it_no_longer_is() -> None:
    bench = Bench()
    bench.warm(TINY)
    assert bench.ordered() == []
    bench.record.assigned = TINY
    assert bench.ordered() == ["load tiny"]
    assert bench.ordered() == []
    bench.report(TINY, ReplicaState.READY)
    assert bench.ordered() == []
    bench.record.assigned = None
    assert bench.ordered() == ["unload tiny"]


def test_an_assigned_model_that_had_to_go_for_a_warm_copy_comes_back_after_it() -> None:
    for last in (ReplicaState.GONE, ReplicaState.FAILED):
        bench = Bench()
        bench.record.assigned = TINY
        bench.report(TINY, ReplicaState.READY)
        bench.warm(BIG, ReplicaState.LOADING)
        bench.report(TINY, ReplicaState.UNLOADING)
        bench.report(TINY, ReplicaState.GONE, evicted_for=BIG)
        for state in (ReplicaState.LOADING, ReplicaState.READY, ReplicaState.UNLOADING):
            bench.warm(BIG, state)
            assert bench.ordered() == []
        bench.warm(BIG, last)
        assert bench.ordered() == ["load tiny"], last


def test_an_assigned_model_that_its_owner_has_freed_when_unused_is_loaded_again_for_callers_only() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    assert bench.ordered() == ["load tiny"]
    bench.warm(TINY)
    assert bench.ordered() == ["load tiny"], "told to stay; its owner knows better"
    bench.warm(TINY)
    assert bench.ordered() == []
    bench.report(TINY, ReplicaState.GONE)
    assert bench.ordered() == []
    assert bench.record.waits_for_callers(TINY)
    bench.warm(TINY, ReplicaState.LOADING)
    assert not bench.record.waits_for_callers(TINY)


def test_an_assigned_model_that_left_for_another_reason_is_loaded_at_once() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    bench.report(TINY, ReplicaState.READY)
    bench.warm(BIG)
    bench.report(TINY, ReplicaState.GONE)
    assert bench.ordered() == ["load tiny"]


def test_who_displaces_a_displacer_holds_back_what_that_one_held_back() -> None:
    bench = Bench()
    other = ModelName("other")
    bench.record.assigned = TINY
    bench.report(TINY, ReplicaState.READY)
    bench.warm(BIG)
    bench.report(TINY, ReplicaState.GONE, evicted_for=BIG)
    bench.warm(other, ReplicaState.LOADING)
    bench.report(BIG, ReplicaState.GONE, evicted_for=other)
    assert bench.ordered() == []
    bench.warm(other, ReplicaState.GONE)
    assert bench.ordered() == ["load tiny"]


def test_a_node_that_comes_back_with_a_warm_copy_only_is_not_told_to_load_beside_it() -> None:
    for known in (True, False):
        bench = Bench()
        bench.warm(BIG)
        hello = replace(bench.record.hello, replicas=tuple(r.report for r in bench.record.replicas.values()))
        if not known:
            bench.registry = Registry(bench.clock, suspect_after_s=3, dead_after_s=10)
            bench.reconciler = Reconciler(bench.registry, bench.loads, unload_within_s=30)
        bench.link = AgentLink(hello.node_id, "attic", bench.clock, window_bytes=1000)
        bench.record = bench.registry.admit(hello, "10.0.0.1:6", bench.link)
        bench.record.assigned = TINY
        bench.registry.explain_absence(bench.record)
        assert bench.ordered() == []
        bench.warm(BIG, ReplicaState.GONE)
        assert bench.ordered() == ["load tiny"]


def test_a_crash_loop_and_a_damaged_file_are_left_alone_until_they_change_or_somebody_asks() -> None:
    for code in (ErrorCode.CRASH_LOOP, ErrorCode.MODEL_DAMAGED):
        bench = Bench()
        bench.record.assigned = TINY
        bench.report(TINY, ReplicaState.FAILED, code=code)
        bench.clock.advance(3600)
        assert bench.ordered() == []
        bench.loads.wish_again([bench.record])
        assert bench.ordered() == ["load tiny again"]
        bench.report(TINY, ReplicaState.FAILED, code=code)
        bench.clock.advance(3600)
        assert bench.ordered() == []
        bench.report(TINY, ReplicaState.LOADING)
        bench.report(TINY, ReplicaState.GONE)
        assert bench.ordered() == ["load tiny"]


def test_a_paused_node_is_told_to_free_what_it_shall_not_hold_but_not_to_load() -> None:
    bench = Bench()
    bench.record.courtesy = Courtesy(paused=True, reason="on battery")
    bench.record.assigned = BIG
    assert bench.ordered() == []
    bench.report(TINY, ReplicaState.READY)
    assert bench.ordered() == ["unload tiny"]
    bench.report(TINY, ReplicaState.GONE)
    assert bench.ordered() == []
    bench.record.courtesy = Courtesy(slots=1, reason="other programs use the CPU")
    assert bench.ordered() == ["load big"], "fewer slots are no reason to have no model"
