"""What the processes tell each other about PCs and models, as frozen values. Unknown is None, never 0.

Longer than other files, because who reads one of them needs the others.
"""

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
    ASLEEP = "asleep"
    """It said goodbye because its PC went to sleep; it may be woken."""

    @property
    def is_here(self) -> bool:
        """False once its lease has ended, for whatever reason."""
        return self not in (NodeState.DEAD, NodeState.ASLEEP)


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


class Priority(StrEnum):
    """Who goes first. Background work (batch, durable) keeps a share of every model's slots however many wait."""

    INTERACTIVE = "interactive"
    """Somebody looks at the screen."""
    BATCH = "batch"
    DURABLE = "durable"
    """Like batch, and written down already: it waits as long as it has to and is never refused for others."""

    @property
    def is_background(self) -> bool:
        return self is not Priority.INTERACTIVE


class ThinkingStyle(StrEnum):
    """How a model marks its thoughts."""

    PLAIN = "plain"
    TAGS = "tags"
    OPENED_TAGS = "opened_tags"
    """The chat template writes `<think>`; the model only ends the thought."""
    HARMONY = "harmony"


class AggregateStrategy(StrEnum):
    """How several answers become one."""

    FIRST = "first"
    CONCAT = "concat"
    LONGEST = "longest"
    VOTE = "vote"
    """What most say, each weighed by how often it is right; equal after normalising."""
    SEMANTIC = "semantic"
    """The answer that is nearest to all others."""
    JUDGE = "judge"
    """A model reads all and picks one."""
    SYNTHESISE = "synthesise"
    """A model reads all and writes a new one."""
    RACE = "race"
    """Whoever says the first word goes on alone."""


class Dialect(StrEnum):
    """How the agent writes the answer down."""

    TEXT = "text"
    OPENAI_CHAT = "openai_chat"
    OPENAI_COMPLETION = "openai_completion"
    OLLAMA_CHAT = "ollama_chat"
    OLLAMA_GENERATE = "ollama_generate"
    ANTHROPIC = "anthropic"
    OPENAI_RESPONSES = "openai_responses"
    EMBEDDINGS = "embeddings"
    """One JSON value a line for each text of `Generation.inputs`, in their order."""


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
    thinking: ThinkingStyle | None = None
    """None: nobody looked."""
    thinking_optional: bool = False
    """Its chat template can be told not to let it think."""
    tools: bool = False
    """Its chat template knows tools."""
    fetched: bool = False
    """It came over the network by our own doing, so it may be deleted again; all else is the PC's owner's."""
    copy_digest: str = ""
    """Of a folder: SHA-256 of the archive it travels as, 64 hex digits; "" while unknown. Files have `digest`."""
    copy_bytes: int = 0
    """Of a folder: the length of that archive."""


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
    degraded: bool = False
    """Far slower than it was on this PC, also after a restart; `detail` says how far."""
    decode_tokens_per_s: float | None = None
    """Measured by the agent itself, one generation alone."""


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
class Courtesy:
    """What a PC leaves to its owner for now, and why, in words that follow the PC's name and a colon."""

    paused: bool = False
    """No new work; what runs goes on."""
    slots: int | None = None
    """Generations at once on the whole PC; None: no limit beside the replicas' own."""
    reason: str = ""

    @property
    def words(self) -> str:
        """`polite pause: its owner is at the keyboard`; "" when the PC is all ours."""
        if self.paused:
            return f"polite pause: {self.reason}"
        return "" if self.slots is None else f"polite, slots: {self.slots}: {self.reason}"


ALL_OURS = Courtesy()


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
    mac_addresses: tuple[str, ...] = ()
    """Of this PC, to wake it."""
    courtesy: Courtesy = ALL_OURS


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
    courtesy: Courtesy = ALL_OURS
    mac_addresses: tuple[str, ...] = ()


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
    alias_of: ModelName | None = None
    """A further name of that model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CouncilSummary:
    """A council that can be asked under its name as if it were a model."""

    name: ModelName
    strategy: AggregateStrategy
    members: str
    """Who belongs to it, in words."""


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
    councils: tuple[CouncilSummary, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which model one node should hold, what it held, and why in one sentence."""

    node_id: NodeId
    node_name: str
    model: ModelName | None
    previous_model: ModelName | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedOn:
    """A node that was told to load or unload a model; `state` is that of its replica before, None: it had none."""

    node_id: NodeId
    node_name: str
    state: ReplicaState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOrder:
    """What a load or unload set going. The replicas' reports tell what comes of it."""

    model: ModelName
    nodes: tuple[OrderedOn, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reassignment:
    assignments: tuple[Assignment, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """A wake-on-LAN packet was sent for each of these addresses; none: the node is here already."""

    node_id: NodeId
    node_name: str
    mac_addresses: tuple[str, ...] = ()
