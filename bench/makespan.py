"""500 requests on three emulated PCs of speeds 1:2:4: `python -m bench.makespan [--quick]`, run from the root.

Real processes: a hub, three agents and their scripted engines, which write at a set pace. Every strategy has the same
hub, one after the other; beside them stands what a balancer without a queue does, which binds each request to the next
PC when it comes. The fluid bound is all tokens over all speeds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.load import Target, whole
from bench.processes import cluster_of
from chorus_proto.values import RoutingStrategy

SPEEDS = (1, 2, 4)
UNIT_TOKENS_PER_S = 30.0
SLOTS = 4
AT_ONCE = 120
"""Requests that are under way at any time; the hub's queue holds most of them."""
STRATEGIES: tuple[str, ...] = ("expected_finish", *(one for one in RoutingStrategy if one != "expected_finish"))


def lengths(number: int) -> list[int]:
    chance = random.Random(7)
    return [max(4, min(200, round(chance.lognormvariate(3.8, 0.6)))) for _ in range(number)]


def bound_s(tokens: Sequence[int]) -> float:
    return sum(tokens) / (sum(SPEEDS) * UNIT_TOKENS_PER_S * SLOTS)


async def run(url: str, tokens: Sequence[int], extra: Sequence[Mapping[str, object]]) -> float:
    """Seconds until all are answered; `extra` is what `x_chorus` says for each."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        target = Target(url=url, model="scripted", extra=(("x_chorus", {"ignore_end": True, **extra[number]}),))
        async with gate:
            if not await whole(target, f"request {number}", max_tokens=tokens[number]):
                raise SystemExit(f"request {number} failed")

    began_s = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(len(tokens))))
    return time.perf_counter() - began_s


async def compare(url: str, names: Sequence[str], number: int) -> None:
    tokens = lengths(number)
    least_s = bound_s(tokens)
    # What an engine has done teaches the hub how fast it is.
    await run(url, tokens[:60], [{"queue_within_s": 600}] * 60)
    bound = [{"node": names[n % len(names)], "queue_within_s": 600} for n in range(number)]
    robin_s = await run(url, tokens, bound)
    print(f"{number} requests, three PCs of speeds 1:2:4 with {SLOTS} slots each; fluid bound {least_s:.1f} s")
    print(
        f"  {'bound at arrival: round robin':<32} {robin_s:7.1f} s   {robin_s / least_s:5.2f} of the bound", flush=True
    )
    for strategy in STRATEGIES:
        seconds = await run(url, tokens, [{"strategy": strategy, "queue_within_s": 600}] * number)
        print(
            f"  chorus {strategy:<25} {seconds:7.1f} s   {seconds / least_s:5.2f} of the bound"
            f"   {seconds / robin_s:5.2f} of robin's",
            flush=True,
        )
    print("  aim: expected_finish <= 1.10 of the bound and <= 0.80 of round robin's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the requests")
    number = 100 if parser.parse_args().quick else 500
    agents = {
        f"pc{speed}x": (
            "--engines=scripted",
            f"--scripted-tokens-per-s={speed * UNIT_TOKENS_PER_S:g}",
        )
        for speed in SPEEDS
    }
    with tempfile.TemporaryDirectory() as folder, cluster_of(Path(folder), agents, f"--slots={SLOTS}") as hub:
        asyncio.run(compare(hub.http_url, list(agents), number))


if __name__ == "__main__":
    main()
