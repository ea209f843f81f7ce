"""Leases, duplicates, and what an introduction must hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_proto.errors import DuplicateNode, InvalidRequest, NodeNotFound, VersionMismatch
from chorus_proto.ids import InstanceId, ModelName, NodeId
from chorus_proto.values import Gpu, Heartbeat, Hello, NodeState, ReplicaReport, ReplicaState
from chorus_server.link import AgentLink
from chorus_server.node_record import NodeRecord, Rates
from chorus_server.registry import Registry
from tests.support.clock import FakeClock
from tests.support.fake_node import STRONG, hello_of


def registry_at(clock: FakeClock) -> Registry:
    return Registry(clock, suspect_after_s=3, dead_after_s=10)


def admitted(registry: Registry, clock: FakeClock, hello: Hello, address: str = "10.0.0.1:5") -> NodeRecord:
    return registry.admit(hello, address, AgentLink(hello.node_id, hello.name, clock, window_bytes=1000))


def test_a_node_that_misses_heartbeats_turns_suspect_then_dead() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    record = admitted(registry, clock, hello_of("attic"))
    clock.advance(2.9)
    assert registry.sweep() == []
    clock.advance(0.2)
    assert [change.record.state for change in registry.sweep()] == [NodeState.SUSPECT]
    assert not record.takes_work
    clock.advance(7)
    assert [change.record.state for change in registry.sweep()] == [NodeState.DEAD]
    assert registry.present() == []


def test_a_heartbeat_brings_a_suspect_node_back() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    record = admitted(registry, clock, hello_of("attic"))
    clock.advance(5)
    registry.sweep()
    change = registry.renew(record, Heartbeat(sequence=1, uptime_s=5))
    assert change is not None
    assert record.takes_work
    assert registry.sweep() == []


def test_a_broken_link_makes_the_node_suspect_at_once() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    record = admitted(registry, clock, hello_of("attic"))
    change = registry.lost_link(record, "lost its connection")
    assert change is not None
    assert record.state is NodeState.SUSPECT
    assert not record.takes_work


def test_a_second_agent_with_the_same_node_id_is_refused_naming_both_addresses() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    first = hello_of("attic")
    admitted(registry, clock, first, "10.0.0.1:5")
    clone = replace(first, instance_id=InstanceId("00000000-0000-4000-8000-000000000001"))
    with pytest.raises(DuplicateNode, match=r"10\.0\.0\.1:5.*10\.0\.0\.2:6"):
        admitted(registry, clock, clone, "10.0.0.2:6")


def test_a_restarted_agent_takes_its_place_once_the_old_link_is_gone() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    first = hello_of("attic")
    record = admitted(registry, clock, first)
    record.assigned = ModelName("scripted")
    registry.lost_link(record, "killed")
    again = replace(first, instance_id=InstanceId("00000000-0000-4000-8000-000000000001"))
    back = admitted(registry, clock, again)
    assert back.assigned == "scripted"
    assert [one.node_id for one in registry.present()] == [first.node_id]


def test_the_end_of_an_old_link_does_not_touch_the_new_one() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    hello = hello_of("attic")
    old = admitted(registry, clock, hello)
    new = admitted(registry, clock, hello)
    assert registry.lost_link(old, "late news") is None
    assert new.takes_work


def test_an_agent_of_a_newer_protocol_is_told_that_the_coordinator_is_too_old() -> None:
    clock = FakeClock()
    with pytest.raises(VersionMismatch, match="upgrade the coordinator"):
        admitted(registry_at(clock), clock, hello_of("attic", protocol_min=7, protocol_max=9))


def test_an_agent_of_an_older_protocol_is_told_to_upgrade() -> None:
    clock = FakeClock()
    with pytest.raises(VersionMismatch, match="upgrade the agent"):
        admitted(registry_at(clock), clock, hello_of("attic", protocol_min=0, protocol_max=0))


@pytest.mark.parametrize(
    ("field", "value"), [("name", ""), ("name", "x" * 65), ("name", "a\nb"), ("node_id", NodeId("7"))]
)
def test_an_introduction_that_cannot_be_true_is_refused_naming_the_field(field: str, value: str) -> None:
    clock = FakeClock()
    hello = replace(hello_of("attic"), **{field: value})  # pyright: ignore[reportArgumentType]  # str-typed fields
    with pytest.raises(InvalidRequest) as caught:
        admitted(registry_at(clock), clock, hello)
    assert caught.value.param == field


def test_a_replica_loaded_anew_is_another_incarnation() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    record = admitted(registry, clock, hello_of("attic"))
    model = ModelName("scripted")
    registry.report(record, ReplicaReport(model=model, state=ReplicaState.READY))
    first = record.replicas[model].incarnation
    registry.report(record, ReplicaReport(model=model, state=ReplicaState.FAILED))
    registry.report(record, ReplicaReport(model=model, state=ReplicaState.READY))
    assert record.replicas[model].incarnation != first


def test_a_restart_that_was_reported_ready_only_is_another_engine_and_a_drain_given_up_is_not() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    record = admitted(registry, clock, hello_of("attic"))
    report = ReplicaReport(model=ModelName("scripted"), state=ReplicaState.READY)
    registry.report(record, report)
    first = record.replicas[report.model]
    clock.advance(5)
    for state in (ReplicaState.UNLOADING, ReplicaState.READY):
        registry.report(record, replace(report, state=state))
    assert record.replicas[report.model] is first
    registry.report(record, replace(report, restarts=1))
    again = record.replicas[report.model]
    assert again.incarnation != first.incarnation
    assert (first.ready_since_s, again.ready_since_s) == (1_000.0, 1_005.0)


def test_free_memory_is_that_of_the_device_where_models_lie() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    card = Gpu(name="RTX 3060", memory_bytes=12 * 10**9, memory_free_bytes=11 * 10**9, bandwidth_bytes_per_s=360e9)
    unusable = Gpu(name="?", memory_bytes=99 * 10**9, usable=False)
    for gpus, before, after in (((), 60 * 10**9, 5), ((card, unusable), 11 * 10**9, 7)):
        record = admitted(registry, clock, hello_of(f"pc{len(gpus)}", hardware=replace(STRONG, gpus=gpus)))
        assert record.free_bytes == before
        assert record.total_bytes == 64 * 10**9
        registry.renew(
            record, Heartbeat(sequence=1, uptime_s=1, ram_available_bytes=5, gpu_free_bytes=(7, 8)[: len(gpus)])
        )
        assert record.free_bytes == after
    unknown = replace(STRONG, ram_bytes=None, ram_available_bytes=None)
    record = admitted(registry, clock, hello_of("unknown", hardware=unknown))
    assert (record.free_bytes, record.total_bytes) == (None, None)


def test_a_node_is_found_by_id_name_client_id_and_start_of_id() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    record = admitted(registry, clock, hello_of("attic"))
    for wanted in (record.node_id, "attic", record.client_id, record.node_id[:8]):
        assert registry.find(wanted) is record
    with pytest.raises(NodeNotFound, match="attic"):
        registry.find("cellar")


def test_a_node_that_has_been_dead_for_long_is_forgotten() -> None:
    clock = FakeClock()
    registry = Registry(clock, suspect_after_s=3, dead_after_s=10, forget_after_s=100)
    admitted(registry, clock, hello_of("attic"))
    clock.advance(11)
    registry.sweep()
    assert len(registry.records()) == 1
    clock.advance(100)
    registry.sweep()
    assert registry.records() == []


def test_a_node_that_says_that_it_sleeps_is_asleep_at_once_and_holds_nothing() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    loaded = ReplicaReport(model=ModelName("m"), state=ReplicaState.READY)
    record = admitted(registry, clock, hello_of("attic", replicas=[loaded]))
    change = registry.left(record, "its PC goes to sleep", sleeps=True)
    assert change is not None
    assert (record.state, record.replicas, record.link) == (NodeState.ASLEEP, {}, None)
    assert registry.present() == []
    assert registry.lost_link(record, "the stream ended") is None, "the end of its stream changes nothing"
    clock.advance(100)
    assert registry.sweep() == []
    assert registry.left(record, "again", sleeps=True) is None


def test_nodes_that_may_be_woken_are_listed_for_longer_than_those_that_may_not() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    for name, macs in (("attic", ("1c:69:7a:00:00:01",)), ("cellar", ())):
        registry.left(admitted(registry, clock, replace(hello_of(name), mac_addresses=macs)), "sleeps", sleeps=True)
    clock.advance(86_400)
    registry.sweep()
    assert [record.name for record in registry.records()] == ["attic"]
    clock.advance(29 * 86_400)
    registry.sweep()
    assert registry.records() == []


def test_a_node_of_an_earlier_run_is_listed_only_while_it_may_be_woken_and_is_not_here() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    sleeper = replace(hello_of("attic"), mac_addresses=("1c:69:7a:00:00:01",))
    assert registry.restore(hello_of("cellar"), "10.0.0.1:5", unseen_s=5) is None
    assert registry.restore(sleeper, "127.0.0.1:5", unseen_s=5) is None
    record = registry.restore(sleeper, "10.0.0.1:5", unseen_s=50)
    assert record is not None
    assert registry.shown(record).heartbeat_age_s == 50
    assert registry.restore(sleeper, "10.0.0.1:5", unseen_s=5) is None, "it is known already"
    back = admitted(registry, clock, sleeper)
    assert registry.records() == [back]


def test_what_a_slow_replica_says_of_its_speed_replaces_what_was_measured() -> None:
    clock = FakeClock()
    registry = registry_at(clock)
    record = admitted(registry, clock, hello_of("attic"))
    model = ModelName("scripted")
    ready = ReplicaReport(model=model, state=ReplicaState.READY)
    registry.report(record, ready)
    record.rates[model] = Rates(100.0, 1000.0)
    slow = replace(ready, degraded=True, decode_tokens_per_s=5.0)
    registry.report(record, slow)
    assert record.rates[model].decode_tokens_per_s == pytest.approx(5.0)
    record.rates[model].learn(7.0, None)
    learnt = record.rates[model].decode_tokens_per_s
    registry.report(record, slow)
    assert record.rates[model].decode_tokens_per_s == learnt, "said once, it is measured from then on"
    registry.report(record, ready)
    assert model not in record.rates, "nor is that true any more"
