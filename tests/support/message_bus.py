"""A message bus with the services that a test gives it, on a Unix socket: jeepney's own reader and writer at its end.

A service is a function of a call's arguments; what it returns is the answer, with its D-Bus signature. One connection
is served at a time by one thread each.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol, cast

Answer = tuple[str, tuple[object, ...]]
Service = Callable[..., Answer]


class RefusedCall(Exception):
    """A service that raises this answers with an error of this text."""


class _Header(Protocol):
    message_type: object
    serial: int
    fields: dict[object, object]


class _Words(Protocol):
    """What is used of jeepney, which has no annotations, to put messages together."""

    def new_signal(self, emitter: object, signal: str, signature: str, body: tuple[object, ...]) -> _Message: ...

    def new_method_return(self, asked: object, signature: str | None = None, body: object = ()) -> _Message: ...

    def new_error(self, asked: object, name: str, signature: str, body: tuple[object, ...]) -> _Message: ...


class _Parser(Protocol):
    def add_data(self, content: bytes) -> None: ...

    def get_next_message(self) -> _Message | None: ...


class _Message(Protocol):
    header: _Header
    body: tuple[object, ...]

    def serialise(self, serial: int, fds: array.array[int]) -> bytes: ...


@dataclass(slots=True)
class FakeBus:
    """`services` by path and method, or by method alone; `calls` that came, in their order."""

    address: str
    services: dict[str, Service] = field(default_factory=dict[str, Service])
    calls: list[str] = field(default_factory=list[str])
    connections: list[socket.socket] = field(default_factory=list[socket.socket])
    silent: bool = False
    """It takes calls and answers none, not even a greeting."""
    _serials: count[int] = field(default_factory=lambda: count(1))
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def emit(self, path: str, interface: str, member: str, signature: str, *values: object) -> None:
        """Send a signal to everybody who is connected."""
        import jeepney

        emitter = jeepney.DBusAddress(path, bus_name="org.example", interface=interface)
        for connection in list(self.connections):
            self._send(connection, _words().new_signal(emitter, member, signature, values))

    def hang_up(self) -> None:
        """Close every connection, as a bus that is stopped does."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def serve(self, connection: socket.socket) -> None:
        """Until the other end hangs up."""
        from jeepney.low_level import Parser

        try:
            content = _authenticate(connection)
            self.connections.append(connection)
            parser = cast("_Parser", Parser())
            while content := content or connection.recv(4096):
                parser.add_data(content)
                content = b""
                while (message := parser.get_next_message()) is not None:
                    self._take(connection, message)
        except OSError:
            return
        finally:
            if connection in self.connections:
                self.connections.remove(connection)
            connection.close()

    def _take(self, connection: socket.socket, message: _Message) -> None:
        import jeepney

        fields = message.header.fields
        path = str(fields.get(jeepney.HeaderFields.path))
        member = str(fields.get(jeepney.HeaderFields.member))
        words = _words()
        if self.silent:
            return
        if member == "Hello":
            self._send(connection, words.new_method_return(message, "s", (":1.1",)))
            return
        self.calls.append(f"{path} {member}")
        service = self.services.get(f"{path} {member}") or self.services.get(member)
        try:
            if member == "AddMatch":
                answer = words.new_method_return(message)
            elif service is None:
                raise RefusedCall(f"nobody here knows {member} of {path}")
            else:
                answer = words.new_method_return(message, *service(*message.body))
        except RefusedCall as refusal:
            answer = words.new_error(message, "org.example.Refused", "s", (str(refusal),))
        self._send(connection, answer)

    def _send(self, connection: socket.socket, message: _Message) -> None:
        files = array.array("i")
        content = message.serialise(next(self._serials), files)
        with self._writing:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)] if files else []
            connection.sendmsg([content], rights)
        for file in files:
            os.close(file)


def _words() -> _Words:
    import jeepney

    return cast("_Words", jeepney)


def _authenticate(connection: socket.socket) -> bytes:
    """The server's side of the EXTERNAL mechanism (D-Bus specification, "Authentication Protocol").

    Returns what came after it.
    """
    unread = b""
    while True:
        while b"\r\n" not in unread:
            content = connection.recv(4096)
            if not content:
                raise OSError("hung up")
            unread += content
        line, _, unread = unread.partition(b"\r\n")
        if line == b"BEGIN":
            return unread
        connection.sendall(b"OK 1234deadbeef\r\n" if b"AUTH" in line else b"AGREE_UNIX_FD\r\n")


@contextmanager
def fake_bus(folder: Path, **services: Service) -> Generator[FakeBus]:
    """Until the end of the block."""
    path = folder / "bus"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    bus = FakeBus(address=f"unix:path={path}", services=dict(services))
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=bus.serve, args=(connection,), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield bus
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        bus.hang_up()
        for thread in (accepting, *threads):
            thread.join(timeout=5)
