"""From plan to reality: orders loads and unloads until each node holds the model it is assigned.

Warm copies, which came for a request (`demand`), are left to their agents: those free them when they are no longer
used, or when their memory is needed. The assigned model that had to go for one comes back once the copy is gone.
"""

from __future__ import annotations

import logging

from chorus_proto.values import ReplicaState
from chorus_server.loads import Loads
from chorus_server.node_record import NodeRecord
from chorus_server.registry import Registry

log = logging.getLogger(__name__)


class Reconciler:
    """Call `step` whenever something changed, and about once a second. It only gives orders; agents report back."""

    def __init__(self, registry: Registry, loads: Loads, *, unload_within_s: float) -> None:
        self._registry = registry
        self._loads = loads
        self._unload_within_s = unload_within_s

    def step(self) -> None:
        for record in self._registry.records():
            if record.takes_work:
                self._step_node(record)

    def _step_node(self, record: NodeRecord) -> None:
        freeing = self._unload_others(record)
        # The old model leaves before the new one comes: both at once may not fit the memory.
        if record.assigned is None or freeing or record.courtesy.paused:
            return
        replica = record.replicas.get(record.assigned)
        state = None if replica is None else replica.report.state
        if replica is not None and state in (ReplicaState.LOADING, ReplicaState.READY):
            if replica.report.keep_alive_s is not None and not replica.told_to_stay:
                replica.told_to_stay = True
                log.info("node %s keeps %s, a warm copy until now", record.name, record.assigned)
                self._loads.order(record, record.assigned, keep_alive_s=None)
            return
        if state is ReplicaState.UNLOADING or self._loads.pending(record, record.assigned):
            return
        if record.waits_for_callers(record.assigned) or self._loads.refusal(record, record.assigned) is not None:
            return
        log.info("node %s loads %s", record.name, record.assigned)
        self._loads.order(record, record.assigned, keep_alive_s=None)

    def _unload_others(self, record: NodeRecord) -> bool:
        """Order what was placed here once to go; True while any of it is still there."""
        assert record.link is not None, "only nodes that take work are looked at"
        freeing = False
        for name, replica in record.replicas.items():
            report = replica.report
            if name == record.assigned or report.kept or report.keep_alive_s is not None:
                continue
            if report.state is ReplicaState.FAILED:
                continue
            freeing = True
            if report.state is ReplicaState.READY and not replica.told_to_go:
                replica.told_to_go = True
                log.info("node %s unloads %s", record.name, name)
                record.link.unload(name, drain_s=self._unload_within_s)
        return freeing
