"""What the processes tell each other about PCs and models, as frozen values. Unknown is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from chorus_proto.ids import InstanceId, ModelName, NodeId


class EngineKind(StrEnum):
    LLAMA_SERVER = "llama_server"
    OLLAMA = "ollama"
    REMOTE = "remote"
    SCRIPTED = "scripted"
    LOCAL_SERVERS = "local_servers"
    TRANSFORMERS = "transformers"


class NodeState(StrEnum):
    """By default 3 s without a heartbeat is suspect (no new work), 10 s is dead (the lease ends)."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


class ReplicaState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"
    GONE = "gone"


class Tier(StrEnum):
    """The seed's model sizes: small (1B), medium (3B), large (8B and up)."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class RoutingStrategy(StrEnum):
    EXPECTED_FINISH = "expected_finish"
    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"
    RANDOM = "random"
    WEIGHTED = "weighted"
    STICKY = "sticky"


class AggregateStrategy(StrEnum):
    FIRST = "first"
    CONCAT = "concat"
    LONGEST = "longest"
    VOTE = "vote"


class Dialect(StrEnum):
    """How the agent writes the answer down."""

    TEXT = "text"
    OPENAI_CHAT = "openai_chat"
    OPENAI_COMPLETION = "openai_completion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    name: str
    vendor: str = ""
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    flops_per_s: float | None = None
    shares_host_memory: bool = False
    usable: bool = True
    """False when no engine of the node can compute on it, e.g. the bundled one on Windows and Linux."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One PC. Memory bandwidth, CPU FLOPS and `bench_tokens_per_s` are measured there, not looked up."""

    os: str
    arch: str
    cpu_model: str | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None
    ram_bytes: int | None = None
    ram_available_bytes: int | None = None
    disk_free_bytes: int | None = None
    gpus: tuple[Gpu, ...] = ()
    memory_bandwidth_bytes_per_s: float | None = None
    cpu_flops_per_s: float | None = None
    bench_tokens_per_s: float | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What `sizing` needs of an architecture. `key_length` and `value_length` are elements per head."""

    architecture: str
    layers: int
    embedding_length: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    vocabulary: int
    trained_context_tokens: int
    parameters: int
    active_parameters: int | None = None
    sliding_window_tokens: int | None = None
    sliding_layers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model that lies on a node's disk, or that an engine there can serve."""

    name: ModelName
    file_bytes: int
    engine: EngineKind
    digest: str = ""
    shape: ModelShape | None = None
    embedding: bool = False
    owners: bool = False
    """The PC's owner starts and stops it; placement never chooses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds on the node's own clock; see common.proto."""

    queue_s: float = 0.0
    ttft_s: float = 0.0
    duration_s: float = 0.0
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How able a PC is, 0-100, and why; `chorus_server.scoring` says how it is made."""

    score: float
    comfortable_parameters: float
    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    limited_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """A replica as its agent reports it."""

    model: ModelName
    state: ReplicaState
    slots: int = 1
    engine: EngineKind | None = None
    resident_bytes: int | None = None
    predicted_bytes: int | None = None
    progress: float | None = None
    detail: str = ""
    context_tokens: int = 0
    load_s: float | None = None
    failure_code: str = ""
    """ErrorCode of a failed load, as text: a newer agent may know more of them."""
    kept: bool = False
    """The PC's owner wants it loaded, whatever the placement says; the coordinator uses it and never unloads it."""
    keep_alive_s: float | None = None
    """Loaded on demand: the agent frees it after so long without a use. None: it stays until it is told to go."""
    evicted_for: ModelName | None = None
    """GONE only: the model that needed the memory."""
    expected_bytes: int | None = None
    """`predicted_bytes`, corrected by what earlier loads measured."""
    arithmetic: str = ""
    """Pre-flight's sum, for people."""
    restarts: int = 0
    """Of its engine, since it last ran well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What the last load of one model on one node took, whether it is loaded now or not. See `ReplicaReport`."""

    model: ModelName
    engine: EngineKind
    context_tokens: int = 0
    slots: int = 1
    predicted_bytes: int | None = None
    expected_bytes: int | None = None
    resident_bytes: int | None = None
    load_s: float | None = None
    arithmetic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A replica as the coordinator sees it: the agent's report, the slots it gave away, and measured rates."""

    report: ReplicaReport
    slots_busy: int = 0
    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """An agent's introduction."""

    node_id: NodeId
    instance_id: InstanceId
    name: str
    version: str
    protocol_min: int
    protocol_max: int
    hardware: Hardware
    engines: tuple[EngineKind, ...] = ()
    models: tuple[ModelFile, ...] = ()
    replicas: tuple[ReplicaReport, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    sequence: int
    uptime_s: float
    ram_available_bytes: int | None = None
    gpu_free_bytes: tuple[int, ...] = ()
    running: int = 0
    tokens_total: int = 0
    cpu_percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    protocol: int
    epoch: int
    lease_s: float
    heartbeat_s: float
    version: str
    features: tuple[str, ...] = ()
    assigned_model: ModelName | None = None
    assignment_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One PC as the coordinator shows it to people and programs."""

    node_id: NodeId
    name: str
    client_id: str
    address: str
    state: NodeState
    hardware: Hardware
    score: Score
    engines: tuple[EngineKind, ...] = ()
    models: tuple[ModelFile, ...] = ()
    replicas: tuple[Replica, ...] = ()
    assigned_model: ModelName | None = None
    assignment_reason: str = ""
    heartbeat_age_s: float = 0.0
    uptime_s: float = 0.0
    running: int = 0
    tokens_total: int = 0
    version: str = ""
    ram_available_bytes: int | None = None
    cpu_percent: float | None = None
    footprints: tuple[Footprint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """A model somewhere in the cluster: where it is loaded and where it lies on disk."""

    name: ModelName
    tier: Tier | None = None
    file_bytes: int = 0
    parameters: int = 0
    ready_on: tuple[NodeId, ...] = ()
    on_disk_at: tuple[NodeId, ...] = ()
    digest: str = ""
    context_tokens: int = 0
    embedding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    version: str
    epoch: int
    uptime_s: float
    nodes: tuple[Node, ...] = ()
    models: tuple[ModelSummary, ...] = ()
    waiting: int = 0
    running: int = 0
    finished_total: int = 0
    failed_total: int = 0
    cancelled_total: int = 0
    routing_strategy: RoutingStrategy = RoutingStrategy.EXPECTED_FINISH
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which model one node should hold, what it held, and why in one sentence."""

    node_id: NodeId
    node_name: str
    model: ModelName | None
    previous_model: ModelName | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reassignment:
    assignments: tuple[Assignment, ...] = field(default=())
