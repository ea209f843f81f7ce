"""Who waits for a slot and who has one, as frozen values. Unknown is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import Priority

SHOWN_LIMIT = 1_000
"""Requests that a `QueueState` names, of those who wait and of those who run; its counts are of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A request's place among those that wait for the same model: `position` 1 is next, `of` wait in all.

    An estimate: places change as others come, leave and are served by fair shares.
    """

    position: int
    of: int
    expected_wait_s: float | None = None
    """None while no replica of the model takes requests, or none was ever seen to finish one."""
    going_on: str = ""
    """While the model has to be loaded for it: who does, and how far that is, for people."""
    load_left_s: float | None = None
    """Until that load is expected to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request without a slot. `late`: it can no longer begin in time, and goes behind those that can."""

    request_id: RequestId
    user: str
    model: ModelName
    priority: Priority
    waited_s: float
    standing: Standing
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A request that has a slot, for `running_s` so far."""

    request_id: RequestId
    user: str
    model: ModelName
    priority: Priority
    node_id: NodeId
    node_name: str
    running_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQueue:
    """One model that is waited for or at work: how many, on how many slots, and how long a newcomer would wait."""

    model: ModelName
    waiting: int = 0
    running: int = 0
    slots: int = 0
    users: int = 0
    """Who wait, each counted once."""
    expected_wait_s: float | None = None
    """Of a user's next request, if it came now; None when nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """The queue as it is now; `waiting` in the order in which they are expected to be served."""

    waiting_total: int = 0
    running_total: int = 0
    limit: int = 0
    models: tuple[ModelQueue, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    running: tuple[Running, ...] = ()
