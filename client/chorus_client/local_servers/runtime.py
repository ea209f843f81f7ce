"""Local servers by name: which run, start one that outlives this command, stop one. What `chorus server` is made of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

import chorus_client
import chorus_proto
from chorus_client.engines.openai_http import HttpLimits, OpenAiHttp
from chorus_client.engines.served_process import ServeLimits
from chorus_client.footprint import footprint
from chorus_client.local_servers import detach
from chorus_client.local_servers.config import ServersConfig
from chorus_client.local_servers.listener import family_of, listener_on
from chorus_client.local_servers.plan import planned
from chorus_client.local_servers.probe import Facts, facts_of
from chorus_client.local_servers.records import Phase, Records, ServerRecord
from chorus_client.local_servers.server_config import ServerConfig
from chorus_client.process import STOP_GRACE_S, clean_environment, own_python
from chorus_proto.errors import EngineUnavailable, LoadFailed

_LOOK_EVERY_S = 0.03
_CPU_WINDOW_S = 0.1
_DETACH_WITHIN_S = 20.0
_PROBE_LIMITS = HttpLimits(connect_s=1.0, short_answer_s=3.0)
_KILL_WAIT_S = 5.0


class State(StrEnum):
    """What stands in the table."""

    RUNNING = "Running"
    STARTING = "Starting"
    RESTARTING = "Restarting"
    STOPPED = "Stopped"
    PORT_TAKEN = "Port taken"
    """By a program that is no server of models."""


class Owner(StrEnum):
    """Who started what runs."""

    CHORUS = "chorus"
    AGENT = "agent"
    """The Chorus agent on this PC; the server ends with it."""
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """One server now. Memory and CPU are measured; None where nothing runs or the system does not tell."""

    name: str
    host: str
    port: int
    state: State
    model: str
    default: bool
    owner: Owner | None = None
    pid: int | None = None
    memory_bytes: int | None = None
    cpu_percent: float | None = None
    """Of one core."""
    restarts: int = 0
    uptime_s: float | None = None
    detail: str = ""

    @property
    def runs(self) -> bool:
        return self.state is State.RUNNING


class Stopped(StrEnum):
    """What came of a wish to stop."""

    STOPPED = "stopped"
    WAS_NOT_RUNNING = "was_not_running"
    NOT_OURS = "not_ours"
    """Somebody else started it, so it was left alone."""
    IN_AGENT = "in_agent"


class LocalServers:
    """The servers of one file on this PC. `models_dirs`: folders with model files beside the file's own."""

    def __init__(
        self,
        config: ServersConfig,
        state_dir: Path,
        *,
        models_dirs: Sequence[Path] = (),
        limits: ServeLimits | None = None,
    ) -> None:
        self._config = config
        self._state_dir = state_dir.expanduser()
        self._models_dirs = tuple(models_dirs)
        self._limits = limits or ServeLimits()
        self.records = Records(state_dir)

    async def status(self, name: str) -> ServerStatus:
        """Raises SettingsError for an unknown name."""
        return await self._look(self._config.get_server_by_name(name))

    async def statuses(self) -> list[ServerStatus]:
        """All servers, in the order of the file."""
        return list(await asyncio.gather(*(self._look(server) for server in self._config.servers)))

    async def start(self, name: str) -> ServerStatus:
        """Start it and wait until it answers; the server lives on after this process. One that already runs, whoever
        started it, is used. Raises SettingsError, and LoadFailed with the engine's last words."""
        server = self._config.get_server_by_name(name)
        now = await self._look(server)
        if now.state is State.PORT_TAKEN:
            raise LoadFailed(f"{now.detail}; choose another server_port for {name!r}")
        if now.state is State.STOPPED:
            plan = planned(self._config, server, self._models_dirs)
            await self._until_kept(server, await self._detached(server), self._limits.load_limit_s(plan.file_bytes))
        elif now.state is not State.RUNNING:
            await self._until_kept(server, None, self._limits.load_limit_s(0))
        return await self._look(server)

    async def stop(self, name: str) -> Stopped:
        """Stop what Chorus started, and only that. Raises SettingsError, and EngineUnavailable when it will not end."""
        server = self._config.get_server_by_name(name)
        record = await asyncio.to_thread(self.records.of, self._config.path, name)
        if record is None or not record.alive:
            now = await self._look(server)
            return Stopped.WAS_NOT_RUNNING if now.state is State.STOPPED else Stopped.NOT_OURS
        if record.in_agent:
            return Stopped.IN_AGENT
        await asyncio.to_thread(_end, record, self._limits.stop_grace_s)
        self.records.forget(record)
        return Stopped.STOPPED

    async def _look(self, server: ServerConfig) -> ServerStatus:
        record = await asyncio.to_thread(self.records.of, self._config.path, server.name)
        default = bool(self._config.servers) and self._config.get_active_server() == server
        if record is not None and record.alive:
            return await asyncio.to_thread(_of_record, record, server, default)
        detail = "" if record is None else record.detail
        listener = await asyncio.to_thread(listener_on, server.server_host, server.server_port)
        state, owner, pid = State.STOPPED, None, None
        if listener is not None:
            pid = listener.pid
            served = await self.facts(server) is not None
            state = State.RUNNING if served else State.PORT_TAKEN
            owner = Owner.STRANGER
            detail = f"port {server.server_port} is held by {listener.words}, which Chorus did not start"
        memory_bytes, cpu_percent = await asyncio.to_thread(_measured, pid)
        return ServerStatus(
            name=server.name,
            host=server.server_host,
            port=server.server_port,
            state=state,
            model=server.model,
            default=default,
            owner=owner,
            pid=pid,
            memory_bytes=memory_bytes,
            cpu_percent=cpu_percent,
            detail=detail,
        )

    async def facts(self, server: ServerConfig) -> Facts | None:
        """What answers at the server's port says of itself."""
        http = OpenAiHttp(server.base_url, api_key=self._config.endpoint.secret, keep_alive=False, limits=_PROBE_LIMITS)
        try:
            return await facts_of(http)
        finally:
            await http.aclose()

    async def _detached(self, server: ServerConfig) -> psutil.Process | None:
        """Start the keeper; its process, None when it has ended already. Raises LoadFailed."""
        errors = self.records.last_words_path(server.server_port)
        keeper = own_python(
            "chorus_client.local_servers.keeper",
            *(str(self._config.path.absolute()), server.name, str(self._state_dir.absolute())),
            *(str(folder.expanduser().absolute()) for folder in self._models_dirs),
        )
        roots = {str(Path(package.__path__[0]).parent): None for package in (chorus_client, chorus_proto)}
        environment = clean_environment(os.environ) | {"PYTHONPATH": os.pathsep.join(roots)}
        command = [sys.executable, "-I", "-S", str(Path(detach.__file__)), str(errors), *keeper]
        starter = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        try:
            async with asyncio.timeout(_DETACH_WITHIN_S):
                output, _ = await starter.communicate()
        except TimeoutError:
            starter.kill()
            await starter.wait()
            raise LoadFailed(
                f"{server.name}: this PC could not start a process within {_DETACH_WITHIN_S:g} s"
            ) from None
        if starter.returncode != 0 or not output.strip().isdigit():
            raise LoadFailed(f"{server.name} cannot be started: {output.decode('utf-8', 'replace').strip()[-300:]}")
        with contextlib.suppress(psutil.Error):
            return psutil.Process(int(output))
        return None

    async def _until_kept(self, server: ServerConfig, keeper: psutil.Process | None, limit_s: float) -> None:
        """Wait until the server's keeper says that it is ready. Raises LoadFailed."""
        try:
            async with asyncio.timeout(limit_s + _DETACH_WITHIN_S):
                while True:
                    # Asked before the record, so that a keeper that ends in between has left its last word there.
                    gone = keeper is not None and not _lives(keeper)
                    record = await asyncio.to_thread(self.records.of, self._config.path, server.name)
                    if record is not None and record.phase is Phase.READY and record.alive:
                        return
                    if record is not None and record.phase is Phase.FAILED and (gone or keeper is None):
                        raise LoadFailed(record.detail)
                    if gone and (record is None or not record.alive):
                        raise LoadFailed(self._keepers_last_words(server))
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            await self.stop(server.name)
            raise LoadFailed(f"{server.name} did not answer within {limit_s:g} s") from None

    def _keepers_last_words(self, server: ServerConfig) -> str:
        with contextlib.suppress(OSError):
            lines = self.records.last_words_path(server.server_port).read_text("utf-8", "replace").splitlines()
            if lines:
                return lines[-1][:500]
        return f"{server.name} ended before it answered; its log lies in {self._state_dir / 'logs'}"


def _of_record(record: ServerRecord, server: ServerConfig, default: bool) -> ServerStatus:
    states = {Phase.READY: State.RUNNING, Phase.RESTARTING: State.RESTARTING}
    engine = None if record.engine is None else record.engine.process()
    pid = None if engine is None else engine.pid
    memory_bytes, cpu_percent = _measured(pid)
    return ServerStatus(
        name=record.name,
        host=record.host,
        port=record.port,
        # A moment after a crash the record still says ready.
        state=State.RESTARTING
        if record.phase is Phase.READY and pid is None
        else states.get(record.phase, State.STARTING),
        model=server.model,
        default=default,
        owner=Owner.AGENT if record.in_agent else Owner.CHORUS,
        pid=pid,
        memory_bytes=memory_bytes,
        cpu_percent=cpu_percent,
        restarts=record.restarts,
        uptime_s=max(0.0, time.time() - record.started_unix_s) if pid is not None else None,
        detail=record.detail,
    )


def _measured(pid: int | None) -> tuple[int | None, float | None]:
    """Memory and CPU of a process and all it started. Blocks for 0.1 s."""
    family = [] if pid is None else family_of(pid)
    if not family:
        return None, None
    busy_s = _cpu_s(family)
    began_s = time.monotonic()
    time.sleep(_CPU_WINDOW_S)
    passed_s = time.monotonic() - began_s
    held = footprint(family)
    return None if held is None else held.total_bytes, max(0.0, 100 * (_cpu_s(family) - busy_s) / passed_s)


def _cpu_s(family: list[psutil.Process]) -> float:
    total_s = 0.0
    for process in family:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_s += times.user + times.system
    return total_s


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _end(record: ServerRecord, grace_s: float = STOP_GRACE_S) -> None:
    """End a keeper and its server. Blocks. Raises EngineUnavailable when they do not end."""
    keeper = record.keeper.process()
    if keeper is None:
        return
    family = family_of(keeper.pid)
    try:
        keeper.terminate()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        raise EngineUnavailable(f"{record.name} belongs to another user of this PC; stop it there") from None
    # The keeper itself waits `grace_s` for its server before it ends that by force.
    _, alive = psutil.wait_procs(family, timeout=grace_s + _KILL_WAIT_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(alive, timeout=_KILL_WAIT_S)
    if alive:
        raise EngineUnavailable(f"{record.name} does not end; its process is {alive[0].pid}")
