"""The narrow door to the coordinator: what the HTTP wrapper, the console and the CLI may ask of a cluster.

Two implementations pass one contract suite: `Coordinator` itself (same process) and `GrpcCluster` (multiplexed stream).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from chorus_proto.backends import Backend, NewBackend
from chorus_proto.errors import ClusterError
from chorus_proto.event_log import Batch, Position
from chorus_proto.explained import Explanation
from chorus_proto.happenings import HubEvent
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.keys import ApiKey, KeyClaim, MadeKey, NewKey
from chorus_proto.queue_state import QueueState, Standing
from chorus_proto.transfers import Transfer
from chorus_proto.values import (
    AggregateStrategy,
    ClusterState,
    Dialect,
    ModelOrder,
    Priority,
    Reassignment,
    RoutingStrategy,
    Timings,
    Usage,
    Woken,
)

FOR_EVER_S = 10 * 365 * 86_400.0
"""A time to live that nobody sees the end of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request for one replica. `generation` is JSON of `Generation`, forwarded unread to the agent."""

    request_id: RequestId
    model: ModelName
    dialect: Dialect
    stream: bool
    generation: bytes
    prompt_tokens_estimate: int
    within_s: float
    """The caller's whole time, queue included."""
    max_tokens: int | None = None
    queue_within_s: float | None = None
    """How long to wait for a slot; 0 fails at once, None takes the coordinator's setting."""
    affinity: str | None = None
    node: str | None = None
    """Run only on this node, by id or name."""
    strategy: RoutingStrategy | None = None
    user: str = ""
    """Who asks, for fair shares: the owner of the API key, `OWNER/ID` for a person behind a trusted key, `@ADDRESS` for
    another PC that needed no key; empty when nobody is known."""
    key_id: str = ""
    """The API key whose quota it counts towards; empty when none was shown."""
    priority: Priority = Priority.INTERACTIVE
    digest: str | None = None
    """Run only where the model's file has this digest: two files of one name make different vectors."""
    standing_every_s: float | None = None
    """Tell the place in the queue (`CallWaiting`) at once and this often while it waits; None: never."""


@dataclass(frozen=True, slots=True)
class CallWaiting:
    """The request has no slot yet; comes only when asked for by `Call.standing_every_s`."""

    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    """A node has taken the request. Comes again, with another node, when an attempt moved before its first token."""

    node_id: NodeId
    node_name: str
    model: ModelName
    attempt: int
    queued_s: float
    strategy: RoutingStrategy
    model_digest: str = ""
    load_s: float = 0.0
    """Of `queued_s`: while the model was being loaded."""


@dataclass(frozen=True, slots=True)
class CallOutput:
    """Bytes of the answer in the caller's dialect, standing for `tokens` tokens."""

    payload: bytes
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished:
    """The end. `payload` holds the dialect's closing bytes and belongs to the body."""

    finish_reason: str
    usage: Usage
    timings: Timings
    payload: bytes = b""


CallEvent: TypeAlias = CallWaiting | CallStarted | CallOutput | CallFinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question to several nodes: `nodes` by id or name (empty: all), `model` narrows to its replicas.

    With `council` set, that council's definition says who is asked and how, and those two and `strategy` nothing.
    """

    request_id: RequestId
    generation: bytes
    prompt_tokens_estimate: int
    within_s: float
    strategy: AggregateStrategy = AggregateStrategy.FIRST
    model: ModelName | None = None
    nodes: tuple[str, ...] = ()
    max_tokens: int | None = None
    quorum: int | None = None
    """Answers that end the wait; None waits for all."""
    user: str = ""
    """See `Call.user`."""
    key_id: str = ""
    """See `Call.key_id`."""
    priority: Priority = Priority.INTERACTIVE
    council: ModelName | None = None
    queue_within_s: float | None = None
    """How long each member may wait for a slot; see `Call.queue_within_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStarted:
    """`member` tells the members of one question apart: a node may be asked several times."""

    node_id: NodeId
    node_name: str
    model: ModelName
    member: int = 0


@dataclass(frozen=True, slots=True)
class MemberDelta:
    """Bytes of one member's answer, UTF-8, possibly cut inside a character."""

    node_id: NodeId
    text: bytes
    member: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberAnswer:
    """What one node answered, or, with `error` set, why it did not."""

    node_id: NodeId
    node_name: str
    model: ModelName
    text: str = ""
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    tokens_per_s: float | None = None
    finish_reason: str = ""
    error: ClusterError | None = None
    member: int = 0
    weight: float | None = None
    """What its vote counted; known at the end, where votes were counted."""
    agrees: bool | None = None
    """It says the same as the aggregate; known at the end."""


@dataclass(frozen=True, slots=True)
class AskDelta:
    """Some more of the one answer, UTF-8, possibly cut inside a character; all of them make `AskFinished.text`."""

    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AskFinished:
    """All members, answered or not, and one aggregate. `agreement` is the share of answers equal to it, 0-1."""

    strategy: AggregateStrategy
    text: str
    members: tuple[MemberAnswer, ...]
    seconds: float
    agreement: float
    disagreement: float = 0.0
    """Share of the votes, by weight, against the aggregate, 0-1."""
    usage: Usage = field(default_factory=Usage)
    """Of all who were asked, judges and writers too."""
    spared: int = 0
    """Members who were not asked because the outcome stood before their turn."""
    note: str = ""
    """What did not go as the council is defined, for people."""


AskEvent: TypeAlias = MemberStarted | MemberDelta | MemberAnswer | AskDelta | AskFinished


class Cluster(Protocol):
    """A running coordinator. Every method raises `ClusterError`; closing a generator early cancels the work."""

    def submit(self, call: Call) -> AsyncGenerator[CallEvent, None]:
        """Run one request: `CallStarted`, outputs, then `CallFinished`. An error after an output ends the stream."""
        ...

    def ask(self, ask: Ask) -> AsyncGenerator[AskEvent, None]:
        """Ask several nodes: members as they come, then `AskFinished`. Raises NoAnswer when none answered."""
        ...

    async def state(self) -> ClusterState:
        """Nodes, models and counters, from memory."""
        ...

    async def queue_state(self) -> QueueState:
        """Who waits, in which place and for how long, and who runs."""
        ...

    def watch(self, after: Position | None = None) -> AsyncGenerator[Batch[HubEvent]]:
        """What happened after that event, or from now on, then what happens, until the coordinator stops.

        The first batch comes at once; one that is empty is a sign of life. Raises CoordinatorUnavailable.
        """
        ...

    async def explain(self, call: Call) -> Explanation:
        """What would become of this request if it came now; nothing is run, loaded or counted for it.

        Raises ModelNotFound, NodeNotFound and NoNodes.
        """
        ...

    async def reassign(self) -> Reassignment:
        """Compute the placement anew and start applying it."""
        ...

    async def load_model(self, model: str, *, node: str | None = None, keep_alive_s: float | None = None) -> ModelOrder:
        """Begin to load a model: on that node, else where it is loaded or loads already, else where it comes soonest.

        `keep_alive_s`: how long it stays without a use, `FOR_EVER_S` for as long as there is room; None takes the
        coordinator's setting, and leaves what is loaded as it is. Raises ModelNotFound, NodeNotFound and why no node
        can load it.
        """
        ...

    async def unload_model(self, model: str, *, node: str | None = None) -> ModelOrder:
        """Begin to free a model, on that node or everywhere, once its generations have ended. The next request for it
        loads it again.

        Raises ModelNotFound, NodeNotFound, and InvalidRequest where the PC's owner keeps it.
        """
        ...

    async def delete_model(self, model: str) -> ModelOrder:
        """Begin to delete a model's files from the disks of the nodes that fetched them; it is freed there first. Of a
        further name only the name goes.

        Raises ModelNotFound, and InvalidRequest where all files of it belong to the PCs' owners.
        """
        ...

    async def alias_model(self, name: str, model: str) -> ModelName:
        """Give a model a further name, under which it can be asked for from now on; the name of its file is returned.

        Raises ModelNotFound, InvalidRequest (no good name, or one that a model has), QueueFull.
        """
        ...

    async def metrics(self) -> bytes:
        """The coordinator's metrics in Prometheus's text format."""
        ...

    async def pull_model(self, source: str, *, node: str = "", sha256: str = "") -> Transfer:
        """Begin to bring a model onto a node's disk; the ablest node's when none is named (id or name).

        `source` is a name in an Ollama registry or the URL of a .gguf file. It is copied when another node has it, and
        done at once when the node itself has. Raises InvalidRequest, NodeNotFound, NodeLost, NoNodes, QueueFull.
        """
        ...

    async def copy_model(self, model: str, *, to: str) -> Transfer:
        """Begin to bring a model from a node that has it onto the disk of `to` (id or name); done when it is there.

        Raises ModelNotFound, NodeNotFound, NodeLost, NoReplica (no sender now), QueueFull and Unsupported.
        """
        ...

    async def transfers(self) -> tuple[Transfer, ...]:
        """Models on their way, and the last ones that arrived or did not; newest last."""
        ...

    async def cancel_transfer(self, transfer_id: str) -> Transfer:
        """Stop one, if it still runs; what came stays for another try. Raises NotFound."""
        ...

    async def wake(self, node: str) -> Woken:
        """Send a wake-on-LAN packet to a node, by id or name.

        Raises NodeNotFound, and InvalidRequest when it never told an address.
        """
        ...

    async def create_key(self, wish: NewKey) -> MadeKey:
        """Make an API key; its secret is in the answer and nowhere else. Raises InvalidRequest."""
        ...

    async def list_keys(self) -> tuple[ApiKey, ...]:
        """Every API key, revoked ones too, in the order of their making."""
        ...

    async def revoke_key(self, key: str) -> ApiKey:
        """End a key, by id or name, and what runs for it. A second time changes nothing. Raises NotFound."""
        ...

    async def register_backend(self, wish: NewBackend) -> Backend:
        """Make a node of a server that speaks OpenAI's API; the same name again takes the place of what it was.

        It may be away: it is asked again and again. Raises InvalidRequest and AddressNotAllowed.
        """
        ...

    async def unregister_backend(self, name: str) -> Backend:
        """Let a backend finish what it computes and forget it. Returns how it was. Raises NotFound."""
        ...

    async def backends(self) -> tuple[Backend, ...]:
        """Every backend and how it does, by name."""
        ...

    async def check_key(self, claim: KeyClaim) -> ApiKey:
        """The key that `claim` proves. Raises InvalidApiKey when it is unknown, revoked or expired."""
        ...
