"""The SafeTensors model server beside a bare transformers loop: `python -m bench.model_server [--quick]`.

Both compute the same model with the same number of threads, in 32 bits, turn by turn in one run: the machine's mood
cancels out. /health is asked every 20 ms, late answers counted from when they were due.

The aims: one stream >= 0.9 of the bare loop; 8 streams >= 2 times one; /health p99 <= 100 ms while the model loads and
while it computes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from statistics import median
from typing import cast

from bench.load import Streamed, Target, percentile, streamed

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "demo-tiny-hf"
MODEL = "bench"
QUESTION = "What is the capital of France?"
MOST_STREAMS = 8
PROBE_EVERY_S = 0.02
READY_WITHIN_S = 120.0


class HealthProbe:
    """Asks /health at fixed times while it is open. `delays_ms` from when each was due; `loading` are the 503s."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.delays_ms: list[float] = []
        self.loading_ms: list[float] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        due_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._one(due_s))
                due_s += PROBE_EVERY_S
                await asyncio.sleep(due_s - time.perf_counter())

    async def _one(self, due_s: float) -> None:
        reader, writer = await asyncio.open_connection(*self._target.address)
        try:
            writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            status = await reader.readline()
            delay_ms = (time.perf_counter() - due_s) * 1000
            (self.delays_ms if b" 200 " in status else self.loading_ms).append(delay_ms)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def server(folder: Path, threads: int) -> AsyncGenerator[Target]:
    """A server that still loads."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chorus_client.model_server", "--model-path", str(folder), "--model-name", MODEL),
        *("--port", "0", "--threads", str(threads), "--max-concurrent", str(MOST_STREAMS), "--dtype", "float32"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().split()[1]
        yield Target(url=url, model=MODEL, extra=(("ignore_eos", True),))
    finally:
        process.terminate()
        await process.wait()


async def until_ready(probe: HealthProbe) -> float:
    """Seconds until /health was good for the first time."""
    began_s = time.perf_counter()
    while not probe.delays_ms:
        if time.perf_counter() - began_s > READY_WITHIN_S:
            raise SystemExit(f"the server was not ready within {READY_WITHIN_S:g} s")
        await asyncio.sleep(0.05)
    return time.perf_counter() - began_s


def bare_loop(folder: Path, threads: int) -> Callable[[int, int], float]:
    """transformers' own `generate`: seconds for (tokens, rows), greedy and without an end, as the server is asked."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    asked = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    def run(tokens: int, rows: int) -> float:
        inputs = {name: value.repeat(rows, 1) for name, value in prompt.items()}
        began_s = time.perf_counter()
        found = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        seconds = time.perf_counter() - began_s
        if cast("tuple[int, int]", tuple(found.shape))[1] != tokens + prompt["input_ids"].shape[1]:
            raise SystemExit("the bare loop made fewer tokens than it was asked for")
        return seconds

    return run


async def streams(target: Target, tokens: int, at_once: int) -> float:
    """Tokens per second of `at_once` streams together, from the first request to the last token."""
    answers: list[Streamed] = await asyncio.gather(
        *(streamed(target, QUESTION, max_tokens=tokens) for _ in range(at_once))
    )
    if not all(answer.complete for answer in answers):
        raise SystemExit("a stream was incomplete")
    began_s = min(answer.began_s for answer in answers)
    return at_once * tokens / (max(answer.arrivals_s[-1] for answer in answers) - began_s)


def ratio(name: str, measured: float, base: float, aim: float, unit: str) -> None:
    print(f"{name:<44} {measured:9.1f} of {base:9.1f} {unit:<9} ratio {measured / base:5.2f}   aim {aim:g}", flush=True)


def health(name: str, delays_ms: list[float]) -> None:
    p50, p99, worst = (percentile(delays_ms, share) for share in (0.5, 0.99, 1.0))
    print(f"{name:<44} p50 {p50:.1f}  p99 {p99:.1f}  worst {worst:.1f} ms   aim 100   ({len(delays_ms)} answers)")


async def main(folder: Path, threads: int, tokens: int, rounds: int) -> None:
    async with server(folder, threads) as target:
        loading = HealthProbe(target)
        async with loading.running():
            ready_s = await until_ready(loading)
        print(f"ready after {ready_s:.1f} s")
        health("/health while the model loads", loading.loading_ms)
        bare = bare_loop(folder, threads)
        bare(20, 1)
        await streams(target, 20, MOST_STREAMS)
        rates: dict[str, list[float]] = {"bare": [], "bare 8": [], "one": [], "eight": []}
        for _ in range(rounds):
            rates["bare"].append(tokens / bare(tokens, 1))
            rates["one"].append(await streams(target, tokens, 1))
            rates["bare 8"].append(MOST_STREAMS * tokens / bare(tokens, MOST_STREAMS))
            rates["eight"].append(await streams(target, tokens, MOST_STREAMS))
        ratio("one stream, of a bare loop", median(rates["one"]), median(rates["bare"]), 0.9, "tokens/s")
        ratio("8 streams, of one stream", median(rates["eight"]), median(rates["one"]), 2, "tokens/s")
        ratio("8 streams, of a bare loop with 8 rows", median(rates["eight"]), median(rates["bare 8"]), 0.9, "tokens/s")
        computing = HealthProbe(target)
        async with computing.running():
            for _ in range(rounds):
                await streams(target, tokens, MOST_STREAMS)
        health("/health while 8 streams are computed", computing.delays_ms)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="another SafeTensors folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, to see that it runs")
    found = parser.parse_args()
    asyncio.run(main(found.folder, found.threads, found.tokens, 2 if found.quick else 7))
