"""What a watchdog adds to each token: `python -m bench.watched`, run from the project's root.

The same pieces are read with and without `watched`, turn by turn: each after a wait of its own, as a slow engine's
tokens come, and many after one wait, as those of a fast engine or a batch.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median

from chorus_client.watchdog import Watchdog
from chorus_client.watched import watched
from chorus_proto.clock import SystemClock
from chorus_proto.generation import Delta, Done, PieceBatches

TOKENS = 100_000
ROUNDS = 15
READS = (1, 16)
"""Tokens that come together."""


async def answer(tokens_together: int) -> PieceBatches:
    for _ in range(TOKENS // tokens_together):
        await asyncio.sleep(0)
        yield [Delta("word ")] * tokens_together
    yield [Done(finish_reason="stop", completion_tokens=TOKENS)]


async def cpu_seconds(batches: PieceBatches) -> float:
    began_s = time.process_time()
    async for _ in batches:
        pass
    return time.process_time() - began_s


async def added_us(tokens_together: int) -> list[float]:
    """Microseconds of CPU per token, one figure a round."""
    clock = SystemClock()
    added: list[float] = []
    for _ in range(ROUNDS):
        plain_s = await cpu_seconds(answer(tokens_together))
        watchdog = Watchdog(clock.monotonic_s(), 100)
        watched_s = await cpu_seconds(watched(answer(tokens_together), watchdog, clock, print))
        added.append((watched_s - plain_s) / TOKENS * 1e6)
    return added


if __name__ == "__main__":
    for together in READS:
        figures = asyncio.run(added_us(together))
        print(
            f"a watchdog adds, {together:2d} tokens a read:  median {median(figures):5.2f} µs per token, "
            f"best {min(figures):5.2f}, worst {max(figures):5.2f}"
        )
