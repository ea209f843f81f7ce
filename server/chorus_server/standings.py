"""Places in the queue and expected waits, worked out for all who wait at once and shared by everybody who asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chorus_proto.clock import Clock
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.queue_state import Standing
from chorus_server.line import by_turns
from chorus_server.scheduler import Scheduler
from chorus_server.tickets import Ticket

FRESH_S = 0.5
_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Serving:
    """A ready replica: where, and how many requests it takes at once."""

    node_id: NodeId
    slots: int
    slots_free: int


class HoldTimes:
    """For how long requests keep their slots, averaged over those that finished lately."""

    def __init__(self) -> None:
        self._on_node: dict[tuple[NodeId, ModelName], float] = {}
        self._anywhere: dict[ModelName, float] = {}

    def learn(self, node_id: NodeId, model: ModelName, seconds: float) -> None:
        known = self._on_node.get((node_id, model), seconds)
        self._on_node[node_id, model] = known + _WEIGHT * (seconds - known)
        known = self._anywhere.get(model, seconds)
        self._anywhere[model] = known + _WEIGHT * (seconds - known)

    def served_per_s(self, model: ModelName, serving: list[Serving]) -> float | None:
        """Slots that come free a second when all are in use; None while nobody can tell."""
        anywhere = self._anywhere.get(model)
        if anywhere is None or not any(one.slots for one in serving):
            return None
        return sum(
            one.slots / max(1e-3, self._on_node.get((one.node_id, model), anywhere)) for one in serving if one.slots
        )


@dataclass(frozen=True, slots=True)
class _Worked:
    at_s: float
    places: dict[int, int]
    order: list[Ticket]
    served_per_s: float | None


class Standings:
    """Of every model's line; at most every half second anew, because thousands may wait and each may ask."""

    def __init__(
        self, scheduler: Scheduler, holds: HoldTimes, serving: Callable[[ModelName], list[Serving]], clock: Clock
    ) -> None:
        self._scheduler = scheduler
        self._holds = holds
        self._serving = serving
        self._clock = clock
        self._worked: dict[ModelName, _Worked] = {}

    def of(self, ticket: Ticket) -> Standing:
        worked = self._of_model(ticket.group.model)
        place = worked.places.get(ticket.number)
        if place is None:  # it came since
            worked = self._of_model(ticket.group.model, anew=True)
            place = worked.places.get(ticket.number, len(worked.order))
        return self._standing(place, worked)

    def order(self, model: ModelName) -> list[tuple[Ticket, Standing]]:
        """All who wait for the model, in the order in which they are likely to be served."""
        worked = self._of_model(model, anew=True)
        return [(ticket, self._standing(place, worked)) for place, ticket in enumerate(worked.order, 1)]

    @staticmethod
    def _standing(place: int, worked: _Worked) -> Standing:
        wait_s = None if worked.served_per_s is None else place / worked.served_per_s
        return Standing(position=place, of=len(worked.order), expected_wait_s=wait_s)

    def next_wait_s(self, model: ModelName, user: str | None = None) -> float | None:
        """How long the next request of `user`, or of somebody who has none waiting, would wait; None: unknown."""
        serving = self._serving(model)
        rate = self._holds.served_per_s(model, serving)
        if rate is None:
            return None
        if not self._scheduler.waiting(model) and any(one.slots_free for one in serving):
            return 0.0
        return self._scheduler.last_place(model, user, after=1) / rate

    def last_wait_s(self, model: ModelName, user: str) -> float | None:
        """How long the last of the user's requests that wait is going to wait; None: unknown."""
        rate = self._holds.served_per_s(model, self._serving(model))
        return None if rate is None else self._scheduler.last_place(model, user) / rate

    def _of_model(self, model: ModelName, *, anew: bool = False) -> _Worked:
        now_s = self._clock.monotonic_s()
        worked = self._worked.get(model)
        if worked is None or anew or now_s - worked.at_s > FRESH_S:
            order = by_turns(
                self._scheduler.tickets(model),
                self._scheduler.debts,
                background_share=self._scheduler.rules.background_share,
            )
            worked = _Worked(
                at_s=now_s,
                places={ticket.number: place for place, ticket in enumerate(order, 1)},
                order=order,
                served_per_s=self._holds.served_per_s(model, self._serving(model)),
            )
            self._worked = {one: known for one, known in self._worked.items() if self._scheduler.waiting(one)}
            self._worked[model] = worked
        return worked
