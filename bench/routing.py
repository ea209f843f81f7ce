"""What one routing decision costs: `python -m bench.routing [NODES]`, run from the project's root.

A decision runs on the coordinator's event loop, so every request pays it and nothing else moves meanwhile. `choice` is
the strategy alone; `whole` is all that the loop does for one request: candidates from the books of every node, the
prompt's blocks looked up and kept, the user's debt, the slot taken and given back. Times are of the
processor, not of the wall: other programs on the PC are not the router's.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from dataclasses import dataclass

from bench.load import percentile
from chorus_proto.clock import SystemClock
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import Priority, RoutingStrategy
from chorus_server.fairness import Debts
from chorus_server.inflight import InFlight
from chorus_server.prefixes import blocks_of
from chorus_server.rates import Rates
from chorus_server.routing import Candidate, Need, Router
from chorus_server.scheduler import QueueRules, Scheduler
from chorus_server.tickets import Group, Ticket

NODES = 100
DECISIONS = 2_000
AIM_MS = 0.2
TINY = ModelName("tiny")
RULES = QueueRules(limit=10_000, model_limit=10_000, user_limit=10_000, bytes_limit=1 << 30, background_share=0.2)


def candidates(count: int, chance: random.Random) -> list[Candidate]:
    """Nodes of any load and strength; of half of them nothing is measured yet."""
    found: list[Candidate] = []
    for number in range(count):
        rates = Rates(40.0, 1000.0) if number % 2 else Rates()
        found.append(
            Candidate(
                node_id=NodeId(f"n{number}"),
                node_name=f"n{number}-pc",
                model=TINY,
                slots=4,
                slots_busy=chance.randrange(5),
                score=chance.uniform(20, 100),
                prefill_tokens_per_s=rates.prefill_tokens_per_s,
                decode_tokens_per_s=rates.decode_tokens_per_s,
                speeds=rates.speeds,
                context_tokens=chance.uniform(0, 4000),
            )
        )
    return found


def own_s() -> float:
    """Of this thread's own work: what other programs on the PC take away is not the router's."""
    return time.thread_time()


def choices_ms(strategy: RoutingStrategy, nodes: list[Candidate], chance: random.Random) -> list[float]:
    router = Router(chance)
    ask = Need(prompt_tokens=200)
    spent: list[float] = []
    for number in range(DECISIONS):
        need = ask._replace(affinity=str(number))
        began_s = own_s()
        router.choose(strategy, nodes, need)
        spent.append((own_s() - began_s) * 1000)
    return spent


@dataclass(slots=True)
class _Node:
    node_id: NodeId
    incarnation: int
    rates: Rates
    in_flight: InFlight


class _Books:
    """As the waiting room keeps them."""

    def __init__(self, count: int, chance: random.Random) -> None:
        self.clock = SystemClock()
        self.nodes = [
            _Node(NodeId(f"n{n}"), n, Rates(chance.uniform(10, 150), chance.uniform(100, 5000)), InFlight())
            for n in range(count)
        ]
        self.seated: list[tuple[Ticket, int]] = []

    def candidates(self, group: Group) -> list[Candidate]:
        now_s = self.clock.monotonic_s()
        return [
            Candidate(
                one.node_id,
                one.node_id,
                group.model,
                4,
                len(one.in_flight),
                0,
                60.0,
                one.rates.prefill_tokens_per_s,
                one.rates.decode_tokens_per_s,
                one.rates.speeds,
                one.in_flight.context_tokens,
                one.in_flight.tokens_left,
                one.in_flight.prompts_s(now_s),
                one.incarnation,
            )
            for one in self.nodes
        ]

    def seat(self, ticket: Ticket, candidate: Candidate, prompt_s: float) -> None:
        self.nodes[candidate.incarnation].in_flight.begin(
            ticket.number,
            prompt_tokens=ticket.need.prompt_tokens,
            expected_tokens=ticket.need.expected_tokens,
            prompt_s=0.0,
            now_s=self.clock.monotonic_s(),
        )
        self.seated.append((ticket, candidate.incarnation))


def whole_ms(count: int, chance: random.Random) -> list[float]:
    books = _Books(count, chance)
    scheduler = Scheduler(books, Router(chance), Debts(books.clock, half_life_s=300), books.clock, RULES)
    texts = [chance.randbytes(3_000) for _ in range(20)]
    spent: list[float] = []
    for number in range(DECISIONS):
        text = texts[number % 20] + chance.randbytes(600)
        began_s = own_s()
        now_s = books.clock.monotonic_s()
        ticket = Ticket(
            request_id=RequestId(str(number)),
            user=f"user-{number % 30}",
            priority=Priority.INTERACTIVE,
            group=Group(model=TINY),
            need=Need(prompt_tokens=1_200, blocks=blocks_of(text)),
            strategy=RoutingStrategy.EXPECTED_FINISH,
            came_s=now_s,
            on_time_until_s=now_s + 2,
        )
        scheduler.enter(ticket)
        scheduler.serve(TINY)
        if len(books.seated) > count:  # a quarter of all slots is in use
            done, incarnation = books.seated.pop(0)
            books.nodes[incarnation].in_flight.end(done.number, books.clock.monotonic_s())
            scheduler.gave_back(done, 100)
        spent.append((own_s() - began_s) * 1000)
    return spent


def row(name: str, spent: list[float]) -> None:
    print(f"{name:<46} p50 {percentile(spent, 0.5):7.3f} ms   p99 {percentile(spent, 0.99):7.3f} ms", flush=True)


def main(count: int) -> None:
    chance = random.Random(1)
    nodes = candidates(count, chance)
    gc.freeze()
    for strategy in RoutingStrategy:
        row(f"choice among {count} nodes, {strategy}", choices_ms(strategy, nodes, chance))
    row(f"whole decision among {count} nodes", whole_ms(count, chance))
    print(f"aim: p99 of expected_finish at 100 nodes <= {AIM_MS} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NODES)
