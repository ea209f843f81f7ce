"""What the web page may do with the local servers of the hub's PC (`chorus server` in a browser)."""

from __future__ import annotations

from typing import Protocol

import msgspec


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One server now; see `chorus server status`. Unknown is null."""

    name: str
    host: str
    port: int
    state: str
    model: str
    default: bool
    owner: str | None = None
    pid: int | None = None
    memory_bytes: int | None = None
    cpu_percent: float | None = None
    """Of one core."""
    restarts: int = 0
    uptime_s: float | None = None
    detail: str = ""


class ServerList(msgspec.Struct, frozen=True, kw_only=True):
    """`problem`: why the file could not be read; then there are no servers."""

    file: str
    api_base_url: str = ""
    problem: str = ""
    servers: tuple[ServerRow, ...] = ()


class StartAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`started` false: somebody should decide first, by `arithmetic` and the names of what runs; ask with `force`."""

    started: bool
    arithmetic: str
    running: tuple[str, ...] = ()
    fits: bool = True
    server: ServerRow | None = None


class ServersDoor(Protocol):
    """Every method raises ClusterError; NotFound for a name that the file does not have."""

    async def listed(self) -> ServerList: ...

    async def start(self, name: str, *, force: bool) -> StartAnswer:
        """Start one and wait until it answers. Raises LoadFailed."""
        ...

    async def stop(self, name: str) -> str:
        """Stop one that Chorus started; returns what came of it, in words."""
        ...

    async def make_default(self, name: str) -> ServerList: ...
