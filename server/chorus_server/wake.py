"""Wakes sleeping nodes: packets for as long as somebody waits, a limit to the wait, and a rest after one in vain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from chorus_proto.clock import Clock
from chorus_proto.errors import ErrorCode, InvalidRequest
from chorus_proto.ids import NodeId
from chorus_proto.values import NodeState, Woken
from chorus_server.demand_choice import Refusal
from chorus_server.node_record import NodeRecord
from chorus_server.settings import CoordinatorSettings

log = logging.getLogger(__name__)

Send = Callable[[Sequence[str]], int]
"""Sends a packet for each of these MAC addresses; how many went out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeRules:
    """`every_s`: between two packets to one node. `within_s`: it is expected for so long after the first of them.
    `rest_s`: after it has not come, requests let it alone for so long."""

    enabled: bool = True
    every_s: float = 10.0
    within_s: float = 90.0
    rest_s: float = 600.0


def wake_rules(settings: CoordinatorSettings) -> WakeRules:
    return WakeRules(
        enabled=settings.wake_nodes,
        every_s=settings.wake_every_s,
        within_s=settings.wake_within_s,
        rest_s=settings.wake_rest_s,
    )


@dataclass(slots=True)
class _Call:
    first_s: float
    last_s: float


class Wakings:
    """Which nodes were called when. Nothing here waits; who waits for a node asks again and again."""

    def __init__(self, clock: Clock, send: Send, rules: WakeRules) -> None:
        self._clock = clock
        self._send = send
        self._rules = rules
        self._calls: dict[NodeId, _Call] = {}

    def could(self, record: NodeRecord) -> bool:
        """It is away, and a packet may bring it back."""
        return self._rules.enabled and record.may_be_woken

    def may_come(self, record: NodeRecord) -> bool:
        """True when it could be woken and has not been called in vain just now."""
        return self.could(record) and self._called_s(record) < self._rules.within_s

    def _called_s(self, record: NodeRecord) -> float:
        """Seconds since the first packet of the present try, 0 without one."""
        call = self._calls.get(record.node_id)
        if call is None:
            return 0.0
        called_s = self._clock.monotonic_s() - call.first_s
        if called_s >= self._rules.within_s + self._rules.rest_s:
            del self._calls[record.node_id]
            return 0.0
        return called_s

    def call_one(self, records: Iterable[NodeRecord]) -> bool:
        """Wake one of these nodes for a request; False when none of them may come.

        One that is called already goes on being called; else those known to sleep come before those that vanished,
        and the strong before the weak.
        """
        able = [record for record in records if self.may_come(record)]
        if not able:
            return False
        self._call(max(able, key=self._rank))
        return True

    def _rank(self, record: NodeRecord) -> tuple[bool, bool, float, NodeId]:
        called, asleep = record.node_id in self._calls, record.state is NodeState.ASLEEP
        return called, asleep, record.score.score, record.node_id

    def _call(self, record: NodeRecord) -> None:
        now_s = self._clock.monotonic_s()
        call = self._calls.get(record.node_id)
        if call is None:
            call = self._calls[record.node_id] = _Call(now_s, now_s - self._rules.every_s)
            log.info("node %s is %s and somebody waits for it: waking it", record.name, record.state)
        if now_s - call.last_s >= self._rules.every_s:
            call.last_s = now_s
            self._send(record.hello.mac_addresses)

    def wake(self, record: NodeRecord) -> Woken:
        """Somebody asks for it: send at once, and let requests hope for it anew. Raises InvalidRequest."""
        if record.link is not None:
            return Woken(node_id=record.node_id, node_name=record.name)
        macs = record.hello.mac_addresses
        if not macs:
            raise InvalidRequest(f"node {record.name} told no address that a wake-up packet could reach", param="node")
        now_s = self._clock.monotonic_s()
        self._calls[record.node_id] = _Call(now_s, now_s)
        sent = self._send(macs)
        log.info("node %s is %s and was asked for: %d wake-up packets sent", record.name, record.state, sent)
        return Woken(node_id=record.node_id, node_name=record.name, mac_addresses=macs)

    def came(self, record: NodeRecord) -> None:
        """It is here."""
        self._calls.pop(record.node_id, None)

    def refusal(self, record: NodeRecord) -> Refusal:
        """Of a node that was called and did not come."""
        words = f"is {record.state} and did not come when it was woken"
        again_in_s = self._rules.within_s + self._rules.rest_s - self._called_s(record)
        return Refusal(code=ErrorCode.NO_REPLICA, words=words, again_in_s=again_in_s)

    def words(self, record: NodeRecord) -> str:
        """`attic is asleep; it was woken 12 s ago`; "" when it was not called, or in vain."""
        if record.node_id not in self._calls or not self.may_come(record):
            return ""
        return f"{record.name} is {record.state}; it was woken {self._called_s(record):.0f} s ago"
