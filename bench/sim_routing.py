"""Every routing strategy on simulated PCs: `python -m bench.sim_routing [--quick] [--seeds N]`, run from the root.

The coordinator's own scheduler decides, on a clock that the simulation moves: the same classes, unchanged, learning
speeds and answer lengths as they do in service. Beside them stand what balancers without a queue do: a request is bound
to a PC when it comes. Goodput is the share of requests whose first token came within 2 s and whose others came within
100 ms on average; load is offered work over the fluid limit, which no scheduler reaches with bursty arrivals.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from bench.load import percentile
from bench.sim_engine import KINDS, READ_START_S, Engine, Job, Kind
from bench.sim_workloads import Ask, Shape, conversations, jobs
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
GPU_LAN = ["4090"] * 2 + ["3090"] * 3 + ["3060"] * 5 + ["1080ti"] * 4 + ["m4max"] * 3 + ["m2pro"] * 3
OFFICE = ["4090"] + ["3090"] * 2 + ["3060"] * 4 + ["1080ti"] * 3 + ["m4max"] * 2 + ["m2pro"] * 2 + ["cpu"] * 6
HOME = ["4090", "3060", "m2pro", "cpu", "cpu"]
WARM_UP = 0.15


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
        outcome.good += ttft_s <= TTFT_S and decode_s / max(1, job.answer_tokens - 1) <= TPOT_S
        outcome.prompt_tokens += job.prompt_tokens
        outcome.cached_tokens += job.cached_tokens
        outcome.longest_wait_s = max(outcome.longest_wait_s, ttft_s)


def _bound_round_robin(nodes: list[Node], _chance: random.Random, number: int) -> Node:
    return nodes[number % len(nodes)]


def _bound_least_connections(nodes: list[Node], _chance: random.Random, _number: int) -> Node:
    return min(nodes, key=lambda node: (node.engine.load, node.number))


def _bound_by_chance(nodes: list[Node], chance: random.Random, _number: int) -> Node:
    return chance.choice(nodes)


BOUND = {
    "round robin": _bound_round_robin,
    "least connections": _bound_least_connections,
    "random": _bound_by_chance,
}


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    strategy: RoutingStrategy
    bind: Callable[[list[Node], random.Random, int], Node] | None = None


POLICIES = [Policy(f"chorus {one}", one) for one in RoutingStrategy] + [
    Policy(f"bound at arrival: {name}", RoutingStrategy.RANDOM, bind) for name, bind in BOUND.items()
]


def fluid_rate(kinds: Sequence[Kind], asks: Sequence[Ask], fresh_tokens: float) -> float:
    """Requests a second that the nodes could serve if work were a fluid: each at the batch that suits it best."""
    answer = fmean(ask.answer_tokens for ask in asks)
    context = fmean(ask.prompt_tokens for ask in asks) + answer / 2
    rate = 0.0
    for kind in kinds:
        batches = [n for n in range(1, kind.slots + 1) if kind.step_s(n, n * context) <= TPOT_S]
        if batches:
            token_s = min(kind.step_s(n, n * context) / n for n in batches)
            rate += 1 / (READ_START_S + fresh_tokens / kind.prefill_tokens_per_s + answer * token_s)
    return rate


def fresh_tokens_of(asks: Sequence[Ask]) -> float:
    """Tokens of a prompt that are in no cache when all that was ever read or written is kept."""
    known: set[int] = set()
    fresh = 0
    for ask in asks:
        held = sum(block in known for block in ask.blocks)
        fresh += max(1, ask.prompt_tokens - 64 * held)
        known.update(ask.blocks)
        known.update(ask.answer_blocks)
    return fresh / len(asks)


def print_outcomes(rows: list[tuple[str, list[Outcome]]]) -> None:
    print(f"  {'':<36} {'goodput':>8} {'ttft p50':>9} {'p99':>8} {'longest':>8} {'cached':>7} {'refused':>8}")
    for name, outcomes in rows:
        asked = sum(one.asked for one in outcomes)
        ttft = [value for one in outcomes for value in one.ttft_s] or [0.0]
        cached = sum(one.cached_tokens for one in outcomes) / max(1, sum(one.prompt_tokens for one in outcomes))
        print(
            f"  {name:<36} {sum(one.good for one in outcomes) / asked:8.3f} {percentile(ttft, 0.5):8.2f}s"
            f" {percentile(ttft, 0.99):7.1f}s {max(one.longest_wait_s for one in outcomes):7.1f}s"
            f" {cached:7.2f} {sum(one.refused for one in outcomes) / asked:8.3f}",
            flush=True,
        )


def chat(name: str, machines: list[str], shape: Shape, *, seeds: Sequence[int], policies: Sequence[Policy]) -> None:
    kinds = [KINDS[one] for one in machines]
    sample = conversations(replace(shape, rate=1.0, seconds=3000, burst=None), random.Random(0))
    limit = fluid_rate(kinds, sample, fresh_tokens_of(sample))
    wished = replace(shape, rate=shape.rate * limit)
    # Conversations end when they grow too long, and begin late: ask for so much more that the wished load comes.
    shape = replace(wished, rate=wished.rate**2 / _realised(wished, seeds))
    print(
        f"{name}: {len(kinds)} PCs, {shape.users} users, {_realised(shape, seeds) / limit:.2f} of the fluid limit "
        f"({limit:.2f} requests/s), {shape.seconds:.0f} s, {len(seeds)} seeds"
    )
    rows: list[tuple[str, list[Outcome]]] = []
    for policy in policies:
        found: list[Outcome] = []
        for seed in seeds:
            asks = conversations(shape, random.Random(seed))
            run = Simulation(
                kinds,
                asks,
                strategy=policy.strategy,
                bind=policy.bind,
                seed=seed,
                measure_from_s=WARM_UP * shape.seconds,
            )
            found.append(run.run())
        rows.append((policy.name, found))
    print_outcomes(rows)


def _realised(shape: Shape, seeds: Sequence[int]) -> float:
    """Requests a second that really come."""
    return fmean(len(conversations(shape, random.Random(seed))) for seed in seeds) / shape.seconds


def three_unequal() -> list[Kind]:
    """Speeds 1 : 2 : 4, the same slots; batches cost as on a GPU."""
    return [
        Kind(
            name=f"{speed}x",
            a_s=0.0352 / speed,
            b_s=0.0048 / speed,
            k_s=0.0,
            prefill_tokens_per_s=500.0 * speed,
            slots=4,
            cache_tokens=16_384,
            score=60.0,
        )
        for speed in (1, 2, 4)
    ]


def makespan(number: int, *, seeds: Sequence[int], policies: Sequence[Policy]) -> None:
    """How long it takes until all of `number` jobs are done that come at once."""
    kinds = three_unequal()
    print(f"batch: {number} jobs at once on three PCs of speeds 1:2:4, {len(seeds)} seeds")
    spans: dict[str, float] = {}
    bound_s = 0.0
    for policy in policies:
        total_s = 0.0
        bound_s = 0.0
        for seed in seeds:
            asks = jobs(number, random.Random(seed))
            rate = sum(_full_rate(kind, asks) for kind in kinds)
            bound_s += number / rate
            total_s += Simulation(kinds, asks, strategy=policy.strategy, bind=policy.bind, seed=seed).run().last_s
        spans[policy.name] = total_s / len(seeds)
    bound_s /= len(seeds)
    worst = spans["bound at arrival: round robin"]
    print(f"  {'fluid lower bound':<36} {bound_s:8.1f}s")
    for name, seconds in spans.items():
        print(
            f"  {name:<36} {seconds:8.1f}s   {seconds / bound_s:5.2f} of the bound   {seconds / worst:5.2f} of robin's"
        )
    print("  aim: expected_finish <= 1.10 of the bound and <= 0.80 of round robin's")


def _full_rate(kind: Kind, asks: Sequence[Ask]) -> float:
    answer = fmean(ask.answer_tokens for ask in asks)
    prompt = fmean(ask.prompt_tokens for ask in asks)
    token_s = min(kind.step_s(n, 0) / n for n in range(1, kind.slots + 1))
    return 1 / (READ_START_S + prompt / kind.prefill_tokens_per_s + answer * token_s)


def suite(seconds: float) -> list[tuple[str, list[str], Shape]]:
    """Name, PCs and conversations; rates are shares of what the PCs could serve as a fluid."""
    office = Shape(users=50, rate=0.5, seconds=seconds)
    found = [
        (f"office, {label}, load {load}", machines, replace(office, rate=load))
        for label, machines in (("GPU LAN", GPU_LAN), ("30 % CPUs", OFFICE))
        for load in (0.5, 0.7, 1.0)
    ]
    agents = Shape(users=8, rate=0.4, seconds=seconds, turns=20, think_s=1, system_tokens=2500, cv=1)
    found += [
        ("home", HOME, Shape(users=2, rate=0.25, seconds=seconds, think_s=8)),
        ("agents", GPU_LAN, agents),
        ("burst", GPU_LAN, replace(office, rate=0.4, burst=(seconds / 2, seconds / 2 + 60, 5))),
    ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, short runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a workload's name")
    flags = parser.parse_args()
    seeds = [101] if flags.quick else [101 + n for n in range(flags.seeds)]
    began_s = time.perf_counter()
    for name, machines, shape in suite(150.0 if flags.quick else 500.0):
        if flags.only in name:
            chat(name, machines, shape, seeds=seeds, policies=POLICIES)
    if flags.only in "batch":
        makespan(500, seeds=seeds, policies=POLICIES)
    print(f"simulated in {time.perf_counter() - began_s:.0f} s")


if __name__ == "__main__":
    main()
