"""A connection to one of Linux's message buses, for questions that must not wait for ever. Blocks: for threads only."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, cast

SYSTEM = "SYSTEM"
SESSION = "SESSION"


class BusError(Exception):
    """The bus is not there, does not answer in time, or the one asked refused; the text says which."""


class _Header(Protocol):
    message_type: object


class _Message(Protocol):
    header: _Header
    body: tuple[object, ...]


class _Wire(Protocol):
    """What is used of jeepney's blocking connection, which has no annotations."""

    sock: socket.socket

    def send_and_get_reply(self, message: object, *, timeout: float) -> _Message: ...

    def filter(self, rule: object) -> AbstractContextManager[deque[_Message]]: ...

    def recv_until_filtered(self, queue: deque[_Message]) -> _Message: ...

    def close(self) -> None: ...


class _KeptFromChildren(socket.socket):
    """Open files that arrive are not inherited: a child would hold a lock that this process lets go."""

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        if sys.platform == "linux":
            flags |= socket.MSG_CMSG_CLOEXEC
        return super().recvmsg(bufsize, ancbufsize, flags)


class Bus:
    """Opened by `with`. `address`: SYSTEM, SESSION, or `unix:path=...`."""

    def __init__(self, address: str, *, within_s: float = 1.0, with_files: bool = False) -> None:
        """Raises BusError. `with_files`: answers may hold open files."""
        self.within_s = within_s
        try:
            opened = _opened(address, within_s, with_files=with_files)
        except (OSError, KeyError, RuntimeError, ValueError, EOFError) as error:
            # KeyError: no session bus is named in the environment.
            raise BusError(f"no {address} bus: {error!r}") from None
        self._wire = cast("_Wire", opened)

    def call(
        self, service: str, path: str, interface: str, method: str, *arguments: object, signature: str = ""
    ) -> tuple[object, ...]:
        """The answer's values; `signature` says the arguments' types. Raises BusError."""
        import jeepney

        make = cast("Callable[..., object]", jeepney.new_method_call)  # pyright: ignore[reportUnknownMemberType]  # jeepney has no annotations
        address = jeepney.DBusAddress(path, bus_name=service, interface=interface)
        message = make(address, method, signature or None, arguments)
        try:
            reply = self._wire.send_and_get_reply(message, timeout=self.within_s)
        except (OSError, ValueError, EOFError) as error:
            raise BusError(f"{service} gave no answer: {error!r}") from None
        if reply.header.message_type is not jeepney.MessageType.method_return:
            raise BusError(f"{service} refused {method}: {reply.body}")
        return reply.body

    def properties(self, service: str, path: str, interface: str) -> dict[str, object]:
        """All properties of an object, without their types. Raises BusError."""
        asked = self.call(service, path, "org.freedesktop.DBus.Properties", "GetAll", interface, signature="s")
        return {name: value for name, (_, value) in cast("dict[str, tuple[str, object]]", asked[0]).items()}

    def signals(self, path: str, interface: str, member: str) -> Iterator[tuple[object, ...]]:
        """The values of each signal of this name, from the first `next` on; waits for them. Raises BusError."""
        import jeepney

        rule = jeepney.MatchRule(type="signal", interface=interface, member=member, path=path)
        bus = "org.freedesktop.DBus"
        with self._wire.filter(rule) as arrived:
            self.call(bus, "/org/freedesktop/DBus", bus, "AddMatch", rule.serialise(), signature="s")
            while True:
                try:
                    message = self._wire.recv_until_filtered(arrived)
                except (OSError, ValueError) as error:
                    raise BusError(f"the bus is gone: {error!r}") from None
                yield message.body

    def interrupt(self) -> None:
        """Break a wait on another thread: it raises BusError. The bus is of no use afterwards."""
        _hang_up(self._wire.sock)

    def close(self) -> None:
        self._wire.close()

    def __enter__(self) -> Bus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opened(address: str, within_s: float, *, with_files: bool) -> object:
    """As jeepney's `open_dbus_connection`, but a bus that does not greet in time is hung up on."""
    if sys.platform != "linux":
        raise OSError("message buses are Linux's")
    import jeepney.bus
    import jeepney.io.blocking as blocking

    get_bus = cast("Callable[[str], object]", jeepney.bus.get_bus)  # pyright: ignore[reportUnknownMemberType]  # jeepney has no annotations
    prep = cast("Callable[..., socket.socket]", blocking.prep_socket)  # pyright: ignore[reportUnknownMemberType]  # jeepney has no annotations
    prepared = prep(get_bus(address), with_files, timeout=within_s)
    limit_s = prepared.gettimeout()
    wire = _KeptFromChildren(fileno=prepared.detach())
    wire.settimeout(limit_s)
    overdue = threading.Timer(within_s, _hang_up, (wire,))
    overdue.daemon = True
    overdue.start()
    try:
        return blocking.DBusConnection(wire, with_files)
    except BaseException:
        wire.close()
        raise
    finally:
        overdue.cancel()


def _hang_up(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
