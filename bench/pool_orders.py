"""Random orders on an emulated PC: is anything ever killed for lack of memory, and how full does the memory get?

`python -m bench.pool_orders [SEEDS]`. The models are those of the catalogue that fit the PC; what each really takes is
up to 8 % more or less than predicted, other programs come and go, engines crash, and every order of the pool is used:
load, load again, use, long use, unload, time to live. "usable" is what is left of the memory beside the reserve and the
other programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from chorus_client.engines.base import Ending, LoadOptions
from chorus_client.pool import Pool, PoolRules
from chorus_client.restarts import RestartRules
from chorus_client.watchdog import WatchLimits
from chorus_proto import catalogue
from chorus_proto.errors import ClusterError
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ReplicaReport
from tests.support.clock import FakeClock
from tests.support.emulated_pc import EmulatedPc

TOTAL_BYTES = 48_000_000_000
RESERVE_BYTES = 2_400_000_000
ERROR = 0.08
LARGEST_BYTES = 20_000_000_000
"""Larger files would leave room for one model and nothing to decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    kills: int
    loads: int
    served: int
    refused: int
    fullest_share: float
    """Most that models held at once, of what was usable then."""


async def play_orders(folder: Path, *, orders: int, seed: int) -> Outcome:
    """Give `orders` random orders."""
    chance = random.Random(seed)
    likes = {
        str(entry.name): str(entry.name) for entry in catalogue.entries().values() if entry.file_bytes <= LARGEST_BYTES
    }
    pc = EmulatedPc(TOTAL_BYTES, likes, error=ERROR, seed=seed)
    clock = FakeClock()
    reports: list[ReplicaReport] = []
    rules = PoolRules(
        watch=WatchLimits(first_s=1e6, first_cap_s=1e6, between_s=1e6, between_cap_s=1e6),  # the clock leaps
        room_within_s=5.0,
        swap_after_s=1.0,
        look_every_s=0.005,
        restarts=RestartRules(first_s=0.001, jitter=(1.0, 1.0), loop_crashes=64),
    )
    gate = pc.gate(folder, reserve_bytes=RESERVE_BYTES)
    pool = Pool({EngineKind.LLAMA_SERVER: pc}, clock, reports.append, gate, rules=rules)
    await pool.inventory()
    running = asyncio.create_task(pool.run())
    uses: set[asyncio.Task[None]] = set()
    names = [ModelName(name) for name in likes]
    served = refused = 0
    fullest_share = 0.0

    async def use(model: ModelName, pause_s: float) -> None:
        nonlocal served, refused
        try:
            with pool.acquire(model) as loaded:
                async for _ in loaded.generate(Generation(prompt="x")):
                    await asyncio.sleep(pause_s)
                served += 1
        except ClusterError:
            refused += 1

    for _ in range(orders):
        model = chance.choice(names)
        dice = chance.random()
        if dice < 0.35:
            options = LoadOptions(slots=chance.choice((1, 2, 4)), context_tokens=chance.choice((2048, 8192, 16384)))
            pool.load(model, options, keep_alive_s=chance.choice((None, 30.0, 300.0)), retry=chance.random() < 0.1)
        elif dice < 0.85:
            model = chance.choice([report.model for report in pool.reports()] or names)
            task = asyncio.create_task(use(model, chance.choice((0.0, 0.0, 0.002))))
            uses.add(task)
            task.add_done_callback(uses.discard)
        elif dice < 0.93:
            pool.unload(model, drain_s=chance.choice((0.0, 1.0)))
        elif dice < 0.96 and pc.latest:
            victim = pc.latest[chance.choice(list(pc.latest))]
            victim.end(Ending(reason="it crashed", for_memory=False))
        else:
            # Only of what is free and promised to nobody: who takes a promised byte is not the pool's to answer for.
            free = pc.total_bytes - pc.used_bytes - pc.coming_bytes - RESERVE_BYTES
            pc.others_bytes = int(chance.random() * 0.2 * max(0, free))
        clock.advance(chance.random())
        await asyncio.sleep(chance.choice((0.0, 0.0, 0.001)))
        usable = pc.total_bytes - RESERVE_BYTES - pc.others_bytes
        fullest_share = max(fullest_share, pc.used_bytes / usable)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await asyncio.gather(*uses)
    await pool.aclose()
    return Outcome(kills=pc.kills, loads=len(pc.loads), served=served, refused=refused, fullest_share=fullest_share)


def main() -> None:
    logging.disable(logging.WARNING)  # it is full of crashes
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("seed  orders   loads  served  not loaded  killed  fullest, of usable")
    for seed in range(1, seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            one = asyncio.run(play_orders(Path(folder), orders=10_000, seed=seed))
        print(
            f"{seed:4} {10_000:7} {one.loads:7} {one.served:7} {one.refused:11} {one.kills:7} {one.fullest_share:14.1%}"
        )


if __name__ == "__main__":
    main()
