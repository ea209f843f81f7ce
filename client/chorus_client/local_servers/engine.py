"""The local servers as models of this node: what the file names can be loaded, asked and unloaded like any model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chorus_client.engines.base import LoadOptions, LoadProgress, Report
from chorus_client.engines.openai_http import OpenAiHttp
from chorus_client.engines.remote import RemoteModel
from chorus_client.footprint import Resident, footprint
from chorus_client.local_servers.config import ServersConfig, load
from chorus_client.local_servers.kept_server import KeepLimits, KeptServer
from chorus_client.local_servers.listener import family_of
from chorus_client.local_servers.loaded import DefaultModel, LocalModel
from chorus_client.local_servers.plan import Plan, planned
from chorus_client.local_servers.preflight import device_of
from chorus_client.local_servers.probe import facts_of
from chorus_client.local_servers.records import Phase, Records
from chorus_client.local_servers.runtime import LocalServers, Owner, State
from chorus_client.local_servers.server_config import ServerConfig
from chorus_proto.catalogue import normalised
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, EngineUnavailable, LoadFailed
from chorus_proto.ids import ModelName
from chorus_proto.settings import SettingsError
from chorus_proto.values import EngineKind, ModelFile

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    """One configured server in this agent."""

    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    supervisor: KeptServer | None = None
    holders: int = 0
    auto_started: bool = False


class LocalServersEngine:
    """The servers of one file (`Engine`). A model's name is the server's name, in lower case.

    Load: a server that runs already, whoever started it, is adopted; any other is started as a child of the agent with
    the parameters of the file, which win over those of the load. Unload: what this agent started is stopped; what
    somebody else or `chorus server start` started, and what has `auto_start`, runs on.

    A server that crashes closes its loaded model, as any engine does; who wants it back loads it again. One with
    `auto_start` is started again without being asked, and a load waits for that.

    `default_model`: also offer the default server under this name; see `DefaultModel` for what happens to requests when
    the default changes. `path` is read again when the file changes; a file that became wrong changes nothing.
    """

    def __init__(
        self,
        path: Path,
        state_dir: Path,
        clock: Clock,
        *,
        kind: EngineKind,
        models_dirs: Sequence[Path] = (),
        default_model: ModelName | None = None,
        look_every_s: float = 1.0,
        limits: KeepLimits | None = None,
    ) -> None:
        """Raises SettingsError when the file cannot be used."""
        self._path = path
        self._state_dir = state_dir
        self._clock = clock
        self._kind = kind
        self._models_dirs = tuple(models_dirs)
        self._default_model = default_model
        self._look_every_s = look_every_s
        self._limits = limits or KeepLimits()
        self._records = Records(state_dir)
        self._slots: dict[str, _Slot] = {}
        self._config = load(path)
        self._read_from = _state_of(path)
        self._told: set[str] = set()

    @property
    def kind(self) -> EngineKind:
        return self._kind

    def config(self) -> ServersConfig:
        """What the file says now. Blocks for a moment when it changed."""
        state = _state_of(self._path)
        if state != self._read_from:
            self._read_from = state
            try:
                self._config = load(self._path)
            except SettingsError as error:
                log.warning("the change of the local servers is not taken: %s", error)
        return self._config

    def _servers(self, config: ServersConfig) -> LocalServers:
        return LocalServers(config, self._state_dir, models_dirs=self._models_dirs, limits=self._limits.serve)

    async def inventory(self) -> list[ModelFile]:
        """Every server that runs or could be started; of the others, the log says once why not."""
        config = await asyncio.to_thread(self.config)
        found: list[ModelFile] = []
        for server in config.servers:
            file = await self._file_of(config, server)
            if file is not None:
                found.append(file)
        if self._default_model is not None and config.servers:
            default = normalised(config.get_active_server().name)
            active = next((file for file in found if file.name == default), None)
            if active is not None:
                found.append(replace(active, name=self._default_model, embedding=False))
        return found

    async def _file_of(self, config: ServersConfig, server: ServerConfig) -> ModelFile | None:
        name = normalised(server.name)
        try:
            plan = await asyncio.to_thread(planned, config, server, self._models_dirs)
            return ModelFile(
                name=name,
                file_bytes=plan.file_bytes,
                engine=self._kind,
                shape=plan.shape,
                embedding=plan.embedding,
                owners=True,
                thinking=plan.traits.thinking,
                thinking_optional=plan.traits.thinking_optional,
                tools=plan.traits.tools,
            )
        except (SettingsError, ClusterError) as error:
            # A server that somebody else runs needs no file of ours.
            if (await self._servers(config).status(server.name)).runs:
                return ModelFile(name=name, file_bytes=0, engine=self._kind, owners=True)
            if str(error) not in self._told:
                self._told.add(str(error))
                log.warning("the local server %s cannot be started: %s", server.name, error)
            return None

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> LocalModel | DefaultModel:
        config = await asyncio.to_thread(self.config)
        if model.name == self._default_model:
            first = await self._loaded(self._active_name(), report)
            return DefaultModel(first, self._active_name, self._loaded, look_every_s=self._look_every_s)
        for server in config.servers:
            if normalised(server.name) == model.name:
                return await self._loaded(server.name, report)
        raise LoadFailed(f"{model.name} is no local server of {self._path}, only {', '.join(config.list_servers())}")

    def _active_name(self) -> str:
        return self.config().get_active_server().name

    async def auto_start(self) -> None:
        """Start the servers with `auto_start` that do not run and that fit into the free memory, one after the other.

        What cannot be started is told in the log: nobody is there to be asked.
        """
        config = await asyncio.to_thread(self.config)
        for server in config.servers:
            if not server.auto_start:
                continue
            slot = self._slot(server.name)
            try:
                async with slot.changing:
                    now = await self._servers(config).status(server.name)
                    if now.state is not State.STOPPED or slot.supervisor is not None:
                        continue
                    plan = await asyncio.to_thread(planned, config, server, self._models_dirs)
                    device = await device_of(plan)
                    needs = plan.needs(device.kind)
                    if needs.total_bytes > device.free_bytes:
                        log.warning("%s is not started: it %s", server.name, needs.in_words(device.free_bytes))
                        continue
                    slot.auto_started = True
                    await self._supervised(slot, config, plan)
            except (SettingsError, ClusterError) as error:
                log.warning("%s could not be started: %s", server.name, error)

    async def running(self) -> list[ModelName]:
        """The servers that answer now, whoever started them, and the name of the default one if that does."""
        config = await asyncio.to_thread(self.config)
        servers = self._servers(config)
        names = [normalised(one.name) for one in config.servers if (await servers.status(one.name)).runs]
        if self._default_model is not None and names and normalised(config.get_active_server().name) in names:
            names.append(self._default_model)
        return names

    async def _loaded(self, name: str, report: Report | None = None) -> LocalModel:
        """Raises LoadFailed, SettingsError becomes LoadFailed."""
        config = await asyncio.to_thread(self.config)
        try:
            server = config.get_server_by_name(name)
            slot = self._slot(name)
            async with slot.changing:
                await self._running(slot, config, server)
                slot.holders += 1
        except SettingsError as error:
            raise LoadFailed(str(error)) from None
        held = _Held(self, slot, config, server)
        try:
            model = await self._asked(config, server, held)
        except BaseException:
            await held.release()
            raise
        if report is not None:
            report(LoadProgress(share=1.0, detail="ready"))
        return model

    async def _running(self, slot: _Slot, config: ServersConfig, server: ServerConfig) -> None:
        """Return once the server answers."""
        if slot.supervisor is not None and slot.supervisor.phase is not Phase.FAILED:
            await slot.supervisor.until_ready()
            return
        slot.supervisor = None
        servers = self._servers(config)
        now = await servers.status(server.name)
        if now.state is State.PORT_TAKEN:
            raise LoadFailed(f"{now.detail}; choose another server_port for {server.name!r}")
        if now.state is State.STOPPED:
            plan = await asyncio.to_thread(planned, config, server, self._models_dirs)
            await self._supervised(slot, config, plan)
        elif now.owner is not Owner.STRANGER:
            await servers.start(server.name)  # waits until its keeper says that it is ready

    async def _supervised(self, slot: _Slot, config: ServersConfig, plan: Plan) -> None:
        supervisor = KeptServer(
            plan,
            self._path,
            self._records,
            self._clock,
            api_key=config.endpoint.secret,
            in_agent=True,
            limits=self._limits,
        )
        if not supervisor.start():
            # `chorus server start` came first by a moment.
            await self._servers(config).start(plan.server.name)
            return
        slot.supervisor = supervisor
        try:
            await supervisor.until_ready()
        except BaseException:
            slot.supervisor = None
            await supervisor.stop()
            raise

    async def _asked(self, config: ServersConfig, server: ServerConfig, held: _Held) -> LocalModel:
        """The server as a model that can be asked, under the name by which it serves."""
        http = OpenAiHttp(
            server.base_url, api_key=config.endpoint.secret, keep_alive=False, limits=self._limits.serve.http
        )
        held.http = http
        facts = await facts_of(http)
        if facts is None:
            raise EngineUnavailable(f"{server.name} does not answer at {server.base_url}")
        if facts.locked:
            raise LoadFailed(f"{server.name} at {server.base_url} asks for a key; set llm_endpoint.api_key")
        http.tell_progress = facts.is_llama_cpp
        served = server.name if server.name in facts.models else facts.models[0]
        remote = RemoteModel(
            http,
            ModelName(served),
            slots=facts.slots or 1,
            context_tokens=facts.context_tokens,
            probe_every_s=self._look_every_s,
        )
        return LocalModel(server.name, remote, held)

    def supervisor_of(self, name: str) -> KeptServer | None:
        """Of a server that this agent started."""
        return self._slot(name).supervisor

    def _slot(self, name: str) -> _Slot:
        return self._slots.setdefault(name, _Slot())

    async def release(self, slot: _Slot) -> None:
        """One holder less; the last one stops what this agent started."""
        async with slot.changing:
            slot.holders -= 1
            if slot.holders == 0 and slot.supervisor is not None and not slot.auto_started:
                supervisor, slot.supervisor = slot.supervisor, None
                await supervisor.stop()

    async def resident(self, slot: _Slot, config: ServersConfig, server: ServerConfig) -> Resident | None:
        if slot.supervisor is not None:
            return await asyncio.to_thread(slot.supervisor.resident)
        pid = (await self._servers(config).status(server.name)).pid
        return None if pid is None else await asyncio.to_thread(lambda: footprint(family_of(pid)))

    async def aclose(self) -> None:
        """Stop the servers that this agent started, those with `auto_start` too."""
        for slot in self._slots.values():
            if slot.supervisor is not None:
                await slot.supervisor.stop()
                slot.supervisor = None


@dataclass(slots=True)
class _Held:
    """One load's hold on a server (`loaded.Held`)."""

    engine: LocalServersEngine
    slot: _Slot
    config: ServersConfig
    server: ServerConfig
    http: OpenAiHttp | None = None

    @property
    def life(self) -> asyncio.Future[str] | None:
        supervisor = self.slot.supervisor
        return None if supervisor is None else supervisor.life

    async def resident(self) -> Resident | None:
        return await self.engine.resident(self.slot, self.config, self.server)

    async def release(self) -> None:
        if self.http is not None:
            await self.http.aclose()
        await self.engine.release(self.slot)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
