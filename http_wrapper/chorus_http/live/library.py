"""python-socketio and python-engineio, as far as they are used here, with types: they come without."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Protocol, cast

import engineio
import socketio
from engineio.exceptions import EngineIOError
from socketio.exceptions import ConnectionRefusedError as Refused

from chorus_http.asgi import AsgiApp
from chorus_http.live import json_text
from chorus_http.live.mail import Mail
from chorus_http.settings import HttpSettings

__all__ = ["Engine", "EngineIOError", "Environ", "Handler", "Refused", "Server", "library_server"]

_log = logging.getLogger(__name__)
_log.setLevel(logging.CRITICAL)  # it logs what strangers send; what matters is said by who uses it

Environ = Mapping[str, object]
"""What the library makes of the request that opened a connection."""
Handler = Callable[..., Awaitable[object]]


class EngineSocket(Protocol):
    """One connection of Engine.IO."""

    queue: Mail
    closed: bool

    async def close(self, *, wait: bool) -> None: ...


class Engine(Protocol):
    """Below Socket.IO: connections and messages."""

    sockets: Mapping[str, EngineSocket]
    handlers: MutableMapping[str, Handler]

    def on(self, event: str, handler: Handler) -> None: ...

    async def send(self, sid: str, data: str) -> None: ...


class Connections(Protocol):
    def eio_sid_from_sid(self, sid: str, namespace: str) -> str: ...


class Server(Protocol):
    eio: Engine
    manager: Connections

    def on(self, event: str, handler: Handler) -> None: ...

    async def disconnect(self, sid: str) -> None: ...

    async def shutdown(self) -> None: ...


class _Engine(engineio.AsyncServer):
    """With queues that can be measured."""

    def create_queue(self, *_args: object, **_kwargs: object) -> Mail:
        return Mail()


class _Server(socketio.AsyncServer):
    def _engineio_server_class(self) -> type[_Engine]:
        return _Engine


def library_server(settings: HttpSettings) -> tuple[Server, AsgiApp]:
    """The server and its ASGI app."""
    server = _Server(
        async_mode="asgi",
        async_handlers=False,  # one event of a socket after the other, each in the connection's own task
        json=json_text,
        logger=_log,  # pyright: ignore[reportArgumentType]  # a logger or a bool, its documentation says
        engineio_logger=_log,
        ping_interval=settings.live_ping_s,
        ping_timeout=settings.live_ping_s,
        max_http_buffer_size=settings.live_message_bytes,
        http_compression=False,
        cors_allowed_origins=[],  # the gate has looked at it, and knows the origins that the settings allow
    )
    return cast("Server", server), cast("AsgiApp", socketio.ASGIApp(server, socketio_path="socket.io"))
