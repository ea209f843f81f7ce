"""Fair shares between users: `python -m bench.fairness [--quick]`, run from the project's root.

A real hub and a scripted engine that writes at a set pace. A light user asks now and then, alone and beside a heavy one
who keeps 200 requests queued; then background work beside people who fill every slot. Users are API keys.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from bench.load import Target, percentile, streamed, whole
from bench.processes import cluster_of, made_key

SLOTS = 4
TOKENS_PER_S = 40.0
TOKENS = 40
JOB_S = TOKENS / TOKENS_PER_S
HEAVY_QUEUE = 200


@dataclass(slots=True)
class Waits:
    """Seconds until the first token, less what the engine takes alone."""

    seconds: list[float] = field(default_factory=list[float])

    @property
    def p95(self) -> float:
        return percentile(self.seconds, 0.95)


def target(url: str, key: str, **x_chorus: object) -> Target:
    return Target(
        url=url,
        model="scripted",
        headers=(f"Authorization: Bearer {key}",),
        extra=(("x_chorus", {"ignore_end": True, **x_chorus}),),
    )


async def light(at: Target, count: int) -> Waits:
    """One request after the other, each a while after the last."""
    waits = Waits()
    for number in range(count):
        answer = await streamed(at, f"light {number}", max_tokens=TOKENS)
        if not answer.complete:
            raise SystemExit(f"a light user's request failed: {answer.tail!r}")
        waits.seconds.append(answer.ttft_s)
        await asyncio.sleep(0.3 + 0.37 * (number % 5))
    return waits


async def heavy(at: Target, done: asyncio.Event, served: list[float]) -> None:
    """Keeps `HEAVY_QUEUE` requests open until `done`; notes when each was answered."""

    async def one(number: int) -> None:
        while not done.is_set():
            await whole(at, f"heavy {number}", max_tokens=TOKENS)
            served.append(time.perf_counter())

    tasks = [asyncio.create_task(one(number)) for number in range(HEAVY_QUEUE)]
    await done.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def neighbours(url: str, keys: Sequence[str], count: int) -> None:
    at = target(url, keys[0])
    alone = await light(at, count)
    done, served = asyncio.Event(), list[float]()
    crowd = asyncio.create_task(heavy(target(url, keys[1], queue_within_s=600), done, served))
    await asyncio.sleep(2 * JOB_S)
    beside = await light(at, count)
    done.set()
    await crowd
    allowed = 1.5 * alone.p95 + JOB_S
    print(f"light user, first token p95: alone {alone.p95:.3f} s, beside {HEAVY_QUEUE} queued {beside.p95:.3f} s")
    print(f"  aim: at most 1.5 times its wait alone + one job of {JOB_S:.2f} s = {allowed:.3f} s")
    print(f"  mean {fmean(beside.seconds):.3f} s; the heavy user had {len(served)} answers meanwhile")


async def background(url: str, keys: Sequence[str], seconds: float) -> None:
    """People who always have more requests waiting than there are slots, and batch work that does too."""
    done = asyncio.Event()
    people, batch = list[float](), list[float]()
    crowds = [
        asyncio.create_task(heavy(target(url, keys[1], queue_within_s=600), done, people)),
        asyncio.create_task(heavy(target(url, keys[2], priority="batch", queue_within_s=600), done, batch)),
    ]
    await asyncio.sleep(seconds)
    done.set()
    await asyncio.gather(*crowds)
    share = len(batch) / (len(batch) + len(people))
    print(f"batch work beside full interactive load: {share:.2f} of the answers (aim 0.20, the setting)")


async def told_in_time(url: str, keys: Sequence[str]) -> None:
    """More than can be served within the cap: each is answered or refused by then, with when to come again."""
    cap_s = 5.0
    at = target(url, keys[1], queue_within_s=cap_s)
    ends: list[tuple[float, int, bool]] = []

    async def one(number: int) -> None:
        began_s = time.perf_counter()
        reader, writer = await asyncio.open_connection(*at.address)
        writer.write(at.request(f"crowd {number}", max_tokens=TOKENS, stream=False))
        raw = await reader.read()
        writer.close()
        waited_s = time.perf_counter() - began_s
        told_when = b"\r\nretry-after: " in raw.partition(b"\r\n\r\n")[0].lower()
        ends.append((waited_s, int(raw.split(b" ", 2)[1]), told_when))

    await asyncio.gather(*(one(number) for number in range(100)))
    refused = [end for end in ends if end[1] != 200]
    late = sum(waited_s > cap_s + 2 * JOB_S for waited_s, _, _ in ends)
    print(
        f"100 at once, cap {cap_s:g} s: {len(ends) - len(refused)} answered, {len(refused)} refused, "
        f"{sum(end[2] for end in refused)} of these told when to come again; later than the cap: {late} (aim 0)"
    )


async def all_of_it(url: str, keys: Sequence[str], quick: bool) -> None:
    await neighbours(url, keys, 10 if quick else 40)
    await background(url, keys, 15 if quick else 45)
    await told_in_time(url, keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = bool(parser.parse_args().quick)
    agents = {"attic": ("--engines=scripted", f"--scripted-tokens-per-s={TOKENS_PER_S:g}")}
    with tempfile.TemporaryDirectory() as folder, cluster_of(Path(folder), agents, f"--slots={SLOTS}") as hub:
        keys = [made_key(hub, Path(folder), name) for name in ("light", "heavy", "night")]
        asyncio.run(all_of_it(hub.http_url, keys, quick))


if __name__ == "__main__":
    main()
