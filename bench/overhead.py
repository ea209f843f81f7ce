"""What Chorus costs on top of the engine: `python -m bench.overhead [--quick]`, run from the project's root.

Every figure stands beside the engine asked directly in the same run, interleaved: the machine's mood cancels out.
The scripted engine is a real process without a model; the tiny model runs in the bundled llama.cpp with one thread.
Client, hub, agent and engine share the machine's cores: on two of them, throughput is what is left after the client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.resources
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from bench.load import Streamed, Target, closed_loop, percentile, streamed, whole
from bench.processes import Hub, chorus_up, cpu_s, engine

SCRIPTED = "scripted"
SLOTS = 1024
PACE_TOKENS_PER_S = 50.0
TOKENS_PACED = 50


def row(name: str, chorus: float, engine_alone: float, unit: str, *, ratio: bool = True) -> None:
    """One line: through Chorus, engine alone, and their ratio or difference."""
    compared = f"ratio {chorus / engine_alone:6.3f}" if ratio else f"added {chorus - engine_alone:+9.3f} {unit}"
    print(f"{name:<46} chorus {chorus:11.3f}   engine {engine_alone:11.3f} {unit:<9} {compared}", flush=True)


async def many_streams(target: Target, at_once: int, *, max_tokens: int, rounds: int) -> list[Streamed]:
    """`rounds` times `at_once` streams side by side; all must be complete."""
    answers: list[Streamed] = []
    for number in range(rounds):
        prompts = [f"bench {number} {stream}" for stream in range(at_once)]
        answers += await asyncio.gather(*(streamed(target, prompt, max_tokens=max_tokens) for prompt in prompts))
    return whole_ones(answers, target)


async def interleaved(
    chorus: Target, alone: Target, run: Callable[[Target], Awaitable[list[Streamed]]], *, repeats: int
) -> tuple[list[Streamed], list[Streamed]]:
    """The same load on both, turn by turn."""
    both: tuple[list[Streamed], list[Streamed]] = ([], [])
    for _ in range(repeats):
        both[1].extend(await run(alone))
        both[0].extend(await run(chorus))
    return both


def lateness_ms(answers: list[Streamed], pace: float) -> list[float]:
    """How late each token after the first came, against a metronome that starts with the stream's earliest beat."""
    late: list[float] = []
    for answer in answers:
        beats = [arrival - number / pace for number, arrival in enumerate(answer.arrivals_s)]
        start = min(beats)
        late += [(beat - start) * 1000 for beat in beats]
    return late


async def steady(target: Target, at_once: int, *, rounds: int) -> list[Streamed]:
    """`at_once` callers, each asking again when its paced answer has ended; they start apart."""

    async def caller(number: int) -> list[Streamed]:
        await asyncio.sleep(number * TOKENS_PACED / PACE_TOKENS_PER_S / at_once)
        prompts = [f"steady {number} {turn}" for turn in range(rounds)]
        return [await streamed(target, prompt, max_tokens=TOKENS_PACED) for prompt in prompts]

    answers = [answer for one in await asyncio.gather(*map(caller, range(at_once))) for answer in one]
    return whole_ones(answers, target)


def whole_ones(answers: list[Streamed], target: Target) -> list[Streamed]:
    broken = sum(not answer.complete for answer in answers)
    if broken:
        raise SystemExit(f"{broken} of {len(answers)} streams were incomplete at {target.url}")
    return answers


async def delays(chorus: Target, alone: Target, quick: bool) -> None:
    """Time to first token and lateness of each token while streams run at a person's reading pace."""
    for at_once in (1, 16):

        async def load(target: Target, at_once: int = at_once) -> list[Streamed]:
            return await steady(target, at_once, rounds=3 if quick else 10)

        through, direct = await interleaved(chorus, alone, load, repeats=1 if quick else 2)
        for share in (0.5, 0.99):
            ttft = [percentile([answer.ttft_s * 1000 for answer in one], share) for one in (through, direct)]
            late = [percentile(lateness_ms(one, PACE_TOKENS_PER_S), share) for one in (through, direct)]
            row(f"time to first token p{share * 100:.0f}, {at_once} streams", ttft[0], ttft[1], "ms", ratio=False)
            row(f"delay of a token p{share * 100:.0f}, {at_once} streams", late[0], late[1], "ms", ratio=False)


async def requests_per_s(chorus: Target, alone: Target, hub: Hub, quick: bool) -> None:
    total = 100 if quick else 600
    for at_once in (1, 16):
        rates: list[float] = []
        for target in (alone, chorus):
            before = cpu_s(hub.hub), cpu_s(hub.agent)

            async def one(number: int, target: Target = target) -> bool:
                return await whole(target, f"request {number}", max_tokens=4)

            seconds, good = await closed_loop(one, at_once=at_once, total=total)
            if good != total:
                raise SystemExit(f"{total - good} of {total} requests failed at {target.url}")
            rates.append(total / seconds)
        row(f"requests/s, whole answers, {at_once} at once", rates[1], rates[0], "1/s")
        spent = cpu_s(hub.hub) - before[0], cpu_s(hub.agent) - before[1]
        print(f"{'':<46} CPU per request: hub {spent[0] / total * 1e6:.0f} µs, agent {spent[1] / total * 1e6:.0f} µs")


async def chunks_per_s(chorus: Target, alone: Target, hub: Hub, quick: bool) -> None:
    for at_once in (1, 100):
        tokens = 2_000 if at_once == 1 else (100 if quick else 400)
        rates: list[float] = []
        spent = (0.0, 0.0)
        for target in (alone, chorus):
            before = cpu_s(hub.hub), cpu_s(hub.agent)
            answers = await many_streams(target, at_once, max_tokens=tokens, rounds=1 if quick else 3)
            spent = cpu_s(hub.hub) - before[0], cpu_s(hub.agent) - before[1]
            count = sum(len(answer.arrivals_s) for answer in answers)
            rates.append(_rate(answers, at_once))
            per_token = [seconds / count * 1e6 for seconds in spent]
        row(f"streamed tokens/s at full speed, {at_once} streams", rates[1], rates[0], "1/s")
        print(f"{'':<46} CPU per token: hub {per_token[0]:.1f} µs, agent {per_token[1]:.1f} µs")


def _rate(answers: list[Streamed], at_once: int) -> float:
    """Tokens per second over whole rounds, median of the rounds."""
    rounds = [answers[start : start + at_once] for start in range(0, len(answers), at_once)]
    return median(
        sum(len(answer.arrivals_s) for answer in one)
        / (max(answer.arrivals_s[-1] for answer in one) - min(answer.began_s for answer in one))
        for one in rounds
    )


async def open_streams(chorus: Target, hub: Hub) -> None:
    """The hub's memory with 500 streams open at a slow pace."""
    idle_mb = hub.hub.memory_info().rss / 1e6
    tasks = [asyncio.create_task(streamed(chorus, f"open {number}", max_tokens=300)) for number in range(500)]
    most = idle_mb
    for _ in range(20):
        await asyncio.sleep(0.2)
        most = max(most, hub.hub.memory_info().rss / 1e6)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    print(f"{'memory of the hub with 500 open streams':<46} {most:.0f} MB (idle {idle_mb:.0f} MB)")


async def tiny_model(quick: bool, folder: Path) -> None:
    """The bundled tiny model through Chorus and in an engine of its own."""
    with (
        importlib.resources.as_file(importlib.resources.files("chorus_client") / "models") as models,
        engine(
            "chorus_client.llama_cpp_server",
            ["-m", str(models / "demo-tiny-q8_0.gguf"), "-np", "4", "-c", "4096", "-t", "1", "--alias", "demo-tiny"],
        ) as url,
        chorus_up(folder, f"--hardware={_weak_pc(folder)}") as hub,
    ):
        alone = Target(url=url, model="demo-tiny", extra=(("ignore_eos", True), ("cache_prompt", False)))
        chorus = Target(url=hub.http_url, model="demo-tiny", extra=(("x_chorus", {"ignore_end": True}),))
        for at_once in (1, 4):

            async def load(target: Target, at_once: int = at_once) -> list[Streamed]:
                return await many_streams(target, at_once, max_tokens=900, rounds=1)

            through, direct = await interleaved(chorus, alone, load, repeats=3 if quick else 10)
            row(
                f"tiny model, streamed tokens/s, {at_once} streams",
                _rate(through, at_once),
                _rate(direct, at_once),
                "1/s",
            )


def _weak_pc(folder: Path) -> Path:
    """Hardware on which placement chooses the tiny model."""
    path = folder / "weak.toml"
    path.write_text("ram_bytes = 8_000_000_000\nphysical_cores = 2\nmemory_bandwidth_bytes_per_s = 10e9\n")
    return path


async def main(quick: bool) -> None:
    scripted = ["--parallel", str(SLOTS), "--ctx-size", str(SLOTS * 4096)]
    fast = [*scripted, "--answer-tokens", "32"]
    paced = [*scripted, "--tokens-per-s", f"{PACE_TOKENS_PER_S:g}"]
    agent = ("--engines=scripted", f"--slots={SLOTS}")
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        with engine("chorus_client.scripted_server", fast) as url, chorus_up(folder, *agent) as hub:
            print(f"chorus up to ready, first start: {hub.ready_s:.2f} s")
            chorus, alone = Target(url=hub.http_url, model=SCRIPTED), Target(url=url, model=SCRIPTED)
            await requests_per_s(chorus, alone, hub, quick)
            await chunks_per_s(chorus, alone, hub, quick)
        with (
            engine("chorus_client.scripted_server", paced) as url,
            chorus_up(folder, *agent, f"--scripted-tokens-per-s={PACE_TOKENS_PER_S:g}") as hub,
        ):
            print(f"chorus up to ready, warm: {hub.ready_s:.2f} s")
            chorus, alone = Target(url=hub.http_url, model=SCRIPTED), Target(url=url, model=SCRIPTED)
            await delays(chorus, alone, quick)
            await open_streams(chorus, hub)
        await tiny_model(quick, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    asyncio.run(main(bool(parser.parse_args().quick)))
