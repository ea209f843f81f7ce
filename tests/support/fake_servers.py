"""Local servers without processes, for the pages: a door that starts and stops rows of a table."""

from __future__ import annotations

import msgspec

from chorus_http.servers_door import ServerList, ServerRow, StartAnswer
from chorus_proto.errors import NotFound


class FakeServers:
    """`ServersDoor`. A second one that starts beside a running one is asked about first, as in seed 000."""

    def __init__(self, *names: str) -> None:
        self._rows = {
            name: ServerRow(
                name=name,
                host="127.0.0.1",
                port=8000 + index,
                state="Stopped",
                model=f"{name}.gguf",
                default=index == 0,
            )
            for index, name in enumerate(names)
        }

    async def listed(self) -> ServerList:
        default = next((one for one in self._rows.values() if one.default), None)
        url = "" if default is None else f"http://{default.host}:{default.port}/v1"
        return ServerList(file="/home/ada/.chorus/servers.json", api_base_url=url, servers=tuple(self._rows.values()))

    async def start(self, name: str, *, force: bool) -> StartAnswer:
        running = tuple(one.name for one in self._rows.values() if one.state == "Running" and one.name != name)
        arithmetic = f"{name} needs 4.1 GB = 3.8 weights + 0.3 buffers; free 9.2"
        row = self._row(name)
        if running and not force:
            return StartAnswer(started=False, arithmetic=arithmetic, running=running, server=row)
        self._rows[name] = msgspec.structs.replace(
            row, state="Running", owner="chorus", pid=4711, memory_bytes=4_100_000_000, cpu_percent=12.5, uptime_s=61.0
        )
        return StartAnswer(started=True, arithmetic=arithmetic, running=running, server=self._rows[name])

    async def stop(self, name: str) -> str:
        row = self._row(name)
        self._rows[name] = ServerRow(
            name=name, host=row.host, port=row.port, state="Stopped", model=row.model, default=row.default
        )
        return f"{name} is stopped."

    async def make_default(self, name: str) -> ServerList:
        self._row(name)
        for each, row in self._rows.items():
            self._rows[each] = msgspec.structs.replace(row, default=each == name)
        return await self.listed()

    def _row(self, name: str) -> ServerRow:
        if name not in self._rows:
            raise NotFound(f"The file has no server called {name!r}.")
        return self._rows[name]
