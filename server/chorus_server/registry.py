"""Who is there: nodes, their leases, replicas and slots. The one place that changes them; everything is synchronous.

A lease knows three ages of the last heartbeat: younger than `suspect_after_s` is alive, younger than `dead_after_s` is
suspect (no new work, running streams stay), older is dead (the lease ends, work on it fails). A broken stream makes a
node suspect at once, because nothing can be sent to it until it is back.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from chorus_proto import PROTOCOL_MAX, PROTOCOL_MIN, __version__
from chorus_proto.clock import Clock
from chorus_proto.errors import DuplicateNode, InvalidRequest, NodeNotFound, VersionMismatch
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import (
    Footprint,
    Heartbeat,
    Hello,
    ModelFile,
    Node,
    NodeState,
    Replica,
    ReplicaReport,
    ReplicaState,
    Score,
)
from chorus_server.link import AgentLink
from chorus_server.scoring import score, usable_bytes

NAME_LIMIT = 64
MODELS_LIMIT = 2_000
MODEL_NAME_LIMIT = 256
REPLICAS_LIMIT = 64

_HERE = (ReplicaState.LOADING, ReplicaState.READY, ReplicaState.UNLOADING)
"""States in which a replica takes memory."""


@dataclass(slots=True)
class Rates:
    """Measured speeds of one model on one node, exponentially averaged over finished requests."""

    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    samples: int = 0
    changed: bool = False

    def learn(self, decode_tokens_per_s: float | None, prefill_tokens_per_s: float | None) -> None:
        self.decode_tokens_per_s = _average(self.decode_tokens_per_s, decode_tokens_per_s)
        self.prefill_tokens_per_s = _average(self.prefill_tokens_per_s, prefill_tokens_per_s)
        self.samples += 1
        self.changed = True


def _average(known: float | None, sample: float | None, weight: float = 0.2) -> float | None:
    if sample is None or not math.isfinite(sample) or sample <= 0:
        return known
    return sample if known is None else known + weight * (sample - known)


@dataclass(slots=True)
class ReplicaRecord:
    """A replica and the slots given away. `incarnation` changes whenever it is loaded anew."""

    report: ReplicaReport
    incarnation: int
    ready_since_s: float | None = None
    """When this incarnation was reported ready, on the coordinator's monotonic clock."""
    slots_busy: int = 0
    told_to_go: bool = False
    told_to_stay: bool = False
    """Ordered once; a new link makes a new incarnation, and the order is given again."""


@dataclass(slots=True)
class NodeRecord:
    """One node since it was first seen by this coordinator. Only the registry writes to it."""

    hello: Hello
    client_id: str
    address: str
    score: Score
    link: AgentLink | None
    beat_at_s: float
    state: NodeState = NodeState.ALIVE
    beat: Heartbeat | None = None
    models: dict[ModelName, ModelFile] = field(default_factory=dict[ModelName, ModelFile])
    replicas: dict[ModelName, ReplicaRecord] = field(default_factory=dict[ModelName, ReplicaRecord])
    rates: dict[ModelName, Rates] = field(default_factory=dict[ModelName, Rates])
    footprints: dict[ModelName, Footprint] = field(default_factory=dict[ModelName, Footprint])
    assigned: ModelName | None = None
    assignment_reason: str = ""
    displaced_by: dict[ModelName, ModelName] = field(default_factory=dict[ModelName, ModelName])
    """Models that had to go, and the one that needed their memory."""
    resting: set[ModelName] = field(default_factory=set[ModelName])
    """Models that were to stay and that the PC's owner wants freed when nobody uses them."""
    device: DeviceKind = DeviceKind.CPU

    @property
    def node_id(self) -> NodeId:
        return self.hello.node_id

    @property
    def name(self) -> str:
        return self.hello.name

    @property
    def takes_work(self) -> bool:
        return self.state is NodeState.ALIVE and self.link is not None

    def waits_for_callers(self, model: ModelName) -> bool:
        """True for a model that is assigned and is loaded again only when it is asked for.

        Its owner had it freed, or it had to go for a warm copy that is still there.
        """
        newcomer = self.displaced_by.get(model)
        replica = None if newcomer is None else self.replicas.get(newcomer)
        displaced = replica is not None and replica.report.keep_alive_s is not None and replica.report.state in _HERE
        return displaced or model in self.resting

    @property
    def free_bytes(self) -> int | None:
        """Free now in the memory where models lie on this PC; None when it does not tell."""
        gpus = self.hello.hardware.gpus
        if self.device is DeviceKind.DISCRETE_GPU:
            told = [gpu.memory_free_bytes for gpu in gpus]
            if self.beat is not None and len(self.beat.gpu_free_bytes) == len(gpus):
                told = list(self.beat.gpu_free_bytes)
            mine = [free for gpu, free in zip(gpus, told, strict=True) if gpu.usable and not gpu.shares_host_memory]
            known = [free for free in mine if free is not None]
            return sum(known) if len(known) == len(mine) else None
        if self.beat is not None and self.beat.ram_available_bytes is not None:
            return self.beat.ram_available_bytes
        return self.hello.hardware.ram_available_bytes

    @property
    def total_bytes(self) -> int | None:
        """The larger of its cards' memory together and its RAM; None when unknown. No model is larger than that."""
        hardware = self.hello.hardware
        if hardware.ram_bytes is None:
            return None
        cards = sum(gpu.memory_bytes or 0 for gpu in hardware.gpus if gpu.usable and not gpu.shares_host_memory)
        return max(cards, hardware.ram_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A node's state changed."""

    record: NodeRecord
    reason: str


class Registry:
    """All nodes by id. Methods that find a fact wrong raise; nothing here waits."""

    def __init__(
        self, clock: Clock, *, suspect_after_s: float, dead_after_s: float, forget_after_s: float = 86_400.0
    ) -> None:
        self._clock = clock
        self._suspect_after_s = suspect_after_s
        self._dead_after_s = dead_after_s
        self._forget_after_s = forget_after_s
        self._nodes: dict[NodeId, NodeRecord] = {}
        self._incarnations = count(1)

    def admit(self, hello: Hello, address: str, link: AgentLink) -> NodeRecord:
        """Register an agent, or take it back after a lost link.

        Raises InvalidRequest, VersionMismatch, and DuplicateNode when another live agent holds the same id.
        """
        _check(hello)
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

    def left(self, record: NodeRecord, reason: str) -> Transition | None:
        """The agent said goodbye: dead at once, without waiting for its lease."""
        link, record.link = record.link, None
        if link is not None:
            link.broken(reason)
        if self._nodes.get(record.node_id) is not record or record.state is NodeState.DEAD:
            return None
        record.state = NodeState.DEAD
        record.replicas.clear()
        return Transition(record=record, reason=reason)

    def sweep(self) -> list[Transition]:
        """Age every lease; return what changed. Call a few times a second."""
        now_s = self._clock.monotonic_s()
        changes: list[Transition] = []
        for record in list(self._nodes.values()):
            age_s = now_s - record.beat_at_s
            if record.state is NodeState.DEAD and age_s >= self._forget_after_s:
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
        if report.state is ReplicaState.GONE:
            record.replicas.pop(report.model, None)
            self._displaced(record, report.model, report.evicted_for)
            if known is not None and known.told_to_stay and known.report.keep_alive_s is not None:
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
            if replica.report.keep_alive_s is not None and replica.report.state in _HERE and not replica.report.kept
        ]
        if warm:
            record.displaced_by[model] = max(warm, key=lambda report: report.resident_bytes or 0).model

    def inventory(self, record: NodeRecord, models: Iterable[ModelFile]) -> None:
        record.models = {file.name: file for file in models}

    def find(self, wanted: str) -> NodeRecord:
        """A node by id, client id, name or the start of its id. Raises NodeNotFound."""
        named = [r for r in self._nodes.values() if wanted in (r.node_id, r.client_id, r.name)]
        if named:
            # A PC set up anew has its old name and a new id; the dead one is not meant.
            return min(named, key=lambda record: record.state is NodeState.DEAD)
        starts = [record for record in self._nodes.values() if len(wanted) >= 4 and record.node_id.startswith(wanted)]
        if len(starts) == 1:
            return starts[0]
        names = ", ".join(sorted(record.name for record in self._nodes.values())) or "none is connected"
        raise NodeNotFound(f"no node is called {wanted!r}; nodes: {names}", param="node")

    def records(self) -> list[NodeRecord]:
        return list(self._nodes.values())

    def present(self) -> list[NodeRecord]:
        """Nodes that are not dead."""
        return [record for record in self._nodes.values() if record.state is not NodeState.DEAD]

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
        )

    @staticmethod
    def _replica_shown(record: NodeRecord, replica: ReplicaRecord) -> Replica:
        rates = record.rates.get(replica.report.model, Rates())
        return Replica(
            report=replace(replica.report),
            slots_busy=replica.slots_busy,
            decode_tokens_per_s=rates.decode_tokens_per_s,
            prefill_tokens_per_s=rates.prefill_tokens_per_s,
        )


def _check(hello: Hello) -> None:
    """Refuse an introduction that cannot be true, naming the field."""
    if hello.protocol_max < PROTOCOL_MIN or hello.protocol_min > PROTOCOL_MAX:
        older = "agent" if hello.protocol_max < PROTOCOL_MIN else "coordinator"
        raise VersionMismatch(
            f"this coordinator (Chorus {__version__}) speaks link protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, the agent "
            f"(Chorus {hello.version}) {hello.protocol_min} to {hello.protocol_max}: upgrade the {older}"
        )
    try:
        uuid.UUID(hello.node_id)
        uuid.UUID(hello.instance_id)
    except ValueError:
        raise InvalidRequest("node_id and instance_id must be UUIDs", param="node_id") from None
    if not hello.name or len(hello.name) > NAME_LIMIT or not hello.name.isprintable():
        raise InvalidRequest(f"name must be 1 to {NAME_LIMIT} printable characters", param="name")
    check_inventory(hello.models)
    if len(hello.replicas) > REPLICAS_LIMIT:
        raise InvalidRequest(f"at most {REPLICAS_LIMIT} models can be loaded on one node", param="replicas")


def check_inventory(models: Sequence[ModelFile]) -> None:
    """Refuse a list of models that cannot be true. Raises InvalidRequest."""
    if len(models) > MODELS_LIMIT:
        raise InvalidRequest(f"at most {MODELS_LIMIT} models can be announced", param="models")
    if any(not 0 < len(file.name) <= MODEL_NAME_LIMIT for file in models):
        raise InvalidRequest(f"a model's name has 1 to {MODEL_NAME_LIMIT} characters", param="models")
