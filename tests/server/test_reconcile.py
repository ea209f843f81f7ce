"""Orders that follow from what nodes should hold and do hold."""

from __future__ import annotations

import asyncio

from chorus_proto import node_pb2
from chorus_proto.ids import ModelName
from chorus_proto.values import ReplicaReport, ReplicaState
from chorus_server.link import AgentLink
from chorus_server.reconcile import LAST_RETRY_S, Reconciler
from chorus_server.registry import NodeRecord, Registry
from tests.support.clock import FakeClock
from tests.support.fake_node import hello_of

TINY, BIG = ModelName("tiny"), ModelName("big")


class Bench:
    """A registry with one node, and the orders sent to it so far."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.registry = Registry(self.clock, suspect_after_s=3, dead_after_s=10)
        self.reconciler = Reconciler(self.registry, self.clock, slots=4, context_tokens=2048, unload_within_s=30)
        hello = hello_of("attic", models=("tiny", "big"))
        self.link = AgentLink(hello.node_id, "attic", self.clock, window_bytes=1000)
        self.record: NodeRecord = self.registry.admit(hello, "10.0.0.1:5", self.link)

    def report(self, model: ModelName, state: ReplicaState) -> None:
        self.registry.report(self.record, ReplicaReport(model=model, state=state))

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
                    orders.append(f"{kind} {(frame.load if kind == 'load' else frame.unload).model}")
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
        bench.report(TINY, ReplicaState.FAILED)
        pauses.append(bench.reconciler.load_failed(bench.record, TINY))
        assert bench.ordered() == []
        bench.clock.advance(pauses[-1] + 0.01)
        assert bench.ordered() == ["load tiny"]
    assert 0.5 <= pauses[0] <= 1.5
    assert LAST_RETRY_S * 0.5 <= pauses[-1] <= LAST_RETRY_S * 1.5


def test_a_crash_after_a_good_load_is_loaded_again() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    assert bench.ordered() == ["load tiny"]
    bench.report(TINY, ReplicaState.READY)
    assert bench.ordered() == []
    bench.report(TINY, ReplicaState.FAILED)
    bench.clock.advance(bench.reconciler.load_failed(bench.record, TINY) + 0.01)
    assert bench.ordered() == ["load tiny"]


def test_a_node_without_a_link_gets_no_orders_and_a_new_link_gets_them_anew() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    assert bench.ordered() == ["load tiny"]
    bench.reconciler.link_is_new(bench.record)
    assert bench.ordered() == ["load tiny"]
    bench.record.link = None
    bench.reconciler.link_is_new(bench.record)
    assert bench.ordered() == []


def test_what_the_owner_of_the_pc_keeps_loaded_is_left_alone() -> None:
    bench = Bench()
    bench.record.assigned = TINY
    bench.registry.report(bench.record, ReplicaReport(model=BIG, state=ReplicaState.READY, kept=True))
    assert bench.ordered() == ["load tiny"]
    bench.report(TINY, ReplicaState.READY)
    assert bench.ordered() == []
