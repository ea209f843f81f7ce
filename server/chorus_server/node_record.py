"""One node as the coordinator knows it. Only the registry writes to these records."""

from __future__ import annotations

from dataclasses import dataclass, field

from chorus_proto.exposure import is_loopback
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import (
    ALL_OURS,
    Courtesy,
    Footprint,
    Heartbeat,
    Hello,
    ModelFile,
    NodeState,
    ReplicaReport,
    ReplicaState,
    Score,
)
from chorus_server.inflight import InFlight
from chorus_server.link import AgentLink
from chorus_server.rates import CPU_STREAM_SHARE, GPU_STREAM_SHARE, Rates

IN_MEMORY = (ReplicaState.LOADING, ReplicaState.READY, ReplicaState.UNLOADING)
"""States in which a replica takes memory."""


@dataclass(slots=True)
class ReplicaRecord:
    """A replica and the slots given away. `incarnation` changes whenever it is loaded anew."""

    report: ReplicaReport
    incarnation: int
    ready_since_s: float | None = None
    """When this incarnation was reported ready, on the coordinator's monotonic clock."""
    in_flight: InFlight = field(default_factory=InFlight)
    """The slots given away."""
    told_to_go: bool = False
    told_to_stay: bool = False
    """Ordered once; a new link makes a new incarnation, and the order is given again."""
    to_rest: bool = False
    """Somebody wants it freed: it is loaded again when it is asked for, not because it is assigned."""

    @property
    def slots_busy(self) -> int:
        return len(self.in_flight)


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
    courtesy: Courtesy = ALL_OURS
    stopped: bool = False
    """Its agent was ended on purpose: the PC may be on, and nobody wants it to work."""

    @property
    def node_id(self) -> NodeId:
        return self.hello.node_id

    @property
    def name(self) -> str:
        return self.hello.name

    def digest_of(self, model: ModelName) -> str:
        """Of its file of this model; empty when the node told none."""
        file = self.models.get(model)
        return "" if file is None else file.digest

    @property
    def takes_work(self) -> bool:
        return self.state is NodeState.ALIVE and self.link is not None

    @property
    def takes_requests(self) -> bool:
        """Like `takes_work`, and its owner leaves it to us."""
        return self.takes_work and not self.courtesy.paused

    @property
    def may_be_woken(self) -> bool:
        """It sleeps or has vanished, and told how a packet reaches it. A node on the hub's own PC is awake."""
        host = self.address.rpartition(":")[0].strip("[]")
        return not self.state.is_here and not self.stopped and bool(self.hello.mac_addresses) and not is_loopback(host)

    @property
    def stream_share(self) -> float:
        """See `rates`."""
        return CPU_STREAM_SHARE if self.device is DeviceKind.CPU else GPU_STREAM_SHARE

    def slots_of(self, replica: ReplicaRecord) -> int:
        """Generations at once on this replica, within what the PC's owner leaves to all replicas together."""
        slots = max(1, replica.report.slots)
        if self.courtesy.slots is None:
            return slots
        others = sum(other.slots_busy for other in self.replicas.values() if other is not replica)
        return max(0, min(slots, self.courtesy.slots - others))

    def waits_for_callers(self, model: ModelName) -> bool:
        """True for a model that is assigned and is loaded again only when it is asked for.

        Its owner had it freed, or it had to go for a warm copy that is still there.
        """
        newcomer = self.displaced_by.get(model)
        replica = None if newcomer is None else self.replicas.get(newcomer)
        displaced = (
            replica is not None and replica.report.keep_alive_s is not None and replica.report.state in IN_MEMORY
        )
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
