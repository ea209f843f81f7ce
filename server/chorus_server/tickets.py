"""One request that wants a slot, from its coming to the moment it has one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import Priority, RoutingStrategy
from chorus_server.fairness import job_tokens
from chorus_server.routing import Need

_numbers = count(1)


class Group(NamedTuple):
    """Requests that suit the same replicas: of `model`, maybe on one node only, on none of the `excluded`
    incarnations, maybe only of the file with this `digest`; a suspect's only where no other suspect runs."""

    model: ModelName
    node_id: NodeId | None = None
    excluded: frozenset[int] = frozenset()
    digest: str | None = None
    suspect: bool = False
    """See `suspects`."""


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """Times are on the coordinator's monotonic clock."""

    request_id: RequestId
    user: str
    priority: Priority
    group: Group
    need: Need
    strategy: RoutingStrategy
    came_s: float
    on_time_until_s: float
    """A first token is in time when a slot comes before this."""
    may_wait_until_s: float = math.inf
    """For a slot, when nothing has to be loaded for it."""
    text: bytes = b""
    """The generation's JSON, unread."""
    held_tokens: float = 0.0
    """Of its prompt, that the replica which it was given was taken to have."""
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def size_bytes(self) -> int:
        """What is held while it waits."""
        return len(self.text)

    @property
    def expected_tokens(self) -> float:
        """What its user is charged when it gets a slot."""
        return job_tokens(self.need.prompt_tokens, self.need.expected_tokens)

    def is_late(self, now_s: float) -> bool:
        """True for an interactive request that can no longer begin in time."""
        return not self.priority.is_background and now_s > self.on_time_until_s
