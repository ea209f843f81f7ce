"""Load orders: each given once, answered by the agent's reports, paused after failures.

Those who apply the placement and those who load on demand order here, so that neither orders what the other has
ordered. What an agent goes on trying by itself (a crash loop) or will never load (a damaged file) is not ordered again
until its report changes or somebody asks for it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass

from chorus_proto.backoff import JITTER, delay_s
from chorus_proto.clock import Clock
from chorus_proto.errors import ErrorCode
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sizing import LoadShape
from chorus_proto.values import ReplicaReport, ReplicaState
from chorus_server.demand_choice import Refusal
from chorus_server.node_record import NodeRecord

log = logging.getLogger(__name__)

FORGIVEN_AFTER_S = 600.0
"""A load that has gone well for this long clears the record of earlier failures."""
TOO_BIG_FOR_S = 600.0
"""A model that did not fit a node is left out of its placement for this long; POST /reassign ends it at once."""
GROWN_BYTES = 256 << 20
"""So much more free memory than at a refusal for memory makes it worth to ask that agent again."""
ANSWERED_WITHIN_S = 10.0
"""An agent reports at once that it loads; an order without an answer for so long was not taken."""

_LEFT_ALONE = (ErrorCode.CRASH_LOOP, ErrorCode.MODEL_DAMAGED)


@dataclass(slots=True)
class _Tries:
    failures: int = 0
    next_at_s: float = 0.0
    ordered_at_s: float | None = None
    ready_since_s: float | None = None
    free_bytes_then: int | None = None
    """At the last refusal for memory."""
    wished: bool = False
    """Somebody asked for another try whatever happened before."""


class Loads:
    """What was ordered, of whom, and what came of it. Agents' reports are told to `reported`."""

    def __init__(self, clock: Clock, *, slots: int, context_tokens: int, chance: random.Random | None = None) -> None:
        self.shape = LoadShape(context_tokens=context_tokens, slots=slots)
        self._clock = clock
        self._chance = chance or random.Random()
        self._tries: dict[NodeId, dict[ModelName, _Tries]] = {}
        self._too_big: dict[tuple[NodeId, ModelName], float] = {}

    def _of(self, record: NodeRecord, model: ModelName) -> _Tries:
        return self._tries.setdefault(record.node_id, {}).setdefault(model, _Tries())

    def _known(self, record: NodeRecord, model: ModelName) -> _Tries:
        return self._tries.get(record.node_id, {}).get(model) or _Tries()

    def order(self, record: NodeRecord, model: ModelName, *, keep_alive_s: float | None) -> None:
        """Tell a connected node to load; `keep_alive_s` None: it is to stay."""
        assert record.link is not None, "only nodes that take work are given orders"
        tries = self._of(record, model)
        tries.ordered_at_s = self._clock.monotonic_s()
        record.link.load(
            model,
            slots=self.shape.slots,
            context_tokens=self.shape.context_tokens,
            keep_alive_s=keep_alive_s,
            retry=tries.wished,
        )
        tries.wished = False

    def pending(self, record: NodeRecord, model: ModelName) -> bool:
        """True when the load was ordered and the agent has not said anything of it yet."""
        ordered_at_s = self._known(record, model).ordered_at_s
        return ordered_at_s is not None and self._clock.monotonic_s() - ordered_at_s < ANSWERED_WITHIN_S

    def pending_on(self, record: NodeRecord) -> list[ModelName]:
        return [model for model in self._tries.get(record.node_id, {}) if self.pending(record, model)]

    def refusal(self, record: NodeRecord, model: ModelName) -> Refusal | None:
        """Why this model is not to be ordered there now, None when it may be."""
        replica = record.replicas.get(model)
        tries = self._known(record, model)
        if replica is None or replica.report.state is not ReplicaState.FAILED or tries.wished:
            return None
        code, detail = _code_of(replica.report), replica.report.detail or "said no reason"
        if code in _LEFT_ALONE:
            what = "ended again and again" if code is ErrorCode.CRASH_LOOP else "found the file damaged"
            return Refusal(code=code, words=f"{what}: {detail}")
        pause_s = tries.next_at_s - self._clock.monotonic_s()
        if code is ErrorCode.INSUFFICIENT_MEMORY and (pause_s > 0 or self._still_too_big(record, model, tries)):
            return Refusal(code=code, words=f"answered: {detail}")
        if pause_s <= 0:
            return None
        return Refusal(code=code, words=f"could not load it: {detail}", again_in_s=pause_s)

    def _still_too_big(self, record: NodeRecord, model: ModelName, tries: _Tries) -> bool:
        if not self.is_too_big(record, model):
            return False
        then, now = tries.free_bytes_then, record.free_bytes
        return then is None or now is None or now < then + GROWN_BYTES

    def is_too_big(self, record: NodeRecord, model: ModelName) -> bool:
        """True for a while after the node said that it has no memory for this model."""
        return self._too_big.get((record.node_id, model), 0.0) > self._clock.monotonic_s()

    def no_longer_too_big(self) -> set[NodeId]:
        """Nodes that may be asked again since the last call; the agent judges anew and has the last word."""
        now_s = self._clock.monotonic_s()
        due = {key for key, until_s in self._too_big.items() if until_s <= now_s}
        for key in due:
            del self._too_big[key]
        return {node_id for node_id, _ in due}

    def reported(self, record: NodeRecord, report: ReplicaReport, before: ReplicaState | None) -> float | None:
        """An agent told the state of a replica that was in state `before`.

        Returns, for a load that ended badly, the seconds until the next try: 1, 2, 4 … 60 with 50 % jitter.
        """
        tries = self._of(record, report.model)
        answers = tries.ordered_at_s is not None
        tries.ordered_at_s = None
        now_s = self._clock.monotonic_s()
        if report.state is ReplicaState.READY:
            tries.ready_since_s = now_s if tries.ready_since_s is None else tries.ready_since_s
            self._too_big.pop((record.node_id, report.model), None)
            return None
        went_well_s = 0.0 if tries.ready_since_s is None else now_s - tries.ready_since_s
        tries.ready_since_s = None
        if went_well_s > FORGIVEN_AFTER_S:
            tries.failures = 0
        if report.state is not ReplicaState.FAILED or (before is ReplicaState.FAILED and not answers):
            return None
        tries.wished = False
        if _code_of(report) is ErrorCode.INSUFFICIENT_MEMORY:
            self._too_big[record.node_id, report.model] = now_s + TOO_BIG_FOR_S
            tries.free_bytes_then = record.free_bytes
        pause_s = delay_s(tries.failures, jitter=self._chance.uniform(*JITTER))
        tries.failures += 1
        tries.next_at_s = now_s + pause_s
        return pause_s

    def link_is_new(self, record: NodeRecord) -> None:
        """Orders given on an earlier link of this node are void."""
        for tries in self._tries.get(record.node_id, {}).values():
            tries.ordered_at_s = None

    def wish(self, record: NodeRecord, model: ModelName) -> None:
        """Somebody asks for this model there: whatever failed before is tried once more."""
        self._too_big.pop((record.node_id, model), None)
        replica = record.replicas.get(model)
        if replica is not None and replica.report.state is ReplicaState.FAILED:
            self._tries.setdefault(record.node_id, {})[model] = _Tries(wished=True)

    def wish_again(self, records: Iterable[NodeRecord]) -> None:
        """Somebody asks for another try of everything that failed or did not fit on these nodes."""
        self._too_big.clear()
        for record in records:
            for model, replica in record.replicas.items():
                if replica.report.state is ReplicaState.FAILED:
                    self._tries.setdefault(record.node_id, {})[model] = _Tries(wished=True)


def _code_of(report: ReplicaReport) -> ErrorCode:
    """A failure without a code, or with one of a newer version, is a failed load."""
    try:
        return ErrorCode(report.failure_code)
    except ValueError:
        return ErrorCode.LOAD_FAILED
