"""What one routing decision costs: `python -m bench.routing [NODES]`, run from the project's root.

A decision runs on the coordinator's event loop, so every request pays it and nothing else moves meanwhile.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace

from bench.load import percentile
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import RoutingStrategy
from chorus_server.routing import Candidate, Need, Router

NODES = 100
DECISIONS = 2_000


def candidates(count: int, chance: random.Random) -> list[Candidate]:
    """Nodes of any load and strength; of half of them nothing is measured yet."""
    return [
        Candidate(
            node_id=NodeId(f"n{number}"),
            node_name=f"n{number}-pc",
            model=ModelName("tiny"),
            slots=4,
            slots_busy=chance.randrange(5),
            waiting=0,
            score=chance.uniform(20, 100),
            prefill_tokens_per_s=chance.choice([None, 1000.0]),
            decode_tokens_per_s=chance.choice([None, 40.0]),
        )
        for number in range(count)
    ]


def decisions_ms(strategy: RoutingStrategy, nodes: list[Candidate], chance: random.Random) -> list[float]:
    router = Router(chance)
    ask = Need(prompt_tokens=200)
    spent: list[float] = []
    for number in range(DECISIONS):
        need = replace(ask, affinity=str(number))
        began_s = time.perf_counter()
        router.choose(strategy, nodes, need)
        spent.append((time.perf_counter() - began_s) * 1000)
    return spent


def main(count: int) -> None:
    chance = random.Random(1)
    nodes = candidates(count, chance)
    for strategy in RoutingStrategy:
        spent = decisions_ms(strategy, nodes, chance)
        print(
            f"one decision among {count} nodes, {strategy:<18} "
            f"p50 {percentile(spent, 0.5):7.3f} ms   p99 {percentile(spent, 0.99):7.3f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NODES)
