"""When a node fails too often at a model: it gets nothing of it for a while, then one request, which tells.

A circuit breaker (Nygard, Release It!, 2007) for each model on each node, with the rules of Envoy's outlier detection:
so many failures in a row, or a share of the answers of late; longer each time; and never so many nodes at once that
those who are left would be few. Only what a node is to blame for is told here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, EngineDied, ErrorCode, NodeLost
from chorus_proto.ids import ModelName, NodeId
from chorus_server.routing import Candidate

COUNTED = frozenset({ErrorCode.NODE_LOST, ErrorCode.ENGINE_FAILED, ErrorCode.ENGINE_DIED, ErrorCode.ENGINE_UNAVAILABLE})
"""What counts as the node's failure. A request that is refused, cancelled or out of its own time says nothing of it."""

_RECORDS_LIMIT = 10_000

_Key: TypeAlias = tuple[NodeId, ModelName]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """Opens after `in_a_row` failures, or after `share` of at least `of_least` answers within `window_s`.

    It stays open for `first_s` times the number of times that it opened, `longest_s` at the most; `good_for_s` without
    a new opening, and it begins at `first_s` again. At most `open_share` of a model's nodes are left out at once.
    """

    in_a_row: int = 5
    share: float = 0.5
    of_least: int = 10
    window_s: float = 30.0
    first_s: float = 30.0
    longest_s: float = 300.0
    good_for_s: float = 600.0
    open_share: float = 0.5


@dataclass(slots=True)
class _Breaker:
    answers: deque[tuple[float, bool]] = field(default_factory=lambda: deque[tuple[float, bool]](maxlen=1_000))
    in_a_row: int = 0
    last_dead: int | None = None
    """The incarnation whose end was counted: many may have run on it."""
    opened: int = 0
    opened_at_s: float = 0.0
    open_until_s: float | None = None
    """None: closed. When it has passed, one request may try."""
    why: str = ""


class Breakers:
    """Of all nodes. Times are on the coordinator's monotonic clock."""

    def __init__(self, clock: Clock, rules: BreakerRules | None = None) -> None:
        self._clock = clock
        self._rules = rules or BreakerRules()
        self._known: dict[_Key, _Breaker] = {}
        self._open: dict[_Key, _Breaker] = {}

    def answered(self, node_id: NodeId, model: ModelName, *, began_s: float) -> None:
        """A request that was given to the node at `began_s` was answered."""
        key = node_id, model
        breaker = self._known.get(key)
        if breaker is None or self._is_old(breaker, began_s):
            return
        breaker.answers.append((self._clock.monotonic_s(), True))
        breaker.in_a_row = 0
        if self._open.pop(key, None) is not None:
            breaker.open_until_s = None
            breaker.answers.clear()

    def failed(
        self, node_id: NodeId, model: ModelName, error: ClusterError, *, incarnation: int, began_s: float
    ) -> str | None:
        """A request failed there; returns what to tell people when the breaker opens for it."""
        if error.code not in COUNTED:
            return None
        key = node_id, model
        breaker = self._known.setdefault(key, _Breaker())
        if self._is_old(breaker, began_s):
            return None
        if isinstance(error, EngineDied | NodeLost):
            if breaker.last_dead == incarnation:
                return None
            breaker.last_dead = incarnation
        now_s = self._clock.monotonic_s()
        breaker.answers.append((now_s, False))
        breaker.in_a_row += 1
        if key not in self._open and not self._fails_too_often(breaker, now_s):
            self._forget()
            return None
        rules = self._rules
        if now_s - breaker.opened_at_s > rules.good_for_s + rules.longest_s:
            breaker.opened = 0
        breaker.opened += 1
        breaker.opened_at_s = now_s
        breaker.open_until_s = now_s + min(rules.longest_s, breaker.opened * rules.first_s)
        breaker.why = f"{breaker.in_a_row} failures in a row, the last: {error.message}"
        self._open[key] = breaker
        return f"gets no {model} for {breaker.open_until_s - now_s:g} s: {breaker.why}"

    @staticmethod
    def _is_old(breaker: _Breaker, began_s: float) -> bool:
        """Given to the node before the breaker opened, which knew of it what there is to know."""
        return breaker.open_until_s is not None and began_s < breaker.opened_at_s

    def _fails_too_often(self, breaker: _Breaker, now_s: float) -> bool:
        rules = self._rules
        if breaker.in_a_row >= rules.in_a_row:
            return True
        recent = [good for at_s, good in breaker.answers if at_s >= now_s - rules.window_s]
        return len(recent) >= rules.of_least and recent.count(False) >= rules.share * len(recent)

    def _forget(self) -> None:
        while len(self._known) > _RECORDS_LIMIT:
            self._known.pop(next(iter(self._known)))

    def sifted(self, candidates: list[Candidate]) -> list[Candidate]:
        """Those of one model that may be given work now; one whose time is over has one slot, for the trial."""
        if not self._open:
            return candidates
        now_s = self._clock.monotonic_s()
        known = [self._open.get((one.node_id, one.model)) for one in candidates]
        if not any(known):
            return candidates
        left_out = self._left_out(candidates, known, now_s)
        others = known.count(None) > 0
        found: list[Candidate] = []
        for candidate, breaker in zip(candidates, known, strict=True):
            if candidate.node_id in left_out:
                continue
            on_trial = others and breaker is not None and (breaker.open_until_s or 0.0) <= now_s
            found.append(candidate._replace(slots=min(1, candidate.slots)) if on_trial else candidate)
        return found

    def _left_out(self, candidates: Sequence[Candidate], known: Sequence[_Breaker | None], now_s: float) -> set[NodeId]:
        """Never more than the share, so never the last one: then its errors are told as they come."""
        rest = [
            (breaker.open_until_s or 0.0, candidate.node_id)
            for candidate, breaker in zip(candidates, known, strict=True)
            if breaker is not None and (breaker.open_until_s or 0.0) > now_s
        ]
        rest.sort(reverse=True)
        return {node_id for _, node_id in rest[: int(self._rules.open_share * len(candidates))]}

    def words(self, node_id: NodeId, model: ModelName) -> str:
        """Why the node gets none of the model's requests now, for people; "" when it gets them."""
        breaker = self._open.get((node_id, model))
        left_s = 0.0 if breaker is None else (breaker.open_until_s or 0.0) - self._clock.monotonic_s()
        return "" if breaker is None or left_s <= 0 else f"gets none of it for {left_s:.0f} s more: {breaker.why}"
