"""A whole LAN in this process, for browsers to look at: a coordinator, its HTTP address and PCs with real agents.

Only the engines and the hardware are played: models of the catalogue with their true sizes, answers word by word at a
chosen pace, loads that go on step by step when the test lets them. Everything between is real: gRPC, agents, pools.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from chorus_client.agent import Agent, Identity
from chorus_client.engines.base import Ending, LoadedModel, LoadOptions, LoadProgress, Report
from chorus_client.footprint import Resident
from chorus_client.hardware import LiveReadings
from chorus_client.link import CoordinatorLink
from chorus_client.memory_gate import MemoryGate
from chorus_client.pool import Pool
from chorus_client.preflight import Reserve
from chorus_http.app import create_app
from chorus_http.chats.store import ChatStore
from chorus_http.joining import Joining
from chorus_http.listen import HttpServer, serving
from chorus_http.rag.opening import LibraryDoor
from chorus_http.servers_door import ServersDoor
from chorus_http.settings import HttpSettings
from chorus_proto.catalogue import entry
from chorus_proto.clock import SystemClock
from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Delta, Done, Generation, PieceBatches
from chorus_proto.ids import ModelName, new_instance_id, new_node_id
from chorus_proto.sizing import DeviceKind, LoadShape, estimate
from chorus_proto.values import Courtesy, EngineKind, Gpu, Hardware, ModelFile, ReplicaState
from chorus_server.app import RunningCoordinator, running
from chorus_server.roster import Roster
from chorus_server.settings import CoordinatorSettings
from chorus_server.store import Store

WITHIN_S = 20.0
_GIB = 1 << 30
STEPS = 5
"""A load tells its progress so often."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pc:
    """What a played PC is, and which models of the catalogue lie on its disk."""

    name: str
    hardware: Hardware
    models: tuple[str, ...]
    tokens_per_s: float = 0.0
    """0: at full speed."""


def office_pc(name: str, *models: str, ram_gib: int = 16, tokens_per_s: float = 0.0) -> Pc:
    hardware = Hardware(
        os="Windows",
        arch="AMD64",
        cpu_model="Intel Core i5-12400",
        physical_cores=6,
        logical_cores=12,
        ram_bytes=ram_gib * _GIB,
        ram_available_bytes=(ram_gib - 4) * _GIB,
        disk_free_bytes=200 * _GIB,
        memory_bandwidth_bytes_per_s=40e9,
        cpu_flops_per_s=4e11,
    )
    return Pc(name=name, hardware=hardware, models=models, tokens_per_s=tokens_per_s)


def gaming_pc(name: str, *models: str, card_gib: int = 24, tokens_per_s: float = 0.0) -> Pc:
    card = Gpu(
        name="NVIDIA GeForce RTX 3090",
        vendor="nvidia",
        memory_bytes=card_gib * _GIB,
        memory_free_bytes=(card_gib - 1) * _GIB,
        bandwidth_bytes_per_s=936e9,
        flops_per_s=69.8e12,
    )
    base = office_pc(name, *models, ram_gib=64, tokens_per_s=tokens_per_s)
    return replace(base, hardware=replace(base.hardware, os="Linux", cpu_model="AMD Ryzen 9 5950X", gpus=(card,)))


class PlayedModel:
    """Says the question's words back and more of them, at the PC's pace."""

    def __init__(self, pc: PlayedPc, options: LoadOptions, resident_bytes: int) -> None:
        self._pc = pc
        self.slots = options.slots
        self.context_tokens = options.context_tokens
        self.resident_bytes = resident_bytes
        self._closed = asyncio.Event()

    async def generate(self, generation: Generation) -> PieceBatches:
        asked = generation.messages[-1].content if generation.messages else generation.prompt or ""
        words = f"{self._pc.pc.name} answers: {asked}".split()
        told = min(len(words), generation.max_tokens or len(words))
        self._pc.generating += 1
        try:
            for word in words[:told]:
                await self._pc.talk.wait()
                if self._pc.pc.tokens_per_s:
                    await asyncio.sleep(1 / self._pc.pc.tokens_per_s)
                if self._closed.is_set():
                    raise EngineFailed("the engine is gone")
                yield [Delta(f"{word} ")]
            yield [Done(finish_reason="stop", prompt_tokens=len(asked.split()), completion_tokens=told)]
        finally:
            self._pc.generating -= 1

    async def resident(self) -> Resident | None:
        return Resident(total_bytes=self.resident_bytes)

    async def wait_closed(self) -> Ending:
        await self._closed.wait()
        return Ending(reason="it was unloaded")

    async def unload(self, *, force: bool = False) -> None:
        self._pc.loaded.discard(self)
        self._closed.set()


class PlayedPc:
    """An agent with its link; also the engine and the readings of its PC. Lives on the LAN's loop."""

    def __init__(self, pc: Pc, address: str, folder: Path) -> None:
        self.pc = pc
        self.loaded: set[PlayedModel] = set()
        self.generating = 0
        self.talk = asyncio.Event()
        """Clear: every answer of this PC stops before its next word."""
        self.talk.set()
        self.load_steps = asyncio.Semaphore(0)
        self.loads_by_themselves = True
        """False: a load takes each of its steps only when `load_steps` is released."""
        self._noise = random.Random(pc.name)
        clock = SystemClock()
        self.node_id = new_node_id()
        identity = Identity(node_id=self.node_id, instance_id=new_instance_id(), name=pc.name)
        gate = MemoryGate(pc.hardware, self, self._device, folder, reserve=Reserve(least_bytes=0, share=0.0))
        self.pool = Pool({self.kind: self}, clock, lambda report: self.agent.replica_changed(report), gate)
        self.agent = Agent(
            identity,
            pc.hardware,
            self.pool,
            clock,
            readings=self,
            fenced=lambda: self.link.fenced,
            mac_addresses=("52:54:00:12:34:56",),
        )
        self.link = CoordinatorLink(
            address, self.agent, clock, connect_within_s=5, reconnect_max_s=0.5, fence_after_s=30
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def kind(self) -> EngineKind:
        return EngineKind.LLAMA_SERVER

    @property
    def _device(self) -> DeviceKind:
        return DeviceKind.DISCRETE_GPU if self.pc.hardware.gpus else DeviceKind.CPU

    async def start(self) -> None:
        await self.agent.prepare((self.kind,))
        self._tasks = [asyncio.create_task(self.link.run()), asyncio.create_task(self.pool.run())]

    async def cut(self) -> None:
        """The PC loses its power: no goodbye."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def close(self) -> None:
        await self.cut()
        await self.agent.aclose()
        await self.pool.aclose()

    async def read(self) -> LiveReadings:
        used_bytes = sum(model.resident_bytes for model in self.loaded)
        hardware = self.pc.hardware
        cpu_percent = self._noise.uniform(35, 70) if self.generating else self._noise.uniform(2, 9)
        cards = tuple((gpu.memory_free_bytes or 0) for gpu in hardware.gpus)
        ram_bytes = hardware.ram_available_bytes or 0
        if cards:
            return LiveReadings(
                ram_available_bytes=ram_bytes,
                gpu_free_bytes=(max(0, cards[0] - used_bytes), *cards[1:]),
                cpu_percent=cpu_percent,
            )
        return LiveReadings(ram_available_bytes=max(0, ram_bytes - used_bytes), cpu_percent=cpu_percent)

    async def inventory(self) -> list[ModelFile]:
        return [self._file(name) for name in self.pc.models]

    def _file(self, name: str) -> ModelFile:
        known = entry(name)
        assert known is not None, name
        return ModelFile(
            name=ModelName(name),
            file_bytes=known.file_bytes,
            engine=self.kind,
            shape=known.shape,
            embedding=known.embedding,
        )

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> LoadedModel:
        load = LoadShape(context_tokens=options.context_tokens, slots=options.slots)
        whole = estimate(model.shape, model.file_bytes, load, self._device).total_bytes
        for step in range(1, STEPS + 1):
            share = step / STEPS
            report(
                LoadProgress(share=share, detail="reading weights", resident=Resident(total_bytes=round(whole * share)))
            )
            if not self.loads_by_themselves:
                await self.load_steps.acquire()
        loaded = PlayedModel(self, options, whole)
        self.loaded.add(loaded)
        return loaded

    async def aclose(self) -> None:
        return


class PlayedLan:
    """The LAN as a test's thread sees it; its loop runs in another one. Made by `played_lan`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self._loop = loop
        self._folder = folder
        self._stack = AsyncExitStack()
        self.pcs: dict[str, PlayedPc] = {}
        self._hub: RunningCoordinator | None = None
        self._server: HttpServer | None = None

    def call(self, work: Coroutine[object, object, T]) -> T:
        """Do it on the LAN's loop and wait."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN_S)

    @property
    def hub(self) -> RunningCoordinator:
        assert self._hub is not None
        return self._hub

    @property
    def url(self) -> str:
        assert self._server is not None
        return self._server.url

    def join(self, pc: Pc) -> PlayedPc:
        return self.call(self._join(pc))

    def cut(self, name: str) -> None:
        self.call(self.pcs[name].cut())

    def until_ready(self, *names: str) -> None:
        """Wait until each of these PCs serves a model."""

        async def serve() -> None:
            async with asyncio.timeout(WITHIN_S):
                while not set(names) <= {
                    node.name
                    for node in (await self.hub.coordinator.state()).nodes
                    if any(one.report.state is ReplicaState.READY for one in node.replicas)
                }:
                    await asyncio.sleep(0.02)

        self.call(serve())

    def let_load(self, name: str, steps: int = STEPS) -> None:
        """So many more steps of the loads of this PC."""
        self._loop.call_soon_threadsafe(lambda: [self.pcs[name].load_steps.release() for _ in range(steps)])

    def hold_answers(self, name: str, *, hold: bool) -> None:
        talk = self.pcs[name].talk
        self._loop.call_soon_threadsafe(talk.clear if hold else talk.set)

    def be_polite(self, name: str, courtesy: Courtesy) -> None:
        self._loop.call_soon_threadsafe(self.pcs[name].agent.be_polite, courtesy)

    async def _join(self, pc: Pc) -> PlayedPc:
        folder = self._folder / pc.name
        folder.mkdir()
        played = PlayedPc(pc, self.hub.grpc_address, folder)
        self.pcs[pc.name] = played
        self._stack.push_async_callback(played.close)
        await played.start()
        return played

    async def start(
        self,
        http: HttpSettings,
        coordinator: CoordinatorSettings,
        servers: ServersDoor | None,
        documents: LibraryDoor | None,
    ) -> None:
        clock = SystemClock()
        self._hub = await self._stack.enter_async_context(running(coordinator, clock))
        chats = ChatStore.open(self._folder / "chats.sqlite")
        self._stack.callback(chats.close)
        members = Store.open(self._folder / "members.sqlite")
        self._stack.callback(members.close)
        tokens = Roster(members.members, clock, fingerprint="ab" * 32)
        joining = Joining(address="192.168.1.10:50051", lan_host="192.168.1.10", open=True, tokens=tokens)
        app = create_app(self._hub.coordinator, http, clock, documents, chats=chats, servers=servers, joining=joining)
        self._server = await self._stack.enter_async_context(serving(app, http))

    async def close(self) -> None:
        await self._stack.aclose()


@contextmanager
def played_lan(
    folder: Path,
    *pcs: Pc,
    http: HttpSettings | None = None,
    servers: ServersDoor | None = None,
    documents: LibraryDoor | None = None,
    **coordinator: object,
) -> Generator[PlayedLan]:
    """The LAN while the block runs. `coordinator`: settings of it beside the quick leases."""
    values: dict[str, object] = {
        "grpc_port": 0,
        "state_dir": folder / "hub",
        "drain_s": 0.2,
        "heartbeat_s": 0.2,
        "suspect_after_s": 0.8,
        "dead_after_s": 2.0,
        **coordinator,
    }
    settings = CoordinatorSettings(**values)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass
    chosen = http or HttpSettings(http_port=0, drain_within_s=0.2, state_dir=folder / "http")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="played-lan", daemon=True)
    thread.start()
    lan = PlayedLan(loop, folder)
    try:
        lan.call(lan.start(chosen, settings, servers, documents))
        _join_all(lan, pcs)
        yield lan
    finally:
        lan.call(lan.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WITHIN_S)
        loop.close()


def _join_all(lan: PlayedLan, pcs: Sequence[Pc]) -> None:
    for pc in pcs:
        lan.join(pc)
