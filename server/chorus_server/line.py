"""Who is next among the requests that wait for one model.

Requests that can still begin in time go before the late ones: serving the late first would make everybody late (an
ageing guard costs 15-19 points of goodput at full load). Within both, users take turns by their debts. Who only waits
its turn is not late (see `Scheduler`), so that nobody is passed by one who has had more. Background work keeps its
share of what is given away while others wait, and has the rest of the time to itself.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from heapq import nsmallest
from itertools import chain, islice
from operator import itemgetter

from chorus_server.fairness import Debts
from chorus_server.tickets import Group, Ticket

LOOK_AT = 16
"""Requests that are weighed for one free slot: a first one may rather wait for another node."""

OVERTAKES = 4
"""Average jobs by which a user may be ahead of one whose request is late."""

OWED_JOBS = 4
"""Background work that cannot use the slots that come free is not owed more than so many jobs for it."""


class _Turns:
    """One user's requests in one group and class, oldest first."""

    def __init__(self) -> None:
        self._fresh: OrderedDict[int, Ticket] = OrderedDict()
        self._late: OrderedDict[int, Ticket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._fresh) + len(self._late)

    def __iter__(self) -> Iterator[Ticket]:
        return chain(self._fresh.values(), self._late.values())

    def add(self, ticket: Ticket) -> None:
        self._fresh[ticket.number] = ticket

    def remove(self, ticket: Ticket) -> None:
        if self._fresh.pop(ticket.number, None) is None:
            del self._late[ticket.number]

    def in_order(self, now_s: float) -> Iterator[Ticket]:
        while self._fresh:
            number, ticket = next(iter(self._fresh.items()))
            if not ticket.is_late(now_s):
                break
            del self._fresh[number]
            self._late[number] = ticket
        return iter(self)


_Users = dict[str, _Turns]


class Line:
    """All that wait for one model. `Group`s keep apart those who suit different replicas."""

    def __init__(self, debts: Debts, *, background_share: float) -> None:
        self._debts = debts
        self._background_share = background_share
        self._interactive: dict[Group, _Users] = {}
        self._background: dict[Group, _Users] = {}
        self._owed_to_background = 0.0
        """Tokens that background work is behind its share, since it began to wait."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, ticket: Ticket) -> None:
        users = self._of(ticket).setdefault(ticket.group, {})
        users.setdefault(ticket.user, _Turns()).add(ticket)
        self._count += 1

    def remove(self, ticket: Ticket) -> None:
        groups = self._of(ticket)
        users = groups[ticket.group]
        turns = users[ticket.user]
        turns.remove(ticket)
        self._count -= 1
        if not turns:
            del users[ticket.user]
        if not users:
            del groups[ticket.group]
        if not self._background:
            self._owed_to_background = 0.0

    def _of(self, ticket: Ticket) -> dict[Group, _Users]:
        return self._background if ticket.priority.is_background else self._interactive

    @property
    def users(self) -> int:
        """Who wait with interactive requests, each counted once."""
        return len({user for users in self._interactive.values() for user in users})

    def groups(self) -> list[Group]:
        return list(dict.fromkeys((*self._interactive, *self._background)))

    def interactive_users(self) -> Counter[str]:
        """How many requests of each user wait, background work apart."""
        counts: Counter[str] = Counter()
        for users in self._interactive.values():
            for user, turns in users.items():
                counts[user] += len(turns)
        return counts

    def tickets(self) -> Iterator[Ticket]:
        for groups in (self._interactive, self._background):
            for users in groups.values():
                for turns in users.values():
                    yield from turns

    def next(self, now_s: float, suits: Callable[[Group], bool]) -> list[Ticket]:
        """The first few for a slot that came free, the best first, of the groups that `suits` says could take one."""
        interactive = self._heads(self._interactive, now_s, suits)
        background = self._heads(self._background, now_s, suits)
        if self._owed_to_background > 0:
            return [*background, *interactive][:LOOK_AT]
        return [*interactive, *background][:LOOK_AT]

    def _heads(self, groups: dict[Group, _Users], now_s: float, suits: Callable[[Group], bool]) -> list[Ticket]:
        turns = [
            (user, one) for group, users in groups.items() if users and suits(group) for user, one in users.items()
        ]
        if not turns:
            return []
        if len(turns) == 1:
            return list(islice(turns[0][1].in_order(now_s), LOOK_AT))
        debts = self._debts.of_all({user for user, _ in turns})
        each = max(1, LOOK_AT // len(turns))
        most = min(debts.values()) + OVERTAKES * self._debts.job
        heads = (
            (ticket.is_late(now_s) or debts[user] > most, debts[user], ticket.number, ticket)
            for user, one in turns
            for ticket in islice(one.in_order(now_s), each)
        )
        return [head[3] for head in nsmallest(LOOK_AT, heads, key=itemgetter(0, 1, 2))]

    def served(self, ticket: Ticket, tokens: float) -> None:
        """A slot was given to `ticket`, which was in this line."""
        if not self._background:
            return
        if not ticket.priority.is_background:
            owed = self._owed_to_background + self._background_share * tokens
            self._owed_to_background = min(owed, OWED_JOBS * self._debts.job)
        elif self._interactive:
            self._owed_to_background -= (1 - self._background_share) * tokens


def by_turns(tickets: Iterable[Ticket], debts: Debts, *, background_share: float) -> list[Ticket]:
    """The order in which these are likely to be served, if nobody else comes: users in turn, with background work
    between interactive requests by its share."""
    waiting = sorted(tickets, key=lambda ticket: ticket.number)
    owed = debts.of_all({ticket.user for ticket in waiting})
    rank: dict[tuple[bool, str], int] = {}
    keyed: tuple[list[tuple[int, float, int, Ticket]], ...] = ([], [])
    for ticket in waiting:
        background = ticket.priority.is_background
        rank[background, ticket.user] = own = rank.get((background, ticket.user), 0) + 1
        keyed[background].append((own, owed[ticket.user], ticket.number, ticket))
    for entries in keyed:
        entries.sort(key=lambda entry: entry[:3])
    interactive, background_work = ([entry[3] for entry in entries] for entries in keyed)
    merged: list[Ticket] = []
    credit = 0.0
    for ticket in interactive:
        merged.append(ticket)
        credit += background_share
        if background_work and credit >= 1 - background_share:
            merged.append(background_work.pop(0))
            credit -= 1 - background_share
    return merged + background_work
