"""Put an agent together and run it: who it is, what the PC can do, its engines and models, its link."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path

import msgspec

from chorus_client.agent import Agent, Identity
from chorus_client.care import caring, policy_of
from chorus_client.compute import device_kind, usable_by_engines
from chorus_client.engines.base import Engine, LoadedModel, LoadOptions
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.engines.remote import RemoteEngine
from chorus_client.engines.scripted import ScriptedEngine
from chorus_client.engines.served_process import ServeLimits
from chorus_client.engines.transformers import TransformersEngine
from chorus_client.folder_archive import Digests
from chorus_client.hardware import LiveReader, probe, read_hardware_file
from chorus_client.hardware.bounded import ask
from chorus_client.hardware.network import mac_addresses
from chorus_client.hf_folders import HfFolders
from chorus_client.integrity import Integrity
from chorus_client.inventory import Inventory
from chorus_client.joining import Joining
from chorus_client.limits import download_limits, http_limits, ollama_limits, pool_rules, restart_rules, serve_limits
from chorus_client.link import CoordinatorLink
from chorus_client.local_servers.adopt import adopt_running
from chorus_client.local_servers.engine import LocalServersEngine
from chorus_client.local_servers.kept_server import KeepLimits
from chorus_client.lookout import Lookout
from chorus_client.memory_gate import MemoryGate
from chorus_client.microbench import BENCH_MODEL, measured
from chorus_client.model_options import ModelOptions, read_model_options
from chorus_client.ollama_store import OllamaStore
from chorus_client.pool import Pool
from chorus_client.preflight import Reserve
from chorus_client.settings import AgentSettings
from chorus_client.transfer.calls import TransferCalls
from chorus_client.transfer.fetches import Fetches
from chorus_client.transfer.model_store import ModelStore
from chorus_proto.clock import Clock
from chorus_proto.errors import EngineFailed, InvalidRequest, LoadFailed
from chorus_proto.files import only_one, state_folder, write_atomically
from chorus_proto.generation import Done, Generation
from chorus_proto.ids import ModelName, NodeId, new_instance_id, new_node_id
from chorus_proto.membership import JoinToken, join_token_of
from chorus_proto.settings import SettingsError
from chorus_proto.transfers import FetchReport
from chorus_proto.values import EngineKind, Hardware, ReplicaReport

log = logging.getLogger(__name__)

NAME_LIMIT = 64
NETWORK_WITHIN_S = 2.0
LOCAL_DEFAULT = ModelName("local-default")
"""The model name that always means the default server of the servers file; `chorus server switch` moves it."""


class _NodeFile(msgspec.Struct):
    """node.json: what makes this PC the same node after a restart."""

    node_id: str


@contextmanager
def only_agent(settings: AgentSettings) -> Generator[None]:
    """Be the only agent of this name on the state folder while the block runs. Raises SettingsError."""
    name = agent_name(settings)
    folder = agent_folder(settings.state_dir, name)
    refusal = f"an agent called {name} already runs on the state folder {folder}; give this one another --name"
    with only_one(folder / "agent.lock", refusal):
        yield


async def run_agent(settings: AgentSettings, stop: asyncio.Event, clock: Clock) -> None:
    """Run, as the `only_agent` of its name, until `stop` is set.

    Raises SettingsError (wrong settings) and Refused (the coordinator will not have it).
    """
    name = agent_name(settings)
    folder = agent_folder(settings.state_dir, name)
    policy = policy_of(settings)
    token = join_token(settings)
    integrity = Integrity(folder, clock=clock, verify_every_s=settings.verify_digest_every_h * 3600)
    store = model_store(settings, folder)
    stores = [store] if settings.ollama_store is None else [store, OllamaStore(settings.ollama_store.expanduser())]
    inventory = Inventory(settings.models_dirs, folder, integrity=integrity, stores=stores)
    folders = HfFolders(settings.models_dirs, folder, store=store)
    model_options = read_model_options(settings.models_file)
    engines = build_engines(settings, inventory, folders, clock, model_options)
    try:
        await inventory.refresh()
        await folders.refresh()
        hardware = await _hardware(settings, folder, inventory)
        identity = Identity(node_id=node_id(folder), instance_id=new_instance_id(), name=name)
        joining = Joining(
            settings.join,
            state_dir=settings.state_dir,
            folder=folder,
            node_id=identity.node_id,
            name=name,
            token=token,
            within_s=settings.connect_within_s,
        )
        telling: list[Callable[[ReplicaReport], None]] = []

        def tell(report: ReplicaReport) -> None:
            for listener in telling:
                listener(report)

        readings = LiveReader(hardware, clock)
        await readings.wake()
        reserve = Reserve(least_bytes=settings.reserve_bytes, share=settings.reserve_share)
        gate = MemoryGate(
            hardware,
            readings,
            device_kind(hardware, settings),
            folder,
            reserve=reserve,
            freed_within_s=settings.freed_within_s,
            options=model_options,
        )
        pool = Pool(engines, clock, tell, gate, rules=pool_rules(settings), options=model_options)

        async def removed() -> None:
            await lookout.look()

        async def arrived(path: Path, sha256: str) -> None:
            await integrity.witnessed(path, sha256)
            await lookout.look()

        async def unpacked(path: Path, digests: Digests) -> None:
            await folders.witnessed(path, digests)
            await lookout.look()

        def told(report: FetchReport) -> None:
            agent.fetch_changed(report)

        fetches = Fetches(
            store,
            inventory,
            folders,
            TransferCalls(settings.join, write_within_s=settings.download_stall_s, door=joining.membership),
            clock,
            registry_url=settings.registry_url,
            limits=download_limits(settings),
            tell=told,
            arrived=arrived,
            unpacked=unpacked,
            removed=removed,
        )
        agent = Agent(
            identity,
            hardware,
            pool,
            clock,
            readings=readings,
            fenced=lambda: link.fenced,
            fetcher=fetches,
            mac_addresses=await _wake_addresses(settings),
        )
        telling.append(agent.replica_changed)
        lookout = Lookout(inventory, folders, agent, every_s=settings.models_look_every_s)
        link = CoordinatorLink(
            settings.join,
            agent,
            clock,
            connect_within_s=settings.connect_within_s,
            reconnect_max_s=settings.reconnect_max_s,
            fence_after_s=settings.fence_after_s,
            door=joining.membership,
        )
        await asyncio.to_thread(store.sweep_parts)
        await agent.prepare(tuple(engines))
        pool.preload()
        beside = [
            asyncio.create_task(lookout.run(), name="lookout"),
            asyncio.create_task(pool.run(), name="pool"),
            *caring(
                settings, policy, agent, link, pool, clock, nvidia="nvidia" in {gpu.vendor for gpu in hardware.gpus}
            ),
        ]
        local = engines.get(EngineKind.LOCAL_SERVERS)
        if isinstance(local, LocalServersEngine):
            adopting = adopt_running(local, pool, every_s=settings.probe_every_s)
            beside.append(asyncio.create_task(adopting, name="local-servers"))
        for task in beside:
            task.add_done_callback(_say_if_broken)
        linking = asyncio.create_task(link.run(), name="link")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait((linking, stopping), return_when=asyncio.FIRST_COMPLETED)
            if linking.done():
                linking.result()
            await agent.drain(settings.drain_s)
            await link.say_goodbye("the agent stops")
        finally:
            for task in (linking, stopping, *beside):
                task.cancel()
            await asyncio.gather(linking, stopping, *beside, return_exceptions=True)
            await fetches.aclose()
            await agent.aclose()
            await pool.aclose()
    finally:
        for engine in engines.values():
            await engine.aclose()


async def _wake_addresses(settings: AgentSettings) -> tuple[str, ...]:
    if not settings.wakeable:
        return ()
    return await ask("network cards", mac_addresses, NETWORK_WITHIN_S) or ()


def _say_if_broken(task: asyncio.Task[None]) -> None:
    """Work beside the link may fail without ending the agent, but not in silence."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s broke; the agent goes on without it", task.get_name(), exc_info=error)


def agent_name(settings: AgentSettings) -> str:
    """The name people see. Raises SettingsError for one that cannot be a folder's or a terminal's."""
    name = settings.name or socket.gethostname().split(".")[0] or "pc"
    allowed = all(letter.isalnum() or letter in "-_." for letter in name)
    if not allowed or name.startswith(".") or len(name) > NAME_LIMIT:
        raise SettingsError(f"--name {name!r} must be 1 to {NAME_LIMIT} letters, digits, '-', '_' or '.'")
    return name


def join_token(settings: AgentSettings) -> JoinToken | None:
    """The token that the settings hold, if any. Raises SettingsError for what is none."""
    if not settings.join_token:
        return None
    token = join_token_of(settings.join_token)
    if token is None:
        raise SettingsError("that is no join token; they look like chorus1.… and come from: chorus join-token create")
    return token


def agent_folder(state_dir: Path, name: str) -> Path:
    """This agent's own folder, so that several agents of one PC can share a state folder. Raises SettingsError."""
    return state_folder(state_dir / "agents" / name)


def model_store(settings: AgentSettings, folder: Path) -> ModelStore:
    """Where models that come over the network are kept."""
    return ModelStore((settings.download_dir or folder / "models").expanduser(), spare_bytes=settings.disk_spare_bytes)


def node_id(folder: Path) -> NodeId:
    """The id kept in node.json, made at the first start. Raises SettingsError when the file is damaged."""
    path = folder / "node.json"
    try:
        return NodeId(msgspec.json.decode(path.read_bytes(), type=_NodeFile).node_id)
    except FileNotFoundError:
        fresh = new_node_id()
        write_atomically(path, msgspec.json.encode(_NodeFile(node_id=fresh)))
        return fresh
    except msgspec.DecodeError:
        raise SettingsError(f"{path} is damaged; delete it and this PC joins as a new node") from None


def build_engines(
    settings: AgentSettings,
    inventory: Inventory,
    folders: HfFolders,
    clock: Clock,
    model_options: Mapping[ModelName, ModelOptions] | None = None,
) -> dict[EngineKind, Engine]:
    """The engines named in the settings. Raises SettingsError for a setting that one of them lacks."""
    engines: dict[EngineKind, Engine] = {}
    if settings.servers_file is not None:
        engines[EngineKind.LOCAL_SERVERS] = LocalServersEngine(
            settings.servers_file,
            settings.state_dir.expanduser(),
            clock,
            kind=EngineKind.LOCAL_SERVERS,
            models_dirs=settings.models_dirs,
            default_model=LOCAL_DEFAULT,
            limits=KeepLimits(serve=serve_limits(settings), restarts=restart_rules(settings)),
        )
    for kind in settings.engines:
        if kind is EngineKind.LLAMA_SERVER:
            engines[kind] = LlamaServerEngine(
                inventory,
                llama_server_path=settings.llama_server_path,
                threads=settings.threads or None,
                gpu_layers=settings.gpu_layers,
                model_options=model_options,
                checked=inventory.checked,
                limits=serve_limits(settings),
            )
        elif kind is EngineKind.OLLAMA:
            # Imported where it is used: Ollama's library takes 20 MB of every agent's memory.
            from chorus_client.engines.ollama import OllamaEngine

            engines[kind] = OllamaEngine(settings.ollama_url, limits=ollama_limits(settings))
        elif kind is EngineKind.REMOTE:
            if not settings.remote_url:
                raise SettingsError("the remote engine needs remote_url, the base URL of an OpenAI-compatible server")
            engines[kind] = RemoteEngine(
                settings.remote_url,
                api_key=settings.remote_api_key or None,
                probe_every_s=settings.probe_every_s,
                limits=http_limits(settings),
            )
        elif kind is EngineKind.TRANSFORMERS:
            engines[kind] = TransformersEngine(
                folders,
                threads=settings.threads or None,
                device_map="cpu" if settings.gpu_layers == 0 else "auto",
                limits=serve_limits(settings),
            )
        elif kind is EngineKind.LOCAL_SERVERS:
            if settings.servers_file is None:
                raise SettingsError("the local_servers engine needs servers_file, see: chorus server --help")
        else:
            engines[kind] = ScriptedEngine(
                ttft_s=settings.scripted_ttft_s,
                tokens_per_s=settings.scripted_tokens_per_s,
                limits=serve_limits(settings),
            )
    return engines


async def _hardware(settings: AgentSettings, folder: Path, inventory: Inventory) -> Hardware:
    """Probe this PC, or read the file that stands in for it, and fill in what is measured."""
    if settings.hardware is not None:
        try:
            return read_hardware_file(settings.hardware)
        except InvalidRequest as error:
            raise SettingsError(f"--hardware: {error.message}") from None
    hardware = usable_by_engines(await probe(folder), settings)
    if not settings.microbench:
        return hardware

    bench = _Bench(inventory, serve_limits(settings))
    try:
        return await measured(hardware, folder / "microbench.json", bench.generate)
    finally:
        await bench.aclose()


class _Bench:
    """The benchmark's model in an engine of its own, with one thread; loaded only if something must be measured."""

    def __init__(self, inventory: Inventory, limits: ServeLimits) -> None:
        self._engine = LlamaServerEngine(inventory, threads=1, checked=inventory.checked, limits=limits)
        self._loaded: LoadedModel | None = None

    async def generate(self, generation: Generation) -> Done:
        """Raises ClusterError."""
        if self._loaded is None:
            file = next((file for file in await self._engine.inventory() if file.name == BENCH_MODEL), None)
            if file is None:
                raise LoadFailed(f"the bundled model {BENCH_MODEL} is missing")
            options = LoadOptions(slots=1, context_tokens=1024)
            self._loaded = await self._engine.load(file, options, lambda _progress: None)
        async with aclosing(self._loaded.generate(generation)) as batches:
            async for pieces in batches:
                if isinstance(done := pieces[-1], Done):
                    return done
        raise EngineFailed("the micro-benchmark got no answer")

    async def aclose(self) -> None:
        if self._loaded is not None:
            await self._loaded.unload()
        await self._engine.aclose()
