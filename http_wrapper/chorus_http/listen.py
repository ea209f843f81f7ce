"""Puts the app on a port: takes the socket first, so that a port in use is known before anything else starts."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import uvicorn
from quart import Quart

from chorus_http.http_protocol import bounded
from chorus_http.settings import HttpSettings
from chorus_http.tls import HttpTls
from chorus_http.web_sockets import BoundedWebSocketProtocol

OLLAMA_PORT = "CHORUS_OLLAMA_PORT"
"""Key in the app's config: the port on which `GET /` answers as Ollama's does."""

BEFORE_DRAIN = "CHORUS_BEFORE_DRAIN"
"""Key in the app's config: what to call when the server begins to stop, for what would go on for ever."""

_BACKLOG = 4096
"""Connections that wait to be taken; beyond it callers try again after 1, 3, 7 ... seconds."""
_TAKEN_AT_ONCE = 64
"""Before anything else on the loop has its turn."""

_GRACE_S = 5.0
_HANDSHAKE_WITHIN_S = 10.0
"""asyncio's own limit is a minute, which a silent caller can use up for nothing."""


class CannotListen(Exception):  # not a ClusterError: no caller hears it, the person at the terminal does
    """The address cannot be served; the message names the fix."""


class HttpServer:
    """A running server. `wait_stopped` returns only when it is over, and raises what ended it."""

    def __init__(
        self, host: str, port: int, ollama_port: int | None, task: asyncio.Task[None], *, scheme: str = "http"
    ) -> None:
        self.port = port
        self.url = f"{scheme}://{_shown_host(host)}:{port}"
        self.ollama_url = None if ollama_port is None else f"{scheme}://{_shown_host(host)}:{ollama_port}"
        self._task = task

    async def wait_stopped(self) -> None:
        await asyncio.shield(self._task)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, which belong to the process, and with an event for being ready."""

    def __init__(self, config: uvicorn.Config, tls: HttpTls | None) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._tls is None:
            await super().startup(sockets)
        else:
            await self._start_encrypted(self._tls, sockets or [])
        for one in sockets or ():
            one.listen(_BACKLOG)  # asyncio and uvloop have but one number for this and for how many they take at once
        self.ready.set()

    async def _start_encrypted(self, tls: HttpTls, sockets: list[socket.socket]) -> None:
        """As uvicorn's own start for given sockets, which gives a caller a minute for the handshake."""
        loop = asyncio.get_running_loop()

        # uvicorn's declared type of it has no parameters.
        made = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)

        def protocol() -> asyncio.Protocol:
            return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        self.servers = [
            await loop.create_server(
                protocol,
                sock=one,
                ssl=tls.context,
                ssl_handshake_timeout=_HANDSHAKE_WITHIN_S,
                backlog=self.config.backlog,
            )
            for one in sockets
        ]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@asynccontextmanager
async def serving(app: Quart, settings: HttpSettings, tls: HttpTls | None = None) -> AsyncGenerator[HttpServer, None]:
    """Serve `app` on the one or two ports of the settings while the block runs; `tls` None: in clear.

    Leaving it takes no new connection and lets running requests finish within `drain_within_s`; what is left then is
    cut off.

    Raises CannotListen.
    """
    listeners = [bind(settings.host, settings.http_port)]
    ollama_port = None
    if settings.ollama_port is not None:
        try:
            listeners.append(bind(settings.host, settings.ollama_port, flag="--ollama-port"))
        except CannotListen:
            listeners[0].close()
            raise
        ollama_port = app.config[OLLAMA_PORT] = _port_of(listeners[1])
    server = _Uvicorn(
        uvicorn.Config(
            app,
            http=bounded(settings),
            ws=BoundedWebSocketProtocol,
            ws_max_size=settings.live_message_bytes,
            ws_ping_interval=None,  # Engine.IO has pings of its own
            ws_per_message_deflate=False,
            lifespan="off",  # the app's end comes below, where its errors are heard
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whoever is on this PC could otherwise claim any address
            timeout_keep_alive=round(settings.keep_alive_s),
            timeout_graceful_shutdown=max(1, round(settings.drain_within_s)),
            backlog=_TAKEN_AT_ONCE,
        ),
        tls,
    )
    await app.startup()
    task = asyncio.create_task(server.serve(sockets=listeners), name="http-server")
    started = asyncio.create_task(server.ready.wait(), name="http-server-ready")
    try:
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        scheme = "http" if tls is None else "https"
        yield HttpServer(settings.host, _port_of(listeners[0]), ollama_port, task, scheme=scheme)
    finally:
        started.cancel()
        before_drain = cast("dict[str, object]", app.config).get(BEFORE_DRAIN)
        if before_drain is not None:
            cast("Callable[[], None]", before_drain)()
        server.should_exit = True
        await asyncio.wait({task}, timeout=settings.drain_within_s + _GRACE_S)
        task.cancel()
        await app.shutdown()
        for listener in listeners:
            listener.close()


def _port_of(listener: socket.socket) -> int:
    return cast("int", listener.getsockname()[1])


def bind(host: str, port: int, *, flag: str = "--http-port") -> socket.socket:
    """A listening address, or CannotListen with the fix in words. Port 0 takes any free one; `flag` sets it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {error}; set --host to an address of this PC") from None
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":
            # Windows' SO_REUSEADDR would let two processes share the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen on {_shown_host(host)}:{port}: {_fix(error, flag)}") from None
    return listener


def _fix(error: OSError, flag: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"the port is in use; stop the program that holds it, or choose another with {flag}"
        case errno.EACCES:
            # Windows says so too when another program holds the port for itself.
            return f"the port is in use or not open to this user; choose another above 1023 with {flag}"
        case errno.EADDRNOTAVAIL:
            return "this PC has no such address; set --host to one that it has, or to 127.0.0.1"
        case _:
            return error.strerror or str(error)


def _shown_host(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
