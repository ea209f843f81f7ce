"""Who listens on a port of this PC, by asking the system. Blocks for some milliseconds."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

_CONNECT_S = 0.5


@dataclass(frozen=True, slots=True)
class Listener:
    """`pid` is None where the system does not tell: another user's process, or one outside this container."""

    pid: int | None

    @property
    def words(self) -> str:
        if self.pid is None:
            return "another process"
        with contextlib.suppress(psutil.Error):
            return f"process {self.pid} ({psutil.Process(self.pid).name()})"
        return f"process {self.pid}"


def listener_on(host: str, port: int) -> Listener | None:
    """None when nobody listens there."""
    for address, its_port, pid in _listening():
        if its_port == port and (address in (host, "0.0.0.0", "::") or host == "localhost"):
            return Listener(pid)
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_CONNECT_S):
        return Listener(None)
    return None


def _listening() -> Iterator[tuple[str, int, int | None]]:
    """(address, port, pid) of each listening socket that this user may see."""
    try:
        everything = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        # macOS gives the whole table to root only, but each of the user's own processes on its own.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                for one in process.net_connections(kind="tcp"):
                    if one.status == psutil.CONN_LISTEN and one.laddr:
                        yield one.laddr.ip, one.laddr.port, process.pid
        return
    for one in everything:
        if one.status == psutil.CONN_LISTEN and one.laddr:
            yield one.laddr.ip, one.laddr.port, one.pid


def family_of(pid: int) -> list[psutil.Process]:
    """The process and all that it started, while they run."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []
