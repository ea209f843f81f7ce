"""The local servers of the hub's PC for its web page: `chorus server` behind the HTTP wrapper's door."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from chorus_client.local_servers.config import ServersConfig, load
from chorus_client.local_servers.plan import planned
from chorus_client.local_servers.preflight import Preflight, device_of
from chorus_client.local_servers.runtime import LocalServers, ServerStatus, State, Stopped
from chorus_http.servers_door import ServerList, ServerRow, StartAnswer
from chorus_proto.errors import InvalidRequest, NotFound
from chorus_proto.settings import SettingsError

SERVERS_FILE = "servers.json"


class HubServers:
    """`ServersDoor` over one file, which is read anew each time: people change it, and `chorus server switch` does."""

    def __init__(self, file: Path, state_dir: Path, models_dirs: Sequence[Path] = ()) -> None:
        self._file = file
        self._state_dir = state_dir
        self._models_dirs = tuple(models_dirs)

    @classmethod
    def in_folder(cls, state_dir: Path, *, file: Path | None = None, models_dirs: Sequence[Path] = ()) -> HubServers:
        """Those of `file`, else of the file in the state folder that `chorus server` uses."""
        folder = state_dir.expanduser()
        return cls(file or folder / SERVERS_FILE, folder, models_dirs)

    async def listed(self) -> ServerList:
        try:
            config, servers = await self._read()
        except InvalidRequest as error:
            exists = await asyncio.to_thread(self._file.exists)
            return ServerList(file=str(self._file), problem=error.message if exists else "")
        rows = tuple(_row(one) for one in await servers.statuses())
        return ServerList(file=str(self._file), api_base_url=config.endpoint.api_base_url or "", servers=rows)

    async def start(self, name: str, *, force: bool) -> StartAnswer:
        config, servers = await self._known(name)
        before = await servers.statuses()
        mine = next(one for one in before if one.name == name)
        arithmetic, fits, running = "", True, tuple[str, ...]()
        if mine.state is State.STOPPED:
            try:
                plan = planned(config, config.get_server_by_name(name), self._models_dirs)
            except SettingsError as error:
                raise InvalidRequest(str(error)) from None
            device = await device_of(plan)
            others = [one for one in before if one.runs and one.name != name]
            preflight = Preflight(
                name=name, running=others, needs=plan.needs(device.kind), free_bytes=device.free_bytes
            )
            arithmetic, fits = preflight.arithmetic(), preflight.fits
            running = tuple(one.name for one in others)
            if preflight.asks and not force:
                return StartAnswer(started=False, arithmetic=arithmetic, running=running, fits=fits, server=_row(mine))
        try:
            after = await servers.start(name)
        except SettingsError as error:
            raise InvalidRequest(str(error)) from None
        return StartAnswer(started=True, arithmetic=arithmetic, running=running, fits=fits, server=_row(after))

    async def stop(self, name: str) -> str:
        _, servers = await self._known(name)
        now = await servers.status(name)
        match await servers.stop(name):
            case Stopped.STOPPED:
                return f"{name} is stopped."
            case Stopped.WAS_NOT_RUNNING:
                return f"{name} was not running."
            case Stopped.NOT_OURS:
                raise InvalidRequest(f"{name} was left alone: {now.detail}")
            case Stopped.IN_AGENT:
                raise InvalidRequest(
                    f"{name} belongs to the agent of this PC and ends with it; stop the agent instead."
                )

    async def make_default(self, name: str) -> ServerList:
        config, _ = await self._known(name)
        try:
            await asyncio.to_thread(config.update_default_server, name)
        except SettingsError as error:
            raise InvalidRequest(str(error)) from None
        return await self.listed()

    async def _known(self, name: str) -> tuple[ServersConfig, LocalServers]:
        """Raises InvalidRequest, NotFound."""
        config, servers = await self._read()
        if name not in config.list_servers():
            raise NotFound(f"The file has no server called {name[:100]!r}.")
        return config, servers

    async def _read(self) -> tuple[ServersConfig, LocalServers]:
        """Raises InvalidRequest for a file that is missing or wrong."""
        try:
            config = await asyncio.to_thread(load, self._file)
        except SettingsError as error:
            raise InvalidRequest(str(error)) from None
        return config, LocalServers(config, self._state_dir, models_dirs=self._models_dirs)


def _row(status: ServerStatus) -> ServerRow:
    return ServerRow(
        name=status.name,
        host=status.host,
        port=status.port,
        state=status.state,
        model=status.model,
        default=status.default,
        owner=status.owner,
        pid=status.pid,
        memory_bytes=status.memory_bytes,
        cpu_percent=status.cpu_percent,
        restarts=status.restarts,
        uptime_s=status.uptime_s,
        detail=status.detail,
    )
