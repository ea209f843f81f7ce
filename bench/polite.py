"""What politeness costs its PC and how soon it acts: `python -m bench.polite [--quick]`, run from the project's root.

Cost: a process that looks at this PC as an agent does, beside the same process that only waits, turn by turn. Delay: a
real agent and coordinator on loopback, in this process; an owner who touches the keyboard (played, because a bench has
no hands) and a program that takes a core (real) come at random moments. Noticed: the agent acts on it. Lowered: the
coordinator gives the node fewer slots.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from bench.load import percentile
from chorus_client.activity.seen import Activity
from chorus_client.activity.sensors import Sensors
from chorus_client.agent import Agent, Identity
from chorus_client.engines.scripted import ScriptedEngine
from chorus_client.hardware import LiveReader, nvidia, probe
from chorus_client.link import CoordinatorLink
from chorus_client.memory_gate import MemoryGate
from chorus_client.policy import Condition, Limits, Policy, Reaction
from chorus_client.polite import Polite
from chorus_client.pool import Pool
from chorus_client.preflight import Reserve
from chorus_client.settings import AgentSettings
from chorus_proto.clock import SystemClock
from chorus_proto.ids import new_instance_id, new_node_id
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import ALL_OURS, Courtesy, EngineKind, ReplicaReport
from chorus_server.app import running
from chorus_server.coordinator import Coordinator
from chorus_server.settings import CoordinatorSettings

EVERY_S = AgentSettings().policy_every_s
AIM_CPU, AIM_NOTICED_S, AIM_LOWERED_S = 0.005, 5.0, 1.0
BURN = "import os\nwhile True: os.urandom(1 << 16)"
START = f"""
import subprocess, sys
quiet = subprocess.DEVNULL
print(subprocess.Popen([sys.executable, "-c", {BURN!r}], stdin=quiet, stdout=quiet, stderr=quiet).pid)
"""


class Nobody:
    """Takes no notice of anything (`polite.Obliged`)."""

    def be_polite(self, courtesy: Courtesy) -> None: ...

    def free_idle_models(self, reason: str) -> None: ...


def policy(cpu_percent: float) -> Policy:
    reactions = {Condition.OWNER: Reaction.LOWER, Condition.CPU: Reaction.LOWER}
    return Policy(reactions=reactions, limits=Limits(cpu_percent=cpu_percent, settle_s=0.0))


def senses() -> Sensors:
    return Sensors(SystemClock(), idle=True, cpu=True, gpu=bool(nvidia.gpus()))


async def cost(seconds: float, turns: int) -> None:
    """CPU time of the looks, as a share of one core."""
    shares: list[float] = []
    for _ in range(turns):
        polite = Polite(policy(50.0), senses().look, SystemClock(), Nobody(), every_s=EVERY_S)
        await polite.step()
        task = asyncio.create_task(polite.run())
        looking = await _cpu_share(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shares.append(looking - await _cpu_share(seconds / 4))
    share = percentile(shares, 0.5)
    what = f"a look every {EVERY_S:g} s, {len(psutil.pids())} processes here"
    print(f"{what:<40} CPU {share:.3%} of a core (aim {AIM_CPU:.1%}), {share * EVERY_S * 1e3:.1f} ms each")


async def _cpu_share(seconds: float) -> float:
    """Of this process, all its threads."""
    began_s, used_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - used_s) / (time.perf_counter() - began_s)


class Pc:
    """An agent whose senses are real but for the keyboard, linked to a coordinator."""

    def __init__(self, coordinator: Coordinator, agent: Agent) -> None:
        self.coordinator = coordinator
        self.noticed_s: float | None = None
        self.idle_s = 1e6
        self.used_percent: float | None = None
        self._agent = agent
        self._look = senses().look

    async def look(self) -> Activity:
        seen = await self._look()
        self.used_percent = seen.foreign_cpu_percent
        return replace(seen, idle_s=self.idle_s)

    def be_polite(self, courtesy: Courtesy) -> None:
        self.noticed_s = time.perf_counter()
        self._agent.be_polite(courtesy)

    def free_idle_models(self, reason: str) -> None:
        self._agent.free_idle_models(reason)

    async def until_shown(self, *, polite: bool) -> float:
        """When the coordinator had it."""
        async with asyncio.timeout(60):
            while True:
                nodes = (await self.coordinator.state()).nodes
                if nodes and (nodes[0].courtesy != ALL_OURS) is polite:
                    return time.perf_counter()
                await asyncio.sleep(0.001)


@asynccontextmanager
async def polite_pc(folder: Path, cpu_percent: float) -> AsyncGenerator[Pc]:
    clock = SystemClock()
    hardware = await probe(folder)
    gate = MemoryGate(hardware, LiveReader(hardware), DeviceKind.CPU, folder, reserve=Reserve())

    def tell(report: ReplicaReport) -> None:
        agent.replica_changed(report)

    pool = Pool({EngineKind.SCRIPTED: ScriptedEngine()}, clock, tell, gate)
    identity = Identity(node_id=new_node_id(), instance_id=new_instance_id(), name="bench")
    agent = Agent(identity, hardware, pool, clock, readings=LiveReader(hardware), fenced=lambda: False)
    async with running(CoordinatorSettings(grpc_port=0, state_dir=folder, drain_s=0), clock) as hub:
        link = CoordinatorLink(hub.grpc_address, agent, clock, connect_within_s=3, reconnect_max_s=2, fence_after_s=30)
        pc = Pc(hub.coordinator, agent)
        polite = Polite(policy(cpu_percent), pc.look, clock, pc, every_s=EVERY_S)
        tasks = [asyncio.create_task(link.run()), asyncio.create_task(polite.run())]
        try:
            await pc.until_shown(polite=False)
            yield pc
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await agent.aclose()
            await pool.aclose()


async def delay(pc: Pc, what: str, begin: Callable[[], Awaitable[Callable[[], None]]], tries: int) -> None:
    """`begin` makes something happen and returns what ends it."""
    noticed: list[float] = []
    lowered: list[float] = []
    for _ in range(tries):
        await asyncio.sleep(random.uniform(0, EVERY_S))
        began_s = time.perf_counter()
        end = await begin()
        try:
            shown_s = await pc.until_shown(polite=True)
        finally:
            end()
        assert pc.noticed_s is not None
        noticed.append(pc.noticed_s - began_s)
        lowered.append(shown_s - pc.noticed_s)
        await pc.until_shown(polite=False)
    print(
        f"{what:<40} noticed {max(noticed):.2f} s at most (aim {AIM_NOTICED_S:g}), slots lowered "
        f"{max(lowered) * 1e3:.0f} ms later at most (aim {AIM_LOWERED_S * 1e3:.0f}), {tries} times"
    )


async def delays(folder: Path, tries: int) -> None:
    cores = psutil.cpu_count() or 1
    async with polite_pc(folder, 100.0) as pc:
        await asyncio.sleep(2 * EVERY_S)
        ambient = pc.used_percent or 0.0

        async def touch() -> Callable[[], None]:
            pc.idle_s = 0.0
            return lambda: setattr(pc, "idle_s", 1e6)

        await delay(pc, "an owner at the keyboard", touch, tries)
    limit = ambient + 60.0 / cores
    if limit > 95:
        print(f"other programs use {ambient:.0f} % of {cores} cores: one more would not be seen beside them")
        return
    print(f"(other programs use {ambient:.0f} % of {cores} cores; the limit for the next is {limit:.0f} %)")
    strangers = [_stranger() for _ in range(max(1, tries // 2))]
    waiting = list(strangers)
    try:
        async with polite_pc(folder, limit) as pc:

            async def burn() -> Callable[[], None]:
                process = waiting.pop()
                process.resume()
                return process.kill

            await delay(pc, "a program that takes a core", burn, len(strangers))
    finally:
        for process in strangers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _stranger() -> psutil.Process:
    """A program of somebody else's, held back for now: not a child of this process, which would be family."""
    told = subprocess.run([sys.executable, "-c", START], capture_output=True, check=True, timeout=10)
    process = psutil.Process(int(told.stdout))
    process.suspend()
    return process


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--quick", action="store_true", help="shorter, less exact")
    quick = flags.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(cost(10 if quick else 30, 1 if quick else 3))
        asyncio.run(delays(Path(folder), 2 if quick else 10))


if __name__ == "__main__":
    main()
