"""Why a request would go where it would go, as frozen values. Unknown is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import Priority, RoutingStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedReplica:
    """A replica that could take the request, now or when a slot comes free."""

    node_id: NodeId
    node_name: str
    slots: int
    slots_busy: int
    cost_s: float | None = None
    """Expected seconds, for the request and for others; None where the strategy has no notion of seconds."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedNode:
    """A node that cannot take the request, and why."""

    node_id: NodeId
    node_name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What would become of a request that came now; nothing was run, loaded or counted for it."""

    model: ModelName
    strategy: RoutingStrategy
    priority: Priority
    verdict: str
    """One sentence for people."""
    chosen: NodeId | None = None
    """Where it would run at once; None: it would wait, or be refused."""
    model_digest: str = ""
    prompt_tokens: int = 0
    expected_tokens: int = 0
    """Of the answer."""
    waiting: int = 0
    """Requests for this model without a slot."""
    expected_wait_s: float | None = None
    ranking: tuple[RankedReplica, ...] = ()
    """From best to worst."""
    refused: tuple[RefusedNode, ...] = ()
