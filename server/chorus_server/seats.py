"""A place in the waiting room, and the slot that comes of it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

from chorus_proto.queue_state import Standing
from chorus_server.link import AgentLink
from chorus_server.node_record import NodeRecord, ReplicaRecord
from chorus_server.tickets import Group, Ticket


class Room(Protocol):
    """What a place or a seat tells and asks the room that it is in."""

    def left(self, place: Place) -> None: ...

    def given_back(self, seat: Seat, tokens: float, *, finished: bool) -> None: ...

    def wrote(self, seat: Seat, tokens: int) -> None: ...

    def standing(self, ticket: Ticket) -> Standing: ...

    def is_loading(self, group: Group) -> bool: ...


class Seat:
    """One slot of one replica, taken. Give it back exactly once, however the request ended."""

    def __init__(
        self,
        room: Room,
        ticket: Ticket,
        record: NodeRecord,
        replica: ReplicaRecord,
        link: AgentLink,
        now_s: float,
    ) -> None:
        self.ticket = ticket
        self.record = record
        self.replica = replica
        self.link = link
        self.since_s = now_s
        self.streams = 1.0
        """That ran on the replica on average while this one wrote; known once it was given back."""
        self._room = room
        self._held = True

    def wrote(self, tokens: int) -> None:
        self._room.wrote(self, tokens)

    def give_back(self, tokens: float = 0.0, *, finished: bool = False) -> None:
        """`tokens`: what was done for the request, see `job_tokens`."""
        if self._held:
            self._held = False
            self._room.given_back(self, tokens, finished=finished)


class Place:
    """A request in the waiting room; leave by `with`."""

    def __init__(
        self, room: Room, ticket: Ticket, *, within_s: float, settles_at_s: float, back_until_s: float
    ) -> None:
        self.ticket = ticket
        self.within_s = within_s
        """How long it may wait, unless its model is being loaded."""
        self.settles_at_s = settles_at_s
        """Until then no refusal is final: its replica has failed this moment, and what its node makes of it is not
        known yet."""
        self.back_until_s = back_until_s
        """Until then it waits although no node is there that could refuse it: a lost one may come back."""
        self.came: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        self._room = room
        self._taken = False

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._room.left(self)
        if not self._taken and self.came.done() and not self.came.cancelled() and self.came.exception() is None:
            # The seat was handed over in the very moment the waiter gave up.
            self.came.result().give_back()

    def seat_at_once(self) -> Seat | None:
        """The slot, if one was free when the request came."""
        if not self.came.done() or self.came.exception() is not None:
            return None
        self._taken = True
        return self.came.result()

    async def seat(self, within_s: float) -> Seat | None:
        """The slot; None when there is none within the time. Raises why no node can serve the request."""
        if not self.came.done():
            await asyncio.wait([self.came], timeout=max(0.0, within_s))
        if not self.came.done():
            return None
        seat = self.came.result()
        self._taken = True
        return seat

    def standing(self) -> Standing:
        return self._room.standing(self.ticket)

    def is_loading(self) -> bool:
        """True while nothing serves the model and something loads it: this is no wait for others."""
        return self._room.is_loading(self.ticket.group)


class Places:
    """Everybody who waits, by what they wait for: it is looked at several times a second, however many they are."""

    def __init__(self) -> None:
        self._by_group: dict[Group, dict[int, Place]] = {}

    def add(self, place: Place) -> None:
        self._by_group.setdefault(place.ticket.group, {})[place.ticket.number] = place

    def pop(self, ticket: Ticket) -> Place | None:
        """Take the ticket's place out; None when it has none."""
        places = self._by_group.get(ticket.group)
        place = None if places is None else places.pop(ticket.number, None)
        if places is not None and not places:
            del self._by_group[ticket.group]
        return place

    def groups(self) -> list[tuple[Group, Place, int]]:
        """Each group with the place that has waited longest and how many there are."""
        return [(group, next(iter(places.values())), len(places)) for group, places in self._by_group.items()]

    def of(self, group: Group) -> list[Place]:
        return list(self._by_group.get(group, {}).values())
