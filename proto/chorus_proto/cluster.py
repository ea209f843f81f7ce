"""The narrow door to the coordinator: what the HTTP wrapper, the console and the CLI may ask of a cluster.

Two implementations pass one contract suite: `Coordinator` itself (same process) and `GrpcCluster` (multiplexed stream).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from chorus_proto.errors import ClusterError
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import (
    AggregateStrategy,
    ClusterState,
    Dialect,
    Reassignment,
    RoutingStrategy,
    Timings,
    Usage,
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    """A node has taken the request. Comes again, with another node, when an attempt moved before its first token."""

    node_id: NodeId
    node_name: str
    model: ModelName
    attempt: int
    queued_s: float
    strategy: RoutingStrategy


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


CallEvent: TypeAlias = CallStarted | CallOutput | CallFinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question to several nodes: `nodes` by id or name (empty: all), `model` narrows to its replicas."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStarted:
    node_id: NodeId
    node_name: str
    model: ModelName


@dataclass(frozen=True, slots=True)
class MemberDelta:
    """Bytes of one member's answer, UTF-8, possibly cut inside a character."""

    node_id: NodeId
    text: bytes


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AskFinished:
    """All members, answered or not, and one aggregate. `agreement` is the share of answers equal to it, 0-1."""

    strategy: AggregateStrategy
    text: str
    members: tuple[MemberAnswer, ...]
    seconds: float
    agreement: float


AskEvent: TypeAlias = MemberStarted | MemberDelta | MemberAnswer | AskFinished


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

    async def reassign(self) -> Reassignment:
        """Compute the placement anew and start applying it."""
        ...

    async def metrics(self) -> bytes:
        """The coordinator's metrics in Prometheus's text format."""
        ...
