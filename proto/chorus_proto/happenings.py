"""What happens in a cluster, as the coordinator tells it to those who watch. Unknown is None, never 0.

Every event carries the whole value of what it speaks of, never a difference: who takes one twice, or after a fresh look
at the cluster, is not misled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from chorus_proto.errors import InvalidRequest
from chorus_proto.event_log import Position
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.queue_state import QueueState
from chorus_proto.transfers import Transfer
from chorus_proto.values import Node, NodeState, Priority, Replica

SIGN_OF_LIFE_S = 5.0
"""A watcher hears from the coordinator at least this often."""


class NodeNews(StrEnum):
    """What of a node is new."""

    JOINED = "joined"
    STATE = "state"
    POLITE = "polite"
    MODELS = "models"
    ASSIGNED = "assigned"


class Outcome(StrEnum):
    """How a request left a node."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    MOVED = "moved"
    """It goes on elsewhere: another start follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTold:
    node: Node
    news: NodeNews
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTold:
    node_id: NodeId
    node_name: str
    replica: Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTold:
    """A model is loaded because `waiting` requests wait for it."""

    node_id: NodeId
    node_name: str
    model: ModelName
    waiting: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferTold:
    transfer: Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTold:
    """Counts only: `queue` names no request."""

    queue: QueueState


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted:
    request_id: RequestId
    user: str
    model: ModelName
    priority: Priority
    node_id: NodeId
    node_name: str
    attempt: int
    queued_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded:
    """`seconds` since the node took it."""

    request_id: RequestId
    user: str
    model: ModelName
    node_id: NodeId
    node_name: str
    outcome: Outcome
    code: str = ""
    """ErrorCode of a failure, as text."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    decode_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """A node as its last heartbeat has it."""

    node_id: NodeId
    node_name: str
    state: NodeState
    running: int = 0
    slots: int = 0
    slots_busy: int = 0
    cpu_percent: float | None = None
    ram_available_bytes: int | None = None
    gpu_free_bytes: tuple[int, ...] = ()
    """In the order of its hardware's GPUs."""
    tokens_total: int = 0
    tokens_per_s: float | None = None
    """Between its last two heartbeats."""
    heartbeat_age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    nodes: tuple[NodeReading, ...]


Happening: TypeAlias = (
    NodeTold | ReplicaTold | LoadTold | TransferTold | QueueTold | RequestStarted | RequestEnded | Readings
)


@dataclass(frozen=True, slots=True)
class HubEvent:
    """`id` grows by one from event to event and begins anew with each epoch of the coordinator."""

    id: int
    at_unix_s: float
    what: Happening | None
    """None: only a newer coordinator knows this kind; its number counts all the same."""


def read_position(text: str) -> Position:
    """Of `EPOCH-ID`, as `str` of a position writes it. Raises InvalidRequest."""
    epoch, dash, number = text.partition("-")
    if not (dash and len(text) <= 40 and text.isascii() and epoch.isdigit() and number.isdigit()):
        raise InvalidRequest("This is no id of an event, such as 7-1042.", param="after")
    return Position(int(epoch), int(number))
