"""Simulated PCs under the coordinator's own scheduler, on a clock that the simulation moves.

The same classes as in service, unchanged, learn speeds and answer lengths here. A request can also be bound to a PC
when it comes, as balancers without a queue do.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.sim_engine import Engine, Job, Kind
from bench.sim_workloads import Ask
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import Priority, RoutingStrategy
from chorus_server.fairness import Debts, job_tokens
from chorus_server.inflight import InFlight
from chorus_server.lengths import AnswerLengths
from chorus_server.rates import Rates
from chorus_server.routing import Candidate, Need, Router
from chorus_server.scheduler import QueueRules, Scheduler
from chorus_server.tickets import Group, Ticket

MODEL = ModelName("8b")
TTFT_S = 2.0
TPOT_S = 0.1
QUEUE_S = 60.0
RULES = QueueRules(limit=10**6, model_limit=10**6, user_limit=10**6, bytes_limit=1 << 40, background_share=0.2)


class SimClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s


@dataclass(slots=True, eq=False)
class Node:
    """An engine and the coordinator's books of it."""

    number: int
    engine: Engine
    rates: Rates = field(default_factory=Rates)
    in_flight: InFlight = field(default_factory=InFlight)
    version: int = 0
    tickets: dict[Job, tuple[Ticket, Ask]] = field(default_factory=dict[Job, tuple[Ticket, Ask]])


@dataclass(slots=True)
class Outcome:
    ttft_s: list[float] = field(default_factory=list[float])
    whole_s: list[float] = field(default_factory=list[float])
    """From asking to the last token."""
    good: int = 0
    asked: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    last_s: float = 0.0
    longest_wait_s: float = 0.0


class Simulation:
    """One run. `strategy` decides with the coordinator's scheduler; `bind`, if given, chooses at arrival instead."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        asks: Sequence[Ask],
        *,
        strategy: RoutingStrategy,
        bind: Callable[[list[Node], random.Random, int], Node] | None = None,
        seed: int = 1,
        queue_s: float = QUEUE_S,
        measure_from_s: float = 0.0,
    ) -> None:
        chance = random.Random(seed)
        self.clock = SimClock()
        self.nodes = [Node(number, Engine(kind, chance)) for number, kind in enumerate(kinds)]
        self.outcome = Outcome()
        self._asks = asks
        self._strategy = strategy
        self._bind = bind
        self._chance = chance
        self._queue_s = queue_s
        self._from_s = measure_from_s
        self._lengths = AnswerLengths()
        self._scheduler = Scheduler(self, Router(chance), Debts(self.clock, half_life_s=300), self.clock, RULES)
        self._asked_of: dict[int, Ask] = {}
        self._events: list[tuple[float, int, int, int]] = []
        """(time, kind, number, version): 0 an engine's event, 1 an arrival, 2 a cap, 3 the scheduler's own wish."""
        self._open: dict[int, Ticket] = {}
        self._firsts: list[tuple[float, int]] = []

    # What the scheduler asks and does ------------------------------------------------------------------------------

    def candidates(self, group: Group) -> list[Candidate]:
        now_s = self.clock.now_s
        return [
            Candidate(
                NodeId(f"{node.number:03}"),
                node.engine.kind.name,
                MODEL,
                node.engine.kind.slots,
                len(node.in_flight),
                0,
                node.engine.kind.score,
                node.rates.prefill_tokens_per_s,
                node.rates.decode_tokens_per_s,
                node.rates.speeds,
                node.in_flight.context_tokens,
                node.in_flight.tokens_left,
                node.in_flight.prompts_s(now_s),
                node.number,
                0.5 if node.engine.kind.name == "cpu" else 0.12,
                node.engine.kind.cache_tokens,
            )
            for node in self.nodes
        ]

    def seat(self, ticket: Ticket, candidate: Candidate, prompt_s: float) -> None:
        node = self.nodes[candidate.incarnation]
        ask = self._asked_of[ticket.number]
        self._open.pop(ticket.number, None)
        node.in_flight.begin(
            ticket.number,
            prompt_tokens=ticket.need.prompt_tokens,
            expected_tokens=ticket.need.expected_tokens,
            prompt_s=prompt_s,
            now_s=self.clock.now_s,
        )
        self._give(node, ticket, ask)

    def _give(self, node: Node, ticket: Ticket, ask: Ask) -> None:
        job = Job(ask.blocks, ask.prompt_tokens, ask.answer_tokens, ask.answer_blocks)
        node.tickets[job] = ticket, ask
        self._ended(node, node.engine.until(self.clock.now_s))
        node.engine.give(job, self.clock.now_s)
        self._schedule(node)

    def _schedule(self, node: Node) -> None:
        node.version += 1
        at_s = node.engine.next_event_s()
        if at_s is not None:
            heapq.heappush(self._events, (at_s, 0, node.number, node.version))

    # Running -------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        for number, ask in enumerate(self._asks):
            heapq.heappush(self._events, (ask.at_s, 1, number, 0))
        while self._events:
            at_s, kind, number, version = heapq.heappop(self._events)
            if kind == 0 and self.nodes[number].version != version:
                continue
            self.clock.now_s = at_s
            if kind == 0:
                node = self.nodes[number]
                self._ended(node, node.engine.until(at_s))
                self._schedule(node)
            elif kind == 1:
                self._arrive(self._asks[number])
            elif kind == 2 and number in self._open:
                self._scheduler.leave(self._open.pop(number))
                self._count_refused(self._asked_of[number])
            if kind != 2:
                self._serve()
        return self.outcome

    def _serve(self) -> None:
        if self._bind is None:
            again_s = self._scheduler.serve()
            if again_s is not None:
                heapq.heappush(self._events, (self.clock.now_s + max(1e-4, again_s), 3, 0, 0))

    def _arrive(self, ask: Ask) -> None:
        now_s = self.clock.now_s
        ticket = Ticket(
            request_id=RequestId(""),
            user=ask.user,
            priority=Priority.BATCH if ask.background else Priority.INTERACTIVE,
            group=Group(model=MODEL),
            need=Need(
                prompt_tokens=ask.prompt_tokens,
                expected_tokens=self._lengths.expected(MODEL, background=ask.background),
                affinity=ask.user,
                blocks=ask.blocks,
                urgent=not ask.background,
            ),
            strategy=self._strategy,
            came_s=now_s,
            on_time_until_s=now_s + TTFT_S,
            may_wait_until_s=math.inf if ask.background else now_s + self._queue_s,
        )
        self._asked_of[ticket.number] = ask
        if self._bind is not None:
            self._give(self._bind(self.nodes, self._chance, ticket.number), ticket, ask)
            return
        self._open[ticket.number] = ticket
        self._scheduler.enter(ticket)
        self._serve()
        if ticket.number in self._open:
            self._scheduler.begin_to_wait(ticket)
        if not ask.background:
            heapq.heappush(self._events, (now_s + self._queue_s, 2, ticket.number, 0))

    def _count_refused(self, ask: Ask) -> None:
        if ask.at_s >= self._from_s:
            self.outcome.asked += 1
            self.outcome.refused += 1
            self.outcome.longest_wait_s = max(self.outcome.longest_wait_s, self._queue_s)

    def _ended(self, node: Node, ended: list[Job]) -> None:
        for job in node.engine.writing:
            self._wrote(node, job)
        for job in ended:
            ticket, ask = node.tickets.pop(job)
            assert job.first_s is not None and job.done_s is not None
            decode_s = job.done_s - job.first_s
            if self._bind is None:
                streams = node.in_flight.end(ticket.number, self.clock.now_s)
                self._scheduler.gave_back(ticket, job_tokens(job.prompt_tokens - job.cached_tokens, job.answer_tokens))
                read = job.prompt_tokens - job.cached_tokens
                node.rates.learn(
                    (job.answer_tokens - 1) / decode_s if decode_s > 0 else None,
                    read / job.read_s,
                    streams=streams,
                    context_tokens=job.prompt_tokens + job.answer_tokens / 2,
                    answer_tokens=job.answer_tokens,
                    prompt_tokens=read,
                )
                self._scheduler.prefixes.told(
                    node.number, held_tokens=ticket.held_tokens, cached_tokens=job.cached_tokens
                )
                self._lengths.saw(MODEL, job.answer_tokens, background=ask.background)
            self._count(ask, job, decode_s)

    def _wrote(self, node: Node, job: Job) -> None:
        if self._bind is None and job.first_s is not None:
            ticket, _ = node.tickets[job]
            node.in_flight.wrote(ticket.number, 0, self.clock.now_s)

    def _count(self, ask: Ask, job: Job, decode_s: float) -> None:
        assert job.first_s is not None
        outcome = self.outcome
        outcome.last_s = self.clock.now_s
        if ask.at_s < self._from_s:
            return
        ttft_s = job.first_s - ask.at_s
        outcome.asked += 1
        outcome.ttft_s.append(ttft_s)
        outcome.whole_s.append(self.clock.now_s - ask.at_s)
        outcome.good += ttft_s <= TTFT_S and decode_s / max(1, job.answer_tokens - 1) <= TPOT_S
        outcome.prompt_tokens += job.prompt_tokens
        outcome.cached_tokens += job.cached_tokens
        outcome.longest_wait_s = max(outcome.longest_wait_s, ttft_s)
