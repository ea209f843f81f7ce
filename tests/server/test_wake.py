"""Which sleeping node is called, how often, for how long, and when it is let alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from chorus_proto.errors import ErrorCode, InvalidRequest
from chorus_proto.values import Hardware, NodeState
from chorus_server.link import AgentLink
from chorus_server.node_record import NodeRecord
from chorus_server.registry import Registry
from chorus_server.settings import CoordinatorSettings
from chorus_server.wake import WakeRules, Wakings, wake_rules
from tests.support.clock import FakeClock
from tests.support.fake_node import STRONG, hello_of

MAC, OTHER = "1c:69:7a:00:00:01", "1c:69:7a:00:00:02"


class Lan:
    """Nodes that sleep, and the packets that were sent to them."""

    def __init__(self, rules: WakeRules | None = None) -> None:
        self.clock = FakeClock()
        self.registry = Registry(self.clock, suspect_after_s=3, dead_after_s=10)
        self.sent: list[tuple[str, ...]] = []
        self.wakings = Wakings(self.clock, self._send, rules or WakeRules(every_s=10, within_s=60, rest_s=300))

    def _send(self, mac_addresses: Sequence[str]) -> int:
        self.sent.append(tuple(mac_addresses))
        return 1

    def here(self, name: str, mac: str = MAC, *, hardware: Hardware = STRONG) -> NodeRecord:
        hello = replace(hello_of(name, hardware=hardware), mac_addresses=(mac,) if mac else ())
        return self.registry.admit(hello, "10.0.0.7:5", AgentLink(hello.node_id, name, self.clock, window_bytes=1000))

    def asleep(self, name: str, mac: str = MAC, *, hardware: Hardware = STRONG) -> NodeRecord:
        record = self.here(name, mac, hardware=hardware)
        self.registry.left(record, "its PC goes to sleep", sleeps=True)
        return record

    def vanished(self, name: str, mac: str = MAC) -> NodeRecord:
        record = self.here(name, mac)
        self.clock.advance(10)
        self.registry.sweep()
        self.registry.sweep()
        assert record.state is NodeState.DEAD
        return record


def test_packets_go_out_again_and_again_while_somebody_waits_and_no_more_often_than_that() -> None:
    lan = Lan()
    attic = lan.asleep("attic")
    for _ in range(100):
        assert lan.wakings.call_one([attic])
        lan.clock.advance(0.25)
    assert lan.sent == [(MAC,)] * 3, "at 0, 10 and 20 s"
    assert lan.wakings.words(attic) == "attic is asleep; it was woken 25 s ago"


def test_a_node_that_does_not_come_is_let_alone_for_a_while_and_then_tried_anew() -> None:
    lan = Lan()
    attic = lan.asleep("attic")
    lan.wakings.call_one([attic])
    lan.clock.advance(60)
    assert not lan.wakings.call_one([attic])
    refusal = lan.wakings.refusal(attic)
    assert refusal.code is ErrorCode.NO_REPLICA
    assert refusal.words == "is asleep and did not come when it was woken"
    assert refusal.again_in_s == 300
    assert lan.wakings.words(attic) == ""
    lan.clock.advance(300)
    assert lan.wakings.call_one([attic])
    assert len(lan.sent) == 2


def test_a_node_that_came_is_called_at_once_when_it_sleeps_again() -> None:
    lan = Lan()
    attic = lan.asleep("attic")
    lan.wakings.call_one([attic])
    lan.clock.advance(5)
    lan.wakings.came(attic)
    attic = lan.asleep("attic")
    assert lan.wakings.call_one([attic])
    assert len(lan.sent) == 2


def test_one_of_several_is_woken_the_one_that_is_called_already_then_sleepers_then_the_strong() -> None:
    lan = Lan()
    weak = replace(STRONG, ram_bytes=4 * 10**9, memory_bandwidth_bytes_per_s=5e9, cpu_flops_per_s=1e10)
    vanished = lan.vanished("garage", OTHER)
    small = lan.asleep("cellar", "1c:69:7a:00:00:03", hardware=weak)
    strong = lan.asleep("attic")
    assert lan.wakings.call_one([vanished, small, strong])
    assert lan.sent == [(MAC,)]
    lan.clock.advance(10)
    assert lan.wakings.call_one([strong, small])
    assert lan.sent == [(MAC,), (MAC,)]
    assert lan.wakings.call_one([vanished, small])
    assert lan.sent[2] == ("1c:69:7a:00:00:03",)
    lan.clock.advance(60)
    assert lan.wakings.call_one([vanished, small, strong]), "the others did not come"
    assert lan.sent[-1] == (OTHER,)


def test_who_cannot_or_shall_not_be_woken_is_not() -> None:
    lan = Lan()
    assert not lan.wakings.could(lan.here("attic"))
    assert not lan.wakings.could(lan.asleep("cellar", mac=""))
    stopped = lan.here("garage")
    lan.registry.left(stopped, "the agent stops")
    assert not lan.wakings.could(stopped)
    assert not lan.wakings.call_one([stopped])
    silent = Lan(WakeRules(enabled=False))
    assert not silent.wakings.call_one([silent.asleep("attic")])
    assert lan.sent == silent.sent == []


def test_a_person_may_wake_any_node_also_one_that_is_let_alone() -> None:
    lan = Lan(WakeRules(enabled=False, within_s=60))
    attic = lan.asleep("attic")
    stopped = lan.here("garage", OTHER)
    lan.registry.left(stopped, "the agent stops")
    assert lan.wakings.wake(stopped).mac_addresses == (OTHER,)
    woken = lan.wakings.wake(attic)
    assert (woken.node_name, woken.mac_addresses) == ("attic", (MAC,))
    lan.wakings.wake(attic)
    assert lan.sent == [(OTHER,), (MAC,), (MAC,)]


def test_waking_by_hand_lets_requests_hope_anew() -> None:
    lan = Lan()
    attic = lan.asleep("attic")
    lan.wakings.call_one([attic])
    lan.clock.advance(100)
    assert not lan.wakings.may_come(attic)
    lan.wakings.wake(attic)
    assert lan.wakings.may_come(attic)


def test_a_node_that_is_here_needs_no_packet_and_one_without_an_address_gets_none() -> None:
    lan = Lan()
    assert lan.wakings.wake(lan.here("attic")).mac_addresses == ()
    with pytest.raises(InvalidRequest, match="cellar told no address"):
        lan.wakings.wake(lan.asleep("cellar", mac=""))
    assert lan.sent == []


def test_the_rules_follow_from_the_settings() -> None:
    changed = CoordinatorSettings(wake_nodes=False, wake_every_s=1, wake_within_s=2, wake_rest_s=3)
    assert wake_rules(changed) == WakeRules(enabled=False, every_s=1, within_s=2, rest_s=3)
    assert wake_rules(CoordinatorSettings()) == WakeRules()
