"""Ten thousand requests at once: `python -m bench.queue_flood [--requests N]`, run from the project's root.

A real hub and a scripted engine, which is stopped (SIGSTOP) while the queue fills. While it is full: the hub's memory,
how fast one request more is refused, and how fast /health answers. Then the engine goes on, the queue runs empty, and
everything that was accepted must be answered. The caller shares the machine with the hub.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.load import Target, percentile
from bench.processes import SmallHub, cluster_of, cpu_s

SLOTS = 64
TOKENS = 8
PROBES = 200
ON_THEIR_WAY = 500
PROMPT = "word " * 200
BROKEN = 0
"""Of a connection that ended without a whole answer; it counts as accepted and not finished."""


@dataclass(slots=True)
class Flood:
    statuses: list[int] = field(default_factory=list[int])


class OtherLoad:
    """What programs other than the hub and this one use of the processors from now on."""

    def __init__(self, hub: psutil.Process) -> None:
        self._hub = hub
        self._began_s = time.perf_counter()
        self._all_s, self._ours_s = self._all(), self._ours()

    def _ours(self) -> float:
        return cpu_s(self._hub) + cpu_s(psutil.Process())

    @staticmethod
    def _all() -> float:
        times = psutil.cpu_times()
        return times.user + times.system + times.nice

    def share(self) -> float:
        others_s = self._all() - self._all_s - (self._ours() - self._ours_s)
        return max(0.0, others_s / (time.perf_counter() - self._began_s) / (psutil.cpu_count() or 1))


def engine() -> psutil.Process:
    """The scripted engine's process, a descendant of this one."""
    found = [one for one in psutil.Process().children(recursive=True) if "scripted_server" in " ".join(one.cmdline())]
    return found[0]


async def one(at: Target, number: int, flood: Flood, *, stream: bool) -> None:
    reader, writer = await asyncio.open_connection(*at.address)
    try:
        writer.write(at.request(f"{PROMPT}{number}", max_tokens=TOKENS, stream=stream))
        raw = await reader.read()
    except ConnectionError:
        raw = b""
    finally:
        writer.close()
    whole = raw.startswith(b"HTTP/1.1 ") and (not stream or b"[DONE]" in raw)
    flood.statuses.append(int(raw.split(b" ", 2)[1]) if whole else BROKEN)


async def refused_ms(at: Target) -> tuple[float, int]:
    began_s = time.perf_counter()
    reader, writer = await asyncio.open_connection(*at.address)
    writer.write(at.request("one more", max_tokens=TOKENS, stream=False))
    raw = await reader.read()
    writer.close()
    return (time.perf_counter() - began_s) * 1000, int(raw.split(b" ", 2)[1])


async def get(at: Target, path: str) -> tuple[float, bytes]:
    began_s = time.perf_counter()
    reader, writer = await asyncio.open_connection(*at.address)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {at.address[0]}\r\nConnection: close\r\n\r\n".encode())
    raw = await reader.read()
    writer.close()
    return (time.perf_counter() - began_s) * 1000, raw


async def waiting(at: Target) -> int:
    _, raw = await get(at, "/status")
    return int(raw.partition(b'"waiting":')[2].partition(b",")[0])


async def run(hub: SmallHub, number: int, *, stream: bool) -> None:
    at = Target(url=hub.http_url, model="scripted", extra=(("x_chorus", {"ignore_end": True, "queue_within_s": 600}),))
    idle_mb = hub.hub.memory_info().rss / 1e6
    flood = Flood()
    held = engine()
    held.suspend()
    began_s = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []
    seen = 0
    for start in range(0, number + SLOTS, 250):
        last = min(start + 250, number + SLOTS)
        tasks += [asyncio.create_task(one(at, n, flood, stream=stream)) for n in range(start, last)]
        # The kernel drops connections that wait for seconds to be taken: no more than it holds are on their way.
        for _ in range(1200):
            if flood.statuses or await waiting(at) >= last - SLOTS - ON_THEIR_WAY:
                break
            await asyncio.sleep(0.05)
    for _ in range(1200):
        if (seen := await waiting(at)) >= number:
            break
        if flood.statuses:
            raise SystemExit(f"with {seen} waiting, some ended already, by status: {Counter(flood.statuses)}")
        await asyncio.sleep(0.25)
    else:
        raise SystemExit(f"only {seen} wait")
    print(f"{len(tasks)} {'streams' if stream else 'requests'} taken in {time.perf_counter() - began_s:.1f} s")
    others = OtherLoad(hub.hub)
    refusals: list[float] = []
    healths: list[float] = []
    most_mb = 0.0
    for _ in range(PROBES):
        spent_ms, status = await refused_ms(at)
        if status != 503:
            raise SystemExit(f"one more was answered with {status}")
        refusals.append(spent_ms)
        healths.append((await get(at, "/health"))[0])
        most_mb = max(most_mb, hub.hub.memory_info().rss / 1e6)
    busy = others.share()
    held.resume()
    emptying_s = time.perf_counter()
    await asyncio.gather(*tasks)
    accepted = sum(status != 503 for status in flood.statuses)
    finished = sum(status == 200 for status in flood.statuses)
    print(f"  most waiting {seen}; hub memory {most_mb:.0f} MB (idle {idle_mb:.0f} MB; aim 512)")
    p50, p99 = percentile(refusals, 0.5), percentile(refusals, 0.99)
    print(f"  one more refused: p50 {p50:.1f} ms, p99 {p99:.1f} ms (aim 50)")
    print(f"  /health p50 {percentile(healths, 0.5):.1f} ms, p99 {percentile(healths, 0.99):.1f} ms (aim 100)")
    print(f"  meanwhile other programs used {busy:.0%} of the processors, which makes the slowest slower")
    print(f"  accepted {accepted}, finished {finished} (aim: equal), in {time.perf_counter() - emptying_s:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--stream", action="store_true", help="streams, which hear of their place meanwhile")
    flags = parser.parse_args()
    with contextlib.suppress(ImportError):
        import resource  # POSIX only

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    number = int(flags.requests)
    agents = {
        "attic": (
            "--engines=scripted",
            "--first-token-least-s=600",
            "--next-token-within-s=600",
            "--next-token-least-s=600",
        )
    }
    limits = (f"--queue-limit={number}", f"--queue-model-limit={number}", f"--queue-user-limit={number}")
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster_of(Path(folder), agents, f"--slots={SLOTS}", *limits) as hub,
    ):
        asyncio.run(run(hub, number, stream=bool(flags.stream)))


if __name__ == "__main__":
    main()
