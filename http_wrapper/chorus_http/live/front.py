"""Stands before Quart: what comes for Socket.IO goes to the library, checked; any other WebSocket is refused."""

from __future__ import annotations

import logging
import re
from typing import cast

from chorus_http.asgi import AsgiApp, Message, Receive, Scope, Send
from chorus_http.errors import error_body, error_headers
from chorus_http.exchange import Exchange, exchange_of
from chorus_http.gate import Gate
from chorus_http.live.sockets import ADDRESS_KEY, Sockets
from chorus_http.live.wire import BINARY, engine_packet, engine_packets
from chorus_http.settings import HttpSettings
from chorus_proto.errors import BodyTooLarge, ClusterError, InvalidRequest, MethodNotAllowed, NotFound

log = logging.getLogger(__name__)

PATH = "/socket.io/"
_SID = re.compile(rb"(?:^|&)sid=([^&]*)")


class LiveFront:
    """ASGI in front of ASGI."""

    def __init__(self, inner: AsgiApp, sockets: Sockets, gate: Gate, settings: HttpSettings) -> None:
        self._inner = inner
        self._sockets = sockets
        self._gate = gate
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http" and _is_ours(scope):
            await self._poll(scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    def _check(self, scope: Scope) -> bytes:
        """Returns the connection's id; empty when it is to be opened. Raises ClusterError."""
        address = self._gate.check_page(scope)
        scope[ADDRESS_KEY] = address
        sid = _SID.search(cast("bytes", scope["query_string"]))
        if sid is None:
            self._sockets.check_room(address)
        return b"" if sid is None else sid[1]

    # Polling ------------------------------------------------------------------------------------------------------

    async def _poll(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        exchange.route = PATH
        method = scope["method"]
        try:
            self._check(scope)
            if method == "OPTIONS":
                await _respond(send, 204, self._cors(scope), b"")
                return
            if method not in ("GET", "POST"):
                raise MethodNotAllowed("Sockets take GET and POST.")
            if method == "POST":
                receive = _replayed(engine_packets(await self._body(receive)), scope)
        except ClusterError as error:
            log.info("request %s refused: %s: %s", exchange.request_id, error.code, error.message)
            await _refuse(send, error, exchange)
            return
        await self._sockets.app(scope, receive, self._with_cors(scope, send))

    async def _body(self, receive: Receive) -> bytes:
        """Raises BodyTooLarge, InvalidRequest."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise InvalidRequest("The body did not come whole.")
            body += cast("bytes", message.get("body", b""))
            if len(body) > self._settings.live_message_bytes:
                raise BodyTooLarge(f"The message is over {self._settings.live_message_bytes} bytes.")
            if not message.get("more_body", False):
                return body

    def _cors(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """For a page of an origin that the settings name; the gate has refused all others but our own."""
        origin = next((value for name, value in _headers(scope) if name == b"origin"), b"")
        if origin.decode("latin-1") not in self._settings.cors_origins:
            return []
        headers = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS":
            headers.append((b"access-control-allow-methods", b"GET, POST"))
            headers.append((b"access-control-allow-headers", b"authorization, content-type"))
        return headers

    def _with_cors(self, scope: Scope, send: Send) -> Send:
        cors = self._cors(scope)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*cast("list[tuple[bytes, bytes]]", message["headers"]), *cors, _NO_STORE]
            await send(message)

        return sent

    # WebSocket ----------------------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not _is_ours(scope):
                raise NotFound("There is no WebSocket at this path.")
            sid = self._check(scope)
        except ClusterError as error:
            log.info("a WebSocket was refused: %s: %s", error.code, error.message)
            await receive()  # its opening
            await _refuse(send, error, None)
            return
        if sid:
            self._sockets.upgraded(sid.decode("latin-1"), scope)

        async def received() -> Message:
            message = await receive()
            if message["type"] != "websocket.receive":
                return message
            text = message.get("text")
            try:
                return {"type": "websocket.receive", "text": engine_packet(cast("str", text)) if text else BINARY}
            except InvalidRequest:
                return {"type": "websocket.disconnect", "code": 1002}

        try:
            await self._sockets.app(scope, received, send)
        except Exception:  # an edge: what the library fails at must end this connection alone
            log.warning("a WebSocket ended with an error", exc_info=True)


_NO_STORE = (b"cache-control", b"no-store")


def _is_ours(scope: Scope) -> bool:
    path = cast("str", scope["path"])
    return path in (PATH, PATH[:-1])


def _headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    return cast("list[tuple[bytes, bytes]]", scope["headers"])


def _replayed(body: bytes, scope: Scope) -> Receive:
    """What the library reads instead: the body in one piece, and its length with it."""
    scope["headers"] = [
        *((name, value) for name, value in _headers(scope) if name not in (b"content-length", b"transfer-encoding")),
        (b"content-length", str(len(body)).encode()),
    ]

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _refuse(send: Send, error: ClusterError, exchange: Exchange | None) -> None:
    body = error_body(error) if exchange is None else error_body(error, exchange.api, exchange.request_id)
    headers = [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    headers.append((b"content-type", b"application/json"))
    kind = "http" if exchange is not None else "websocket.http"
    await _respond(send, error.surface.http, headers, body, kind=kind)


async def _respond(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, kind: str = "http"
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": f"{kind}.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": f"{kind}.response.body", "body": body})
