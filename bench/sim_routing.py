"""Every routing strategy on simulated PCs: `python -m bench.sim_routing [--quick] [--seeds N]`, run from the root.

The coordinator's own scheduler decides, on a clock that the simulation moves: the same classes, unchanged, learning
speeds and answer lengths as they do in service. Beside them stand what balancers without a queue do: a request is bound
to a PC when it comes. Goodput is the share of requests whose first token came within 2 s and whose others came within
100 ms on average; load is offered work over the fluid limit, which no scheduler reaches with bursty arrivals.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from bench.load import percentile
from bench.sim_engine import KINDS, READ_START_S, Kind
from bench.sim_workloads import Ask, Shape, conversations, jobs
from bench.simulation import TPOT_S, Node, Outcome, Simulation
from chorus_proto.values import RoutingStrategy

GPU_LAN = ["4090"] * 2 + ["3090"] * 3 + ["3060"] * 5 + ["1080ti"] * 4 + ["m4max"] * 3 + ["m2pro"] * 3
OFFICE = ["4090"] + ["3090"] * 2 + ["3060"] * 4 + ["1080ti"] * 3 + ["m4max"] * 2 + ["m2pro"] * 2 + ["cpu"] * 6
HOME = ["4090", "3060", "m2pro", "cpu", "cpu"]
WARM_UP = 0.15


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
    heads = ("goodput", "ttft p50", "p99", "longest", "whole", "cached", "refused")
    print(f"  {'':<36}" + "".join(f"{head:>9}" for head in heads))
    for name, outcomes in rows:
        asked = sum(one.asked for one in outcomes)
        ttft = [value for one in outcomes for value in one.ttft_s] or [0.0]
        cached = sum(one.cached_tokens for one in outcomes) / max(1, sum(one.prompt_tokens for one in outcomes))
        whole_s = fmean([value for one in outcomes for value in one.whole_s] or [0.0])
        print(
            f"  {name:<36}{sum(one.good for one in outcomes) / asked:9.3f}{percentile(ttft, 0.5):8.2f}s"
            f"{percentile(ttft, 0.99):8.1f}s{max(one.longest_wait_s for one in outcomes):8.1f}s{whole_s:8.1f}s"
            f"{cached:9.2f}{sum(one.refused for one in outcomes) / asked:9.3f}",
            flush=True,
        )


def chat(name: str, kinds: list[Kind], shape: Shape, *, seeds: Sequence[int], policies: Sequence[Policy]) -> None:
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


def suite(seconds: float) -> list[tuple[str, list[Kind], Shape]]:
    """Name, PCs and conversations; rates are shares of what the PCs could serve as a fluid."""
    office = Shape(users=50, rate=0.5, seconds=seconds)
    one_slot = [replace(KINDS[name], slots=1) for name in ("4090", "cpu")]
    found = [
        (f"office, {label}, load {load}", _kinds(machines), replace(office, rate=load))
        for label, machines in (("GPU LAN", GPU_LAN), ("30 % CPUs", OFFICE))
        for load in (0.5, 0.7, 1.0)
    ]
    agents = Shape(users=8, rate=0.4, seconds=seconds, turns=20, think_s=1, system_tokens=2500, cv=1)
    found += [
        ("home", _kinds(HOME), Shape(users=2, rate=0.25, seconds=seconds, think_s=8)),
        ("pair of one slot each", one_slot, Shape(users=2, rate=0.25, seconds=seconds, think_s=8)),
        ("agents", _kinds(GPU_LAN), agents),
        ("burst", _kinds(GPU_LAN), replace(office, rate=0.4, burst=(seconds / 2, seconds / 2 + 60, 5))),
    ]
    return found


def _kinds(machines: Sequence[str]) -> list[Kind]:
    return [KINDS[one] for one in machines]


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
