"""The pool over real engine processes that are killed, run out of memory, come up wrong, and come and go."""

from __future__ import annotations

import asyncio
import gc
import stat
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from chorus_client.engines.base import Engine, LoadOptions
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.engines.scripted import SCRIPTED_MODEL, ScriptedEngine
from chorus_client.engines.served_process import ServeLimits
from chorus_client.hardware import LiveReader
from chorus_client.inventory import Inventory
from chorus_client.memory_gate import MemoryGate
from chorus_client.pool import Pool, PoolRules
from chorus_client.preflight import Reserve
from chorus_client.restarts import RestartRules
from chorus_proto.clock import SystemClock
from chorus_proto.errors import ClusterError, EngineFailed, EngineUnavailable
from chorus_proto.generation import Delta, Generation
from chorus_proto.ids import ModelName
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import Hardware, ReplicaReport, ReplicaState
from tests.support.patience import granted_s
from tests.support.pieces import each

TINY = ModelName("demo-tiny")
OPTIONS = LoadOptions(slots=4, context_tokens=256)
_LOOP_THREADS = 4
QUICK = RestartRules(first_s=0.05, jitter=(1.0, 1.0))


class Bench:
    """A pool on one engine, with every report it made."""

    def __init__(self, engine: Engine, folder: Path, *, restarts: RestartRules = QUICK) -> None:
        self.reports: list[ReplicaReport] = []
        hardware = Hardware(os="linux", arch="x86_64", ram_bytes=psutil.virtual_memory().total)
        gate = MemoryGate(
            hardware, LiveReader(hardware), DeviceKind.CPU, folder, reserve=Reserve(least_bytes=0, share=0)
        )
        rules = PoolRules(look_every_s=0.05, restarts=restarts)
        self.pool = Pool({engine.kind: engine}, SystemClock(), self.reports.append, gate, rules=rules)

    async def until(self, *states: ReplicaState, within_s: float = 15) -> ReplicaReport:
        async with asyncio.timeout(granted_s(within_s)):
            while not self.reports or self.reports[-1].state not in states:
                await asyncio.sleep(0.005)
        return self.reports[-1]

    async def said(self, prompt: str, model: ModelName = SCRIPTED_MODEL, **more: object) -> str:
        text: list[str] = []
        generation = Generation(prompt=prompt, **more)  # pyright: ignore[reportArgumentType]  # a test may set any field
        with self.pool.acquire(model) as loaded:
            async with aclosing(each(loaded.generate(generation))) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Delta):
                        text.append(piece.text)
        return "".join(text)


def engines_now() -> list[psutil.Process]:
    """Engine processes below this one, the tied-to-parent wrappers included."""
    return [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]


def play(
    tmp_path: Path, engine: Engine, scenario: Callable[[Bench], Awaitable[None]], restarts: RestartRules = QUICK
) -> None:
    async def run() -> None:
        bench = Bench(engine, tmp_path, restarts=restarts)
        before = len(engines_now())
        await bench.pool.inventory()
        try:
            await scenario(bench)
        finally:
            await bench.pool.aclose()
        assert len(engines_now()) == before, "an engine is left behind"

    asyncio.run(run())


def scripted(faults: Mapping[str, str] | None = None, **more: float) -> ScriptedEngine:
    return ScriptedEngine(faults=faults, limits=ServeLimits(stop_grace_s=1.0), **more)  # pyright: ignore[reportArgumentType]  # speeds


async def engine_process() -> psutil.Process:
    async with asyncio.timeout(5):
        while not (found := engines_now()):
            await asyncio.sleep(0.01)
    return found[0]


def test_an_engine_killed_while_it_loads_is_reported_and_the_next_order_loads(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(SCRIPTED_MODEL, OPTIONS)
        (await engine_process()).kill()
        failed = await bench.until(ReplicaState.FAILED)
        assert failed.failure_code in ("load_failed", "insufficient_memory")
        assert "ended with code" in failed.detail
        bench.pool.load(SCRIPTED_MODEL, OPTIONS, retry=True)
        await bench.until(ReplicaState.READY)
        assert await bench.said("hello")

    play(tmp_path, scripted(load_s=0.5), scenario)


def test_an_engine_killed_while_it_generates_fails_its_generation_and_is_back_by_itself(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(SCRIPTED_MODEL, OPTIONS)
        await bench.until(ReplicaState.READY)
        first = await bench.said("hello")
        with pytest.raises((EngineFailed, EngineUnavailable)):
            await bench.said("hello [[fault crash_after=3]]")
        await bench.until(ReplicaState.LOADING)
        assert (await bench.until(ReplicaState.READY)).restarts == 1
        assert await bench.said("hello") == first

    play(tmp_path, scripted(), scenario)


def test_an_engine_killed_while_its_model_is_unloaded_is_gone_all_the_same(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(SCRIPTED_MODEL, OPTIONS)
        await bench.until(ReplicaState.READY)
        running = asyncio.create_task(bench.said("long [[fault tps=5]]"))
        await asyncio.sleep(0.1)
        bench.pool.unload(SCRIPTED_MODEL, drain_s=30)
        await bench.until(ReplicaState.UNLOADING)
        for process in engines_now():
            process.kill()
        await bench.until(ReplicaState.GONE)
        with pytest.raises(ClusterError):
            await running

    play(tmp_path, scripted(), scenario)


def test_an_engine_that_ends_after_each_start_is_started_five_times_and_then_left_alone(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        codes: list[str] = []
        while "crash_loop" not in codes:
            bench.reports.clear()
            bench.pool.load(SCRIPTED_MODEL, OPTIONS)
            codes.append((await bench.until(ReplicaState.FAILED)).failure_code)
        assert codes == ["load_failed"] * 4 + ["crash_loop"]
        assert "next try in 10 min" in bench.reports[-1].detail
        assert "ended with code 7" in bench.reports[-1].detail

    play(tmp_path, scripted({"crash_after": "0", "exit_code": "7"}), scenario)


def test_a_model_in_a_crash_loop_is_tried_now_and_then(tmp_path: Path) -> None:
    rules = RestartRules(first_s=0.05, jitter=(1.0, 1.0), loop_crashes=2, probe_every_s=0.3)

    async def scenario(bench: Bench) -> None:
        bench.pool.load(SCRIPTED_MODEL, OPTIONS)
        for _ in range(2):
            await bench.until(ReplicaState.READY)
            engines_now()[0].kill()
            await bench.until(ReplicaState.LOADING, ReplicaState.FAILED)
        await bench.until(ReplicaState.READY)
        assert await bench.said("hello")

    play(tmp_path, scripted(), scenario, rules)


def test_an_engine_that_runs_out_of_memory_is_back_with_half_the_slots(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.pool.load(SCRIPTED_MODEL, OPTIONS)
        assert (await bench.until(ReplicaState.READY)).slots == 4
        with pytest.raises((EngineFailed, EngineUnavailable)):
            await bench.said("hello [[fault oom_at=3]]")
        await bench.until(ReplicaState.LOADING)
        assert (await bench.until(ReplicaState.READY)).slots == 2
        assert await bench.said("hello")

    play(tmp_path, scripted(), scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="needs POSIX: the address space is limited by the shell's ulimit")
def test_a_load_that_the_system_ends_for_memory_leaves_the_agent_alive_and_is_not_tried_again(tmp_path: Path) -> None:
    # Enough for Python and its libraries, too little for the model's context.
    limited = tmp_path / "limited-llama-server"
    limited.write_text(
        f'#!/bin/sh\nulimit -v 2500000\nexec "{sys.executable}" -P -m chorus_client.llama_cpp_server "$@"\n'
    )
    limited.chmod(limited.stat().st_mode | stat.S_IXUSR)

    async def scenario() -> None:
        inventory = Inventory((), tmp_path)
        await inventory.refresh()
        engine = LlamaServerEngine(inventory, llama_server_path=limited, threads=1)
        bench = Bench(engine, tmp_path)
        await bench.pool.inventory()
        big = LoadOptions(slots=256, context_tokens=1024)
        bench.pool.load(ModelName("demo-medium"), big)
        failed = await bench.until(ReplicaState.FAILED)
        assert failed.failure_code == "insufficient_memory", failed.detail
        for _ in range(100):
            bench.reports.clear()
            bench.pool.load(ModelName("demo-medium"), big)
            again = await bench.until(ReplicaState.FAILED)
            assert "failed for lack of memory at this size before" in again.detail
            assert not engines_now(), "no engine was started"
        bench.reports.clear()
        bench.pool.load(ModelName("demo-tiny"), LoadOptions(slots=1, context_tokens=256))
        await bench.until(ReplicaState.READY)
        assert await bench.said("2 + 3 =", ModelName("demo-tiny"), max_tokens=4)
        await bench.pool.aclose()

    asyncio.run(scenario())


@pytest.mark.timeout(900)
def test_a_thousand_loads_and_unloads_leave_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        await _all_threads_of_the_loop()
        inventory = Inventory((), tmp_path)
        await inventory.refresh()
        bench = Bench(LlamaServerEngine(inventory, threads=1), tmp_path)
        await bench.pool.inventory()

        async def cycle() -> None:
            bench.reports.clear()
            bench.pool.load(TINY, LoadOptions(slots=1, context_tokens=256))
            await bench.until(ReplicaState.READY)
            bench.pool.unload(TINY, drain_s=5)
            assert (await bench.until(ReplicaState.GONE)).detail == ""

        # The allocator takes some 6 MB more in the first hundreds of cycles and then nothing.
        for _ in range(500):
            await cycle()
        before = _held()
        for _ in range(500):
            await cycle()
        after = _held()
        assert after[0] - before[0] < 2 << 20, "resident memory grew"
        assert after[1:] == before[1:], "open files and threads"
        assert not engines_now()
        await bench.pool.aclose()

    asyncio.run(scenario())


def _held() -> tuple[int, int, int]:
    """Resident bytes, open files and sockets, threads of this process."""
    gc.collect()
    me = psutil.Process()
    handles = me.num_handles() if sys.platform == "win32" else sum(1 for _ in Path("/dev/fd").iterdir())
    return me.memory_info().rss, handles, threading.active_count()


async def _all_threads_of_the_loop() -> None:
    """Start them now: asyncio's pool grows to its limit by chance, whenever two calls happen to meet."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(_LOOP_THREADS)
    loop.set_default_executor(pool)
    together = threading.Barrier(_LOOP_THREADS)
    await asyncio.gather(*(loop.run_in_executor(pool, together.wait, 10.0) for _ in range(_LOOP_THREADS)))
