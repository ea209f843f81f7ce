"""What follows from a node's record: its slots within what its owner leaves, and whether it may be woken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from chorus_proto.ids import ModelName
from chorus_proto.values import Courtesy, Hello, NodeState, ReplicaReport, ReplicaState
from chorus_server.link import AgentLink
from chorus_server.node_record import NodeRecord, ReplicaRecord
from chorus_server.registry import Registry
from tests.support.clock import FakeClock
from tests.support.fake_node import hello_of


def record_of(hello: Hello, address: str = "10.0.0.7:5") -> NodeRecord:
    clock = FakeClock()
    link = AgentLink(hello.node_id, hello.name, clock, window_bytes=1000)
    return Registry(clock, suspect_after_s=3, dead_after_s=10).admit(hello, address, link)


def with_replicas(slots: Sequence[int]) -> tuple[NodeRecord, list[ReplicaRecord]]:
    reports = [
        ReplicaReport(model=ModelName(f"m{n}"), state=ReplicaState.READY, slots=count) for n, count in enumerate(slots)
    ]
    record = record_of(hello_of("attic", replicas=reports))
    return record, [record.replicas[report.model] for report in reports]


def occupy(replica: ReplicaRecord, slots: int) -> None:
    for number in range(slots):
        replica.in_flight.begin(number, prompt_tokens=1, expected_tokens=1, prompt_s=0, now_s=0)


def run(replica: ReplicaRecord, streams: int) -> None:
    for number in range(streams):
        replica.in_flight.begin(number, prompt_tokens=1, expected_tokens=1, prompt_s=0, now_s=0)


def test_all_replicas_together_keep_within_what_the_owner_leaves() -> None:
    record, (first, second) = with_replicas([4, 8])
    assert (record.slots_of(first), record.slots_of(second)) == (4, 8)
    record.courtesy = Courtesy(slots=3)
    assert (record.slots_of(first), record.slots_of(second)) == (3, 3)
    occupy(first, 2)
    assert (record.slots_of(first), record.slots_of(second)) == (3, 1)
    occupy(second, 5)  # from before
    assert (record.slots_of(first), record.slots_of(second)) == (0, 1)


def test_a_replica_has_no_more_slots_than_its_own() -> None:
    record, (first,) = with_replicas([2])
    record.courtesy = Courtesy(slots=100)
    assert record.slots_of(first) == 2


def test_a_paused_node_takes_orders_but_no_requests() -> None:
    record = record_of(hello_of("attic"))
    assert record.takes_requests
    record.courtesy = Courtesy(paused=True, reason="on battery")
    assert record.takes_work
    assert not record.takes_requests


@pytest.mark.parametrize(
    ("state", "address", "macs", "stopped", "may"),
    [
        (NodeState.ASLEEP, "10.0.0.7:5", 1, False, True),
        (NodeState.DEAD, "10.0.0.7:5", 1, False, True),
        (NodeState.ASLEEP, "[fe80::1]:5", 1, False, True),
        (NodeState.ALIVE, "10.0.0.7:5", 1, False, False),
        (NodeState.SUSPECT, "10.0.0.7:5", 1, False, False),
        (NodeState.ASLEEP, "10.0.0.7:5", 0, False, False),
        (NodeState.DEAD, "10.0.0.7:5", 1, True, False),
        (NodeState.DEAD, "127.0.0.1:5", 1, False, False),
        (NodeState.DEAD, "[::1]:5", 1, False, False),
    ],
)
def test_only_another_pc_that_is_away_and_was_not_stopped_may_be_woken(
    state: NodeState, address: str, macs: int, stopped: bool, may: bool
) -> None:
    record = record_of(replace(hello_of("attic"), mac_addresses=("1c:69:7a:00:00:01",) * macs), address)
    record.state, record.stopped = state, stopped
    assert record.may_be_woken is may
