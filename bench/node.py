"""What the agent costs its PC: `python -m bench.node [--quick]`, run from the project's root.

Idle: a real agent with a coordinator and no model. Loading: through the pool beside the same engine started by hand,
turn by turn. A warm request: through the pool beside the loaded model asked directly, turn by turn. /health: of the
HTTP wrapper while models load on demand and leave again, beside the same time without loads.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.resources
import tempfile
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from statistics import median

import aiohttp
import psutil

from bench.load import percentile
from bench.processes import chorus_up, cpu_s, engine
from chorus_client.engines.base import LoadOptions
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.footprint import footprint
from chorus_client.hardware import LiveReader, probe
from chorus_client.inventory import Inventory
from chorus_client.memory_gate import MemoryGate
from chorus_client.pool import Pool
from chorus_client.preflight import Reserve
from chorus_proto.clock import SystemClock
from chorus_proto.generation import Delta, Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import EngineKind, ModelFile, ReplicaReport, ReplicaState

TINY = ModelName("demo-tiny")
OPTIONS = LoadOptions(slots=1, context_tokens=256)
PROMPT = Generation(prompt="The capital of France is", max_tokens=1, temperature=0.0)


def idle(folder: Path, seconds: float) -> None:
    """Agent without a model."""
    with chorus_up(folder, "--engines=scripted", "--slots=1") as up:
        engines = up.agent.children(recursive=True)
        time.sleep(3)
        began_s, busy_s = time.monotonic(), cpu_s(up.agent)
        time.sleep(seconds)
        share = (cpu_s(up.agent) - busy_s) / (time.monotonic() - began_s)
        held = footprint([up.agent])
        resident = up.agent.memory_info().rss
        assert held is not None
        print(f"idle agent ({len(engines)} engine process beside it)     CPU {share:6.2%} of a core (aim 1 %)")
        print(
            f"idle agent                                  memory {held.total_bytes / 1e6:.0f} MB of its own, "
            f"{resident / 1e6:.0f} MB resident (aim 80)"
        )


class Bench:
    """A pool over the bundled engine, in this process."""

    def __init__(self, pool: Pool, llama: LlamaServerEngine, tiny: ModelFile, reports: list[ReplicaReport]) -> None:
        self.pool = pool
        self.llama = llama
        self.tiny = tiny
        self._reports = reports

    @classmethod
    async def ready(cls, folder: Path) -> Bench:
        inventory = Inventory((), folder)
        await inventory.refresh()
        hardware = await probe(folder)
        reports: list[ReplicaReport] = []
        gate = MemoryGate(hardware, LiveReader(hardware), DeviceKind.CPU, folder, reserve=Reserve())
        llama = LlamaServerEngine(inventory, threads=1)
        pool = Pool({EngineKind.LLAMA_SERVER: llama}, SystemClock(), reports.append, gate)
        tiny = next(file for file in await pool.inventory() if file.name == TINY)
        return cls(pool, llama, tiny, reports)

    async def until(self, state: ReplicaState) -> None:
        while not self._reports or self._reports[-1].state is not state:
            if self._reports and self._reports[-1].state is ReplicaState.FAILED:
                raise SystemExit(self._reports[-1].detail)
            await asyncio.sleep(0.001)

    async def loaded_s(self) -> float:
        """Seconds of one load through the pool, which is undone again."""
        began_s = time.perf_counter()
        self.pool.load(TINY, OPTIONS)
        await self.until(ReplicaState.READY)
        took_s = time.perf_counter() - began_s
        self.pool.unload(TINY, drain_s=1)
        await self.until(ReplicaState.GONE)
        return took_s


async def by_hand_s() -> float:
    """Seconds from starting the engine's command until /health says ok, as a user's script would look."""
    model = importlib.resources.files("chorus_client").joinpath("models", "demo-tiny-q8_0.gguf")
    arguments = ["--model", str(model), "--parallel", "1", "--ctx-size", "256", "--threads", "1"]

    def run() -> float:
        began_s = time.perf_counter()
        with engine("chorus_client.llama_cpp_server", arguments) as url:
            return asyncio.run(_until_healthy(url)) - began_s

    return await asyncio.to_thread(run)


async def _until_healthy(url: str) -> float:
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/health") as answer:
                if answer.status == 200:
                    return time.perf_counter()
            await asyncio.sleep(0.001)


async def first_piece_ms(generate: Callable[[Generation], PieceBatches]) -> float:
    began_s = time.perf_counter()
    async with aclosing(generate(PROMPT)) as batches:
        async for pieces in batches:
            if isinstance(pieces[-1], Delta):
                break
        took_ms = (time.perf_counter() - began_s) * 1000
        async for _ in batches:
            pass
    return took_ms


async def loading_and_warm(folder: Path, repeats: int) -> None:
    bench = await Bench.ready(folder)
    pooled: list[float] = []
    alone: list[float] = []
    for _ in range(repeats):
        pooled.append(await bench.loaded_s())
        alone.append(await by_hand_s())
    print(
        f"load of demo-tiny, median of {repeats}: pool {median(pooled) * 1000:.0f} ms, by hand "
        f"{median(alone) * 1000:.0f} ms, ratio {median(pooled) / median(alone):.3f} (aim 1.1)"
    )
    bench.pool.load(TINY, OPTIONS)
    await bench.until(ReplicaState.READY)
    through: list[float] = []
    direct: list[float] = []
    alone_too = await bench.llama.load(bench.tiny, OPTIONS, lambda _progress: None)
    for number in range(20 * (repeats + 1)):
        direct_ms = await first_piece_ms(alone_too.generate)
        began_s = time.perf_counter()
        with bench.pool.acquire(TINY) as hold:
            acquired_ms = (time.perf_counter() - began_s) * 1000
            through_ms = acquired_ms + await first_piece_ms(hold.generate)
        if number >= 20:
            direct.append(direct_ms)
            through.append(through_ms)
    await alone_too.unload()
    print(
        f"warm request to its first token, p50: pool {median(through):.2f} ms, engine {median(direct):.2f} ms, "
        f"added {median(through) - median(direct):+.2f} ms (aim 1)"
    )
    await bench.pool.aclose()


async def health(url: str, seconds: float, *, load: bool) -> list[float]:
    """Milliseconds of each /health for `seconds`; with `load`, models are asked for that must be loaded first."""
    took: list[float] = []
    stop = asyncio.Event()

    async def look(session: aiohttp.ClientSession) -> int:
        while not stop.is_set():
            began_s = time.perf_counter()
            async with session.get(f"{url}/health") as answer:
                assert answer.status == 200
                await answer.read()
            took.append((time.perf_counter() - began_s) * 1000)
            await asyncio.sleep(0.01)
        return 0

    async def ask(session: aiohttp.ClientSession, model: str) -> int:
        loads = 0
        while not stop.is_set():
            body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                if answer.status != 200:
                    raise SystemExit(await answer.text())
            loads += 1
            await asyncio.sleep(0.7)  # longer than the time to live: the next one loads again
        return loads

    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.create_task(look(session))]
        if load:
            tasks += [asyncio.create_task(ask(session, model)) for model in ("demo-tiny", "demo-medium")]
        await asyncio.sleep(seconds)
        stop.set()
        results = await asyncio.gather(*tasks)
    if load:
        print(f"loads on demand meanwhile: {sum(results)}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        idle(folder / "idle", 10 if quick else 60)
        asyncio.run(loading_and_warm(folder / "pool", 5 if quick else 25))
        with chorus_up(folder / "health", "--model-keep-alive-s=0.3") as up:
            asyncio.run(_compare_health(up.http_url, 8 if quick else 30))


async def _compare_health(url: str, seconds: float) -> None:
    quiet = await health(url, seconds, load=False)
    loading = await health(url, seconds, load=True)
    p99 = percentile(quiet, 99), percentile(loading, 99)
    print(f"/health p99: {p99[0]:.1f} ms quiet, {p99[1]:.1f} ms while models load (aim 50)")


if __name__ == "__main__":
    psutil.cpu_percent()
    main()
