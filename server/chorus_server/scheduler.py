"""Who gets which slot: waiting requests are matched with replicas, one by one, until nothing more fits.

Everything here is decided from its arguments and the injected clock, without waiting for anything: the coordinator's
waiting room and the simulator of `bench.simulation` run the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from chorus_proto.clock import Clock
from chorus_proto.errors import QueueFull
from chorus_proto.ids import ModelName
from chorus_proto.values import Priority, RoutingStrategy
from chorus_server.fairness import Debts
from chorus_server.line import Line
from chorus_server.prefixes import BLOCK_BYTES, Prefixes
from chorus_server.routing import PROMPTS_TOGETHER_S, Candidate, Held, Router, prompt_s
from chorus_server.tickets import Group, Ticket
from chorus_server.worth_waiting import Better, better_later

BYTES_PER_TOKEN = 3
_GAP_WEIGHT = 0.1

IN_TIME_SHARE = 0.8
"""A slot must come within so much of the time for a first token, less the reading of the prompt."""
LONG_GAP_SHARE = 0.25

_LOOK_AGAIN_S = 0.05
"""At least so long passes until who lets a free slot pass looks again, unless another one comes free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRules:
    """How many may wait, and in which proportion background work is served."""

    limit: int
    model_limit: int
    user_limit: int
    bytes_limit: int
    background_share: float


@dataclass(slots=True)
class _Pace:
    """How long it takes from one serving to the next while somebody waits."""

    gap_s: float = 0.0
    last_s: float | None = None

    def served(self, now_s: float, *, others_wait: bool) -> None:
        if self.last_s is not None:
            self.gap_s += _GAP_WEIGHT * (now_s - self.last_s - self.gap_s) if self.gap_s else now_s - self.last_s
        self.last_s = now_s if others_wait else None


class Replicas(Protocol):
    """The replicas as they are now, and what happens to them."""

    def candidates(self, group: Group) -> list[Candidate]:
        """Those that may serve the group, full ones too."""
        ...

    def seat(self, ticket: Ticket, candidate: Candidate, prompt_s: float) -> None:
        """Give the ticket a slot there, so that the next `candidates` tells of one less.

        `prompt_s`: what reading its prompt is expected to take.
        """
        ...


class Scheduler:
    """Holds every request that waits. `enter`, then `serve`; `leave` when it no longer wants a slot."""

    def __init__(self, replicas: Replicas, router: Router, debts: Debts, clock: Clock, rules: QueueRules) -> None:
        self._replicas = replicas
        self._router = router
        self._clock = clock
        self.debts = debts
        self.rules = rules
        self.prefixes = Prefixes()
        self._lines: dict[ModelName, Line] = {}
        self._paces: dict[ModelName, _Pace] = {}
        self._waiting: Counter[str] = Counter()
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def models(self) -> list[ModelName]:
        return list(self._lines)

    def waiting(self, model: ModelName) -> int:
        return len(self._lines.get(model, ()))

    def tickets(self, model: ModelName) -> Iterator[Ticket]:
        line = self._lines.get(model)
        return iter(()) if line is None else line.tickets()

    def last_place(self, model: ModelName, user: str | None, *, after: int = 0) -> int:
        """By fair turns, the place of the last interactive request of `user`, or of one that comes so many `after`."""
        users = self._lines[model].interactive_users() if model in self._lines else Counter[str]()
        own = after + (0 if user is None else users.pop(user, 0))
        return own + sum(min(count, own) for count in users.values())

    def users(self, model: ModelName) -> int:
        """How many different users wait for the model."""
        return len({ticket.user for ticket in self.tickets(model)})

    def begin_to_wait(self, ticket: Ticket) -> None:
        """The ticket, which has entered, got no slot at once: see whether it may stay, and until when it is in time.

        Raises QueueFull. Durable work is written down already, and is never refused for others.
        """
        self._check_room(ticket)
        held_tokens = self.held(ticket).tokens
        prompts_s = [
            prompt_s(one, ticket.need, held_tokens.get(one.incarnation, 0.0))
            for one in self._replicas.candidates(ticket.group)
        ]
        patience_s = IN_TIME_SHARE * (ticket.on_time_until_s - ticket.came_s)
        gap_s = self._paces.get(ticket.group.model, _Pace()).gap_s
        if gap_s > LONG_GAP_SHARE * patience_s:
            # Slots come free so seldom that hardly anybody begins in time: who waits its turn is not late for it.
            patience_s = max(patience_s, gap_s * (1 + self._lines[ticket.group.model].users))
        ticket.on_time_until_s = ticket.came_s + patience_s - min(prompts_s, default=0.0)

    def _check_room(self, ticket: Ticket) -> None:
        rules, model = self.rules, ticket.group.model
        if ticket.priority is Priority.DURABLE:
            return
        if self._waiting[ticket.user] > rules.user_limit:
            raise QueueFull(f"{rules.user_limit} of your requests are waiting already; try again later")
        if self.waiting(model) > rules.model_limit:
            raise QueueFull(f"{rules.model_limit} requests are waiting for {model} already; try again later")
        if self._count > rules.limit or self._bytes > rules.bytes_limit:
            raise QueueFull(f"{self._count - 1} requests are waiting already; try again later")

    def enter(self, ticket: Ticket) -> None:
        """Begin to wait; `serve` may give it a slot at once, else it is to `begin_to_wait`."""
        if not self._waiting[ticket.user]:
            self.debts.join(ticket.user)
        line = self._lines.get(ticket.group.model)
        if line is None:
            line = self._lines[ticket.group.model] = Line(self.debts, background_share=self.rules.background_share)
        line.add(ticket)
        self._waiting[ticket.user] += 1
        self._count += 1
        self._bytes += ticket.size_bytes

    def leave(self, ticket: Ticket) -> None:
        """End to wait, with a slot or without."""
        line = self._lines[ticket.group.model]
        line.remove(ticket)
        if not len(line):
            del self._lines[ticket.group.model]
        self._waiting[ticket.user] -= 1
        if not self._waiting[ticket.user]:
            del self._waiting[ticket.user]
        self._count -= 1
        self._bytes -= ticket.size_bytes

    def serve(self, model: ModelName | None = None) -> float | None:
        """Give every free slot of `model`, or of all models, to whom it is due.

        Returns after how many seconds to serve again although no slot came free until then; None: only when one does.
        """
        again_s: list[float] = []
        for one in [*self._lines] if model is None else [model]:
            while (line := self._lines.get(one)) is not None and self._serve_one(line, again_s):
                pass
        return min(again_s, default=None)

    def _serve_one(self, line: Line, again_s: list[float]) -> bool:
        found = {group: self._replicas.candidates(group) for group in line.groups()}
        free = {group for group, some in found.items() if any(one.slots_busy < one.slots for one in some)}
        if not free:
            return False
        now_s = self._clock.monotonic_s()
        for ticket in line.next(now_s, free.__contains__):
            candidates = found[ticket.group]
            held = self._held(ticket, now_s)
            chosen = self._router.choose(ticket.strategy, candidates, ticket.need, held)
            if chosen is None:
                continue
            better = self.better_later(ticket, chosen, candidates, held, others=len(line) - 1)
            if better is not None:
                again_s.append(max(_LOOK_AGAIN_S, better.free_in_s))
                continue
            line.served(ticket, ticket.expected_tokens)
            self.leave(ticket)
            self._paces.setdefault(ticket.group.model, _Pace()).served(now_s, others_wait=len(line) > 0)
            self._seat(ticket, chosen, held)
            return True
        again_s += [
            one.prompts_s - PROMPTS_TOGETHER_S
            for group in free
            for one in found[group]
            if one.slots_busy < one.slots and one.prompts_s > PROMPTS_TOGETHER_S
        ]
        return False

    def better_later(
        self, ticket: Ticket, chosen: Candidate, candidates: Sequence[Candidate], held: Held, *, others: int
    ) -> Better | None:
        """What the ticket had better wait for, instead of taking the slot that it could have now."""
        if ticket.strategy is not RoutingStrategy.EXPECTED_FINISH:
            return None
        may_wait_s = ticket.may_wait_until_s - self._clock.monotonic_s()
        return better_later(chosen, candidates, ticket.need, held, others=others, may_wait_s=may_wait_s)

    def _held(self, ticket: Ticket, now_s: float) -> Held:
        blocks = ticket.need.blocks
        left_s = ticket.on_time_until_s - now_s
        found = self.prefixes.held(blocks) if blocks else None
        if not found:
            return Held({}, left_s)
        block_tokens = ticket.need.prompt_tokens / len(blocks)
        return Held({one: self.prefixes.trust(one) * count * block_tokens for one, count in found.items()}, left_s)

    def _seat(self, ticket: Ticket, chosen: Candidate, held: Held) -> None:
        need = ticket.need
        held_tokens = held.tokens.get(chosen.incarnation, 0.0)
        ticket.held_tokens = held_tokens / self.prefixes.trust(chosen.incarnation)
        self.prefixes.keep(
            chosen.incarnation, need.blocks, room_blocks=chosen.cache_tokens * BYTES_PER_TOKEN // BLOCK_BYTES
        )
        self.debts.charge(ticket.user, ticket.expected_tokens)
        self._replicas.seat(ticket, chosen, prompt_s(chosen, need, held_tokens))

    def held(self, ticket: Ticket) -> Held:
        """What the replicas have of its prompt."""
        return self._held(ticket, self._clock.monotonic_s())

    def gave_back(self, ticket: Ticket, tokens: float) -> None:
        """The ticket's slot is free again, and what was done on it counts `tokens`; call `serve` after this."""
        self.debts.correct(ticket.user, tokens - ticket.expected_tokens)
