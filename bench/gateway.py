"""Chorus beside other gateways, in one run: `python -m bench.gateway --peers FOLDER [--install] [--quick]`.

One mock engine for all. Each gateway has one core for itself; engine and client (and Chorus's agent, which is another
PC's work) have the other. CPU time is psutil's, of all the gateway's processes. Rounds go through the gateways in turn,
and the median round counts, so that the mood of a machine that others use too falls on all alike.

Chorus stands twice: with the engine behind an agent, which is how a cluster is built and what the targets are for, and
with the engine registered as a backend, where the hub's own process does the agent's work too. See docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import uvloop

from bench.gateway_cluster import embedding_fan_out, frozen_half
from bench.gateway_measures import (
    PACE,
    Spent,
    added_ttft_ms,
    burst,
    middle,
    p99,
    paced,
    paced_answers,
    requests,
)
from bench.gateways import (
    CHORUS,
    CHORUS_BACKEND,
    LITELLM,
    NGINX,
    PEERS,
    PLAIN,
    SGLANG,
    Gateway,
    NotThere,
    engine,
    gateway,
    install,
    pin_this_process,
)
from bench.kept_alive import lateness_ms

PARTS = ("requests", "burst", "pacing", "cluster")
QUIET_STREAMS = 4
MANY_STREAMS = 100
HEADROOM_MS = 10.0


class Report:
    """One table for each measure, and Chorus's ratio to each other with its target."""

    def __init__(self, gateways: Sequence[Gateway]) -> None:
        self.gateways = gateways

    async def spent(self, title: str, rounds: int, work: Callable[[Gateway], Awaitable[Spent]]) -> dict[str, Spent]:
        found: dict[str, list[Spent]] = {one.name: [] for one in self.gateways}
        for _ in range(rounds):
            for one in self.gateways:
                found[one.name].append(await work(one))
        print(f"\n{title}")
        told = {name: middle(each) for name, each in found.items()}
        for name, one in told.items():
            agent = f"   agent {one.agent_cpu_us:8.1f} µs" if one.agent_cpu_s else ""
            print(f"  {name:<28} CPU {one.cpu_us:9.1f} µs   {one.per_core_s:9.0f} /core s   {one.per_s:9.0f} /s{agent}")
        return told

    @staticmethod
    def ratio(words: str, figures: Mapping[str, float], other: str, target: str) -> None:
        """Chorus's figure divided by the other's."""
        if other in figures:
            print(
                f"  {words} of Chorus / {other:<16} {figures[CHORUS] / figures[other]:9.3f}   target {target}",
                flush=True,
            )


async def cpu(report: Report, quick: bool) -> None:
    rounds, seconds = (1, 1.0) if quick else (5, 2.0)
    for connections, litellm in ((1, "<= 1/12 = 0.083"), (16, "<= 1/30 = 0.033")):
        told = await report.spent(
            f"Whole answers, {connections} connection(s)",
            rounds,
            lambda one, connections=connections: requests(one, connections=connections, seconds=seconds),
        )
        figures = {name: one.cpu_us for name, one in told.items()}
        report.ratio("CPU per request", figures, LITELLM, litellm)
        report.ratio("CPU per request", figures, PLAIN, "<= 1/6 = 0.167")
        report.ratio("CPU per request", figures, NGINX, "<= 15")
        report.ratio("CPU per request", figures, SGLANG, "<= 3")


async def bursts(report: Report, quick: bool) -> None:
    rounds, seconds = (1, 1.0) if quick else (3, 2.0)
    told = await report.spent("Burst, 16 streams", rounds, lambda one: burst(one, streams=16, seconds=seconds))
    for words, figures in (
        ("chunks per core second", {name: one.per_core_s for name, one in told.items()}),
        ("chunks/s delivered here", {name: one.per_s for name, one in told.items()}),
    ):
        report.ratio(words, figures, LITELLM, ">= 40")
        report.ratio(words, figures, SGLANG, "> 1")


async def pacing(report: Report, engine_url: str, quick: bool) -> None:
    rounds, tokens = (1, 50) if quick else (4, 200)
    for streams, target in ((QUIET_STREAMS, "<= 5 ms"), (MANY_STREAMS, "< 20 ms")):
        late: dict[str, list[tuple[float, float]]] = {one.name: [] for one in report.gateways}

        async def paced_round(
            one: Gateway, streams: int = streams, late: dict[str, list[tuple[float, float]]] = late
        ) -> Spent:
            alone = await paced_answers(engine_url, streams=streams, tokens=tokens // 2)
            spent, delays_ms = await paced(one, streams=streams, tokens=tokens)
            late[one.name].append((p99(lateness_ms(alone, PACE)), p99(delays_ms)))
            return spent

        told = await report.spent(f"{streams} streams, {streams * PACE} tokens/s in all", rounds, paced_round)
        if streams == MANY_STREAMS:
            figures = {name: one.cpu_us for name, one in told.items()}
            report.ratio("CPU per paced token", figures, NGINX, "<= 6")
            report.ratio("CPU per paced token", figures, SGLANG, "<= 3")
        print(f"  delay of a token p99, of rounds in which the engine alone kept below {HEADROOM_MS:g} ms just before;")
        print(f"  target for Chorus {target}")
        for name, each in late.items():
            kept = [through for alone, through in each if alone < HEADROOM_MS]
            words = f"median {median(kept):8.1f} ms   least {min(kept):8.1f} ms" if kept else "void"
            print(f"    {name:<26} {words}   {len(kept)} of {len(each)} rounds", flush=True)


async def first_tokens(report: Report, engine_url: str, quick: bool) -> None:
    print("\nTime to first token added to the engine's, p50, one quiet stream; target for Chorus <= 4 ms")
    for one in report.gateways:
        print(
            f"  {one.name:<28} {await added_ttft_ms(one, engine_url, count=50 if quick else 400):+8.2f} ms", flush=True
        )


async def compared(gateways: Sequence[Gateway], engine_url: str, parts: Collection[str], quick: bool) -> None:
    report = Report(gateways)
    if "requests" in parts:
        await first_tokens(report, engine_url, quick)
        await cpu(report, quick)
    if "burst" in parts:
        await bursts(report, quick)
    if "pacing" in parts:
        await pacing(report, engine_url, quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers, to be thrown away afterwards")
    parser.add_argument("--install", action="store_true", help="put them there first")
    parser.add_argument("--only", nargs="*", default=[CHORUS, CHORUS_BACKEND, *PEERS], help="gateways to compare")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--quick", action="store_true", help="a fifth of the load, to see that it runs")
    told = parser.parse_args()
    if told.install:
        install(told.peers)
    pin_this_process()
    with tempfile.TemporaryDirectory() as base, ExitStack() as running:
        if set(told.parts) - {"cluster"}:
            engine_url = running.enter_context(engine())
            gateways: list[Gateway] = []
            for number, name in enumerate(told.only):
                folder = Path(base) / str(number)
                folder.mkdir()
                try:
                    gateways.append(running.enter_context(gateway(name, engine_url, told.peers, folder)))
                except NotThere as error:
                    print(f"{name} is left out: {error}")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(compared(gateways, engine_url, told.parts, told.quick))
        running.pop_all().close()
        if "cluster" in told.parts:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                for number, part in enumerate((frozen_half, embedding_fan_out)):
                    folder = Path(base) / f"cluster{number}"
                    folder.mkdir()
                    runner.run(part(folder, quick=told.quick))


if __name__ == "__main__":
    main()
