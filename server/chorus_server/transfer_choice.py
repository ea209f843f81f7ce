"""Which node sends a model's file, and which one gets it: pure decisions over frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chorus_proto.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A node that has the file. `failures`: so often it failed in this transfer; `bytes_per_s`: None until measured."""

    node_id: NodeId
    name: str
    sending: int = 0
    requests: int = 0
    failures: int = 0
    bytes_per_s: float | None = None


def best_sender(senders: Sequence[Sender], *, not_first: NodeId | None = None) -> Sender | None:
    """Who has failed least, then who is idle, then the fastest. `not_first` has just failed: anybody else before it."""
    return min(
        senders,
        key=lambda one: (
            one.failures,
            one.node_id == not_first,
            one.sending,
            one.requests,
            -(one.bytes_per_s or 0.0),
            one.node_id,
        ),
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taker:
    """A node without the file. `memory_bytes` is None while unknown, which refuses nobody."""

    node_id: NodeId
    score: float
    receiving: int = 0
    memory_bytes: int | None = None


def best_taker(takers: Sequence[Taker], *, needed_bytes: Mapping[NodeId, int]) -> Taker | None:
    """The ablest node that has the memory to load it, after those that already receive.

    `needed_bytes`: memory that the loaded model takes on each node. Whether its disk has the room, each node says.
    """
    fit = [one for one in takers if one.memory_bytes is None or one.memory_bytes >= needed_bytes.get(one.node_id, 0)]
    return min(fit, key=lambda one: (one.receiving, -one.score, one.node_id), default=None)
