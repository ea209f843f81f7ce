"""What happened in the cluster, told to whoever listens in this process: terminal, log, later pages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from chorus_proto.happenings import RequestEnded, RequestStarted
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.transfers import Transfer
from chorus_proto.values import Assignment, Node, NodeState, ReplicaReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRegistered:
    node: Node
    total_nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChanged:
    """A node turned alive, suspect, dead or asleep."""

    node_id: NodeId
    name: str
    state: NodeState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaChanged:
    node_id: NodeId
    node_name: str
    report: ReplicaReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaProgressed:
    """A replica is in the state that it was in; how far it has come, or its words, are new."""

    node_id: NodeId
    model: ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class CourtesyChanged:
    """A node's owner wants more of the PC, or less again."""

    node_id: NodeId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryChanged:
    """Other model files than before lie on a node's disk."""

    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAssigned:
    assignment: Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadDemanded:
    """A model is loaded because `waiting` requests wait for it; `reason` says why on this node."""

    node_id: NodeId
    node_name: str
    model: ModelName
    waiting: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferChanged:
    """A model is on its way to a node's disk, or no more."""

    transfer: Transfer


Event: TypeAlias = (
    NodeRegistered
    | NodeChanged
    | ReplicaChanged
    | ReplicaProgressed
    | CourtesyChanged
    | InventoryChanged
    | ModelAssigned
    | LoadDemanded
    | TransferChanged
    | RequestStarted
    | RequestEnded
)
Listener: TypeAlias = Callable[[Event], None]


class Events:
    """Calls every listener at once, in order of subscription. A listener must not block."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Returns the function that ends the subscription."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:  # a broken listener must not stop the coordinator
                log.exception("a listener failed on %s", type(event).__name__)
