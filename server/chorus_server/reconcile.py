"""From plan to reality: orders loads and unloads until each node holds the model it is assigned."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

from chorus_proto.clock import Clock
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import ReplicaState
from chorus_server.registry import NodeRecord, Registry

log = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
FORGIVEN_AFTER_S = 600.0
"""A load that has gone well for this long clears the record of earlier failures."""


@dataclass(slots=True)
class _Tries:
    failures: int = 0
    next_at_s: float = 0.0
    ordered: bool = False


class Reconciler:
    """Call `step` whenever something changed, and about once a second. It only gives orders; agents report back."""

    def __init__(
        self, registry: Registry, clock: Clock, *, slots: int, context_tokens: int, unload_within_s: float
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._slots = slots
        self._context_tokens = context_tokens
        self._unload_within_s = unload_within_s
        self._tries: dict[tuple[NodeId, ModelName], _Tries] = {}
        self._random = random.Random()
        self._unloads_ordered: set[int] = set()

    def step(self) -> None:
        for record in self._registry.records():
            if record.takes_work:
                self._step_node(record)

    def _step_node(self, record: NodeRecord) -> None:
        assert record.link is not None, "takes_work says so"
        freeing = False
        for name, replica in record.replicas.items():
            if name == record.assigned or replica.report.kept or replica.report.state is ReplicaState.FAILED:
                continue
            freeing = True
            if replica.report.state is ReplicaState.READY and replica.incarnation not in self._unloads_ordered:
                self._unloads_ordered.add(replica.incarnation)
                log.info("node %s unloads %s", record.name, name)
                record.link.unload(name, drain_s=self._unload_within_s)
        # The old model leaves before the new one comes: both at once may not fit the memory.
        if record.assigned is None or freeing:
            return
        replica = record.replicas.get(record.assigned)
        tries = self._tries.setdefault((record.node_id, record.assigned), _Tries())
        now_s = self._clock.monotonic_s()
        if replica is not None and replica.report.state is not ReplicaState.FAILED:
            if replica.report.state is ReplicaState.READY and now_s - tries.next_at_s > FORGIVEN_AFTER_S:
                tries.failures = 0
            tries.ordered = False
            return
        if now_s < tries.next_at_s or tries.ordered:
            return
        log.info("node %s loads %s", record.name, record.assigned)
        tries.ordered = True
        record.link.load(record.assigned, slots=self._slots, context_tokens=self._context_tokens)

    def load_failed(self, record: NodeRecord, model: ModelName) -> float:
        """A load ended badly; returns the seconds until the next try: 1, 2, 4 … 60 with 50 % jitter."""
        tries = self._tries.setdefault((record.node_id, model), _Tries())
        delay_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2**tries.failures) * self._random.uniform(0.5, 1.5)
        tries.failures += 1
        tries.ordered = False
        tries.next_at_s = self._clock.monotonic_s() + delay_s
        return delay_s

    def link_is_new(self, record: NodeRecord) -> None:
        """Orders given on an earlier link of this node are void."""
        for (node_id, _), tries in self._tries.items():
            if node_id == record.node_id:
                tries.ordered = False
        self._unloads_ordered -= {replica.incarnation for replica in record.replicas.values()}
