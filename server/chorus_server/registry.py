"""Who is there: nodes, their leases, replicas and slots. The one place that changes them; everything is synchronous.

A lease knows three ages of the last heartbeat: younger than `suspect_after_s` is alive, younger than `dead_after_s` is
suspect (no new work, running streams stay), older is dead (the lease ends, work on it fails). A broken stream makes a
node suspect at once, because nothing can be sent to it until it is back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count

from chorus_proto.clock import Clock
from chorus_proto.errors import DuplicateNode, NodeNotFound
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import (
    Heartbeat,
    Hello,
    ModelFile,
    Node,
    NodeState,
    Replica,
    ReplicaReport,
    ReplicaState,
)
from chorus_server.introduction import check_hello
from chorus_server.link import AgentLink
from chorus_server.node_record import IN_MEMORY, NodeRecord, ReplicaRecord
from chorus_server.rates import Rates
from chorus_server.scoring import score, usable_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A node's state changed."""

    record: NodeRecord
    reason: str


class Registry:
    """All nodes by id. Methods that find a fact wrong raise; nothing here waits."""

    def __init__(
        self,
        clock: Clock,
        *,
        suspect_after_s: float,
        dead_after_s: float,
        forget_after_s: float = 86_400.0,
        forget_asleep_after_s: float = 2_592_000.0,
    ) -> None:
        """`forget_asleep_after_s`: for dead nodes that may be woken; `forget_after_s` for the others."""
        self._clock = clock
        self._suspect_after_s = suspect_after_s
        self._dead_after_s = dead_after_s
        self._forget_after_s = forget_after_s
        self._forget_asleep_after_s = forget_asleep_after_s
        self._nodes: dict[NodeId, NodeRecord] = {}
        self._incarnations = count(1)

    def admit(self, hello: Hello, address: str, link: AgentLink) -> NodeRecord:
        """Register an agent, or take it back after a lost link.

        Raises InvalidRequest, VersionMismatch, and DuplicateNode when another live agent holds the same id.
        """
        check_hello(hello)
        known = self._nodes.get(hello.node_id)
        if known is not None and known.link is not None and known.hello.instance_id != hello.instance_id:
            raise DuplicateNode(
                f"node id {hello.node_id} is already connected from {known.address} as {known.name!r}; this agent came "
                f"from {address}. Two PCs share one state folder or a cloned disk: delete node.json in the state "
                "folder of one of them"
            )
        record = NodeRecord(
            hello=hello,
            client_id=f"client-{hello.name}-{hello.node_id[:6]}",
            address=address,
            score=score(hello.hardware),
            link=link,
            beat_at_s=self._clock.monotonic_s(),
            models={file.name: file for file in hello.models},
            replicas={report.model: self._new_replica(report) for report in hello.replicas},
            device=usable_bytes(hello.hardware)[1],
            courtesy=hello.courtesy,
        )
        if known is not None:
            if known.link is not None:
                known.link.broken("opened a new link")
            record.rates = known.rates
            record.footprints = known.footprints
            record.displaced_by, record.resting = known.displaced_by, known.resting
            record.assigned, record.assignment_reason = known.assigned, known.assignment_reason
        self._nodes[hello.node_id] = record
        return record

    def restore(self, hello: Hello, address: str, *, unseen_s: float) -> NodeRecord | None:
        """List a node that an earlier run of the coordinator knew; None unless it may be woken."""
        if hello.node_id in self._nodes:
            return None
        record = NodeRecord(
            hello=hello,
            client_id=f"client-{hello.name}-{hello.node_id[:6]}",
            address=address,
            score=score(hello.hardware),
            link=None,
            beat_at_s=self._clock.monotonic_s() - unseen_s,
            state=NodeState.ASLEEP,
            models={file.name: file for file in hello.models},
            device=usable_bytes(hello.hardware)[1],
        )
        if not record.may_be_woken:
            return None
        self._nodes[hello.node_id] = record
        return record

    def renew(self, record: NodeRecord, beat: Heartbeat) -> Transition | None:
        """A heartbeat came: the lease starts anew."""
        if record.link is None:
            # A frame that was still in the queue when the link went: it proves nothing any more.
            return None
        record.beat = beat
        record.beat_at_s = self._clock.monotonic_s()
        if record.state is NodeState.ALIVE:
            return None
        record.state = NodeState.ALIVE
        return Transition(record=record, reason="its heartbeat is back")

    def lost_link(self, record: NodeRecord, reason: str) -> Transition | None:
        """The stream of this very lease ended. None when the node has a newer one or was dead already."""
        link, record.link = record.link, None
        if link is not None:
            link.broken(reason)
        if self._nodes.get(record.node_id) is not record or record.state is not NodeState.ALIVE:
            return None
        record.state = NodeState.SUSPECT
        return Transition(record=record, reason=reason)

    def left(self, record: NodeRecord, reason: str, *, sleeps: bool = False) -> Transition | None:
        """The agent said goodbye: dead or asleep at once, without waiting for its lease."""
        link, record.link = record.link, None
        if link is not None:
            link.broken(reason)
        if self._nodes.get(record.node_id) is not record or not record.state.is_here:
            return None
        record.state = NodeState.ASLEEP if sleeps else NodeState.DEAD
        record.stopped = not sleeps
        record.replicas.clear()
        return Transition(record=record, reason=reason)

    def sweep(self) -> list[Transition]:
        """Age every lease; return what changed. Call a few times a second."""
        now_s = self._clock.monotonic_s()
        changes: list[Transition] = []
        for record in list(self._nodes.values()):
            age_s = now_s - record.beat_at_s
            forget_after_s = self._forget_asleep_after_s if record.may_be_woken else self._forget_after_s
            if not record.state.is_here and age_s >= forget_after_s:
                del self._nodes[record.node_id]
            if record.state is NodeState.ALIVE and age_s >= self._suspect_after_s:
                record.state = NodeState.SUSPECT
                changes.append(Transition(record=record, reason=f"no heartbeat for {age_s:.1f} s"))
            if record.state is NodeState.SUSPECT and age_s >= self._dead_after_s:
                record.state = NodeState.DEAD
                record.replicas.clear()
                link, record.link = record.link, None
                if link is not None:
                    link.broken(f"gave no heartbeat for {age_s:.1f} s")
                changes.append(Transition(record=record, reason=f"no heartbeat for {age_s:.1f} s"))
        return changes

    def report(self, record: NodeRecord, report: ReplicaReport) -> None:
        """An agent told the state of one replica."""
        known = record.replicas.get(report.model)
        if report.degraded and (known is None or not known.report.degraded):
            # What was measured before is no longer true, and would be forgotten too slowly.
            record.rates[report.model] = Rates(
                report.decode_tokens_per_s, changed=True, stream_share=record.stream_share
            )
        elif known is not None and known.report.degraded and not report.degraded:
            record.rates.pop(report.model, None)
        if report.state is ReplicaState.GONE:
            record.replicas.pop(report.model, None)
            self._displaced(record, report.model, report.evicted_for)
            outlived = known is not None and known.told_to_stay and known.report.keep_alive_s is not None
            if known is not None and (outlived or known.to_rest):
                record.resting.add(report.model)
            return
        record.displaced_by.pop(report.model, None)
        record.resting.discard(report.model)
        if known is None or (report.state is ReplicaState.READY and self._is_new(known.report, report)):
            record.replicas[report.model] = self._new_replica(report)
        else:
            known.report = report

    @staticmethod
    def _is_new(known: ReplicaReport, report: ReplicaReport) -> bool:
        """Whether the engine behind a ready replica is another one than the one known before."""
        same = (ReplicaState.READY, ReplicaState.UNLOADING)  # an agent may think better of an unload
        return known.state not in same or report.restarts > known.restarts

    def _new_replica(self, report: ReplicaReport) -> ReplicaRecord:
        ready_since_s = self._clock.monotonic_s() if report.state is ReplicaState.READY else None
        return ReplicaRecord(report, next(self._incarnations), ready_since_s)

    @staticmethod
    def _displaced(record: NodeRecord, gone: ModelName, newcomer: ModelName | None) -> None:
        """`gone` left for `newcomer`, if for any; what had to go for `gone` has to go for `newcomer` now."""
        record.displaced_by.pop(gone, None)
        if newcomer is None:
            return
        heirs = {victim: newcomer for victim, by in record.displaced_by.items() if by == gone and victim != newcomer}
        record.displaced_by.update(heirs)
        record.displaced_by[gone] = newcomer

    def explain_absence(self, record: NodeRecord) -> None:
        """A node came back without its assigned model, with warm copies: the largest is taken for the reason.

        What was reported on a link that this coordinator never had, or lost, is not known in any better way.
        """
        model = record.assigned
        if model is None or model in record.replicas or record.waits_for_callers(model):
            return
        warm = [
            replica.report
            for replica in record.replicas.values()
            if replica.report.keep_alive_s is not None and replica.report.state in IN_MEMORY and not replica.report.kept
        ]
        if warm:
            record.displaced_by[model] = max(warm, key=lambda report: report.resident_bytes or 0).model

    def inventory(self, record: NodeRecord, models: Iterable[ModelFile]) -> None:
        record.models = {file.name: file for file in models}

    def get(self, node_id: NodeId) -> NodeRecord | None:
        """None where there is no such node, or no longer."""
        return self._nodes.get(node_id)

    def find(self, wanted: str) -> NodeRecord:
        """A node by id, client id, name or the start of its id. Raises NodeNotFound."""
        known = self.get(NodeId(wanted))
        if known is not None:
            return known
        named = [r for r in self._nodes.values() if wanted in (r.client_id, r.name)]
        if named:
            # A PC set up anew has its old name and a new id; the dead one is not meant.
            return min(named, key=lambda record: not record.state.is_here)
        starts = [record for record in self._nodes.values() if len(wanted) >= 4 and record.node_id.startswith(wanted)]
        if len(starts) == 1:
            return starts[0]
        names = ", ".join(sorted(record.name for record in self._nodes.values())) or "none is connected"
        raise NodeNotFound(f"no node is called {wanted!r}; nodes: {names}", param="node")

    def records(self) -> list[NodeRecord]:
        return list(self._nodes.values())

    def present(self) -> list[NodeRecord]:
        """Nodes that are neither dead nor asleep."""
        return [record for record in self._nodes.values() if record.state.is_here]

    def shown(self, record: NodeRecord) -> Node:
        """The node as a value, for people and programs."""
        beat = record.beat
        return Node(
            node_id=record.node_id,
            name=record.name,
            client_id=record.client_id,
            address=record.address,
            state=record.state,
            hardware=record.hello.hardware,
            score=record.score,
            engines=record.hello.engines,
            models=tuple(record.models.values()),
            replicas=tuple(self._replica_shown(record, replica) for replica in record.replicas.values()),
            assigned_model=record.assigned,
            assignment_reason=record.assignment_reason,
            heartbeat_age_s=self._clock.monotonic_s() - record.beat_at_s,
            uptime_s=0.0 if beat is None else beat.uptime_s,
            running=0 if record.link is None else record.link.running,
            tokens_total=0 if beat is None else beat.tokens_total,
            version=record.hello.version,
            ram_available_bytes=None if beat is None else beat.ram_available_bytes,
            cpu_percent=None if beat is None else beat.cpu_percent,
            footprints=tuple(record.footprints.values()),
            courtesy=record.courtesy,
            mac_addresses=record.hello.mac_addresses,
        )

    def replica_shown(self, record: NodeRecord, model: ModelName) -> Replica | None:
        """One replica as a value; None when the node has none of that model."""
        replica = record.replicas.get(model)
        return None if replica is None else self._replica_shown(record, replica)

    @staticmethod
    def _replica_shown(record: NodeRecord, replica: ReplicaRecord) -> Replica:
        rates = record.rates.get(replica.report.model, Rates())
        return Replica(
            report=replace(replica.report),
            slots_busy=replica.slots_busy,
            decode_tokens_per_s=rates.decode_tokens_per_s,
            prefill_tokens_per_s=rates.prefill_tokens_per_s,
        )
