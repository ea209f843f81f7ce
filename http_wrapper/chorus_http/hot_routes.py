"""The routes that carry the load, answered in front of Quart: its part of a short request costs more than all the rest.

They stand in Quart too, which has their other methods, their rights and their spellings, and all of them where pages of
other sites may ask (CORS). Both ways end in the same function from a body to a reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias, cast

from quart import Blueprint, Response

from chorus_http.asgi import AsgiApp, Receive, Scope, Send
from chorus_http.body import check_is_json, json_body
from chorus_http.errors import body_late, body_too_large, error_reply, refusal, unexpected
from chorus_http.exchange import Exchange, current_exchange, exchange_of
from chorus_http.gate import Gate
from chorus_http.replies import Reply, quart_response
from chorus_http.settings import HttpSettings
from chorus_proto.errors import ClusterError

Answering: TypeAlias = Callable[[bytes, Exchange], Awaitable[Reply]]
"""From a JSON body to the reply. Raises ClusterError."""


class _CallerLeft(Exception):
    """Before the whole body had come: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class HotRoute:
    """A POST. `from_curl`: see `check_is_json`."""

    path: str
    answer: Answering
    from_curl: bool


class HotTable:
    """Collects the hot routes while the app is put together."""

    def __init__(self) -> None:
        self.routes: dict[str, HotRoute] = {}

    def post(self, blueprint: Blueprint, path: str, name: str, answer: Answering, *, from_curl: bool = False) -> None:
        """Have POST `path` answered here, and by Quart under the blueprint's endpoint `name`."""

        async def view() -> Response:
            return quart_response(await answer(await json_body(from_curl=from_curl), current_exchange()))

        blueprint.add_url_rule(path, name, view, methods=["POST"])
        self.routes[path] = HotRoute(path, answer, from_curl)


class HotRoutes:
    """ASGI around Quart's. Each request is answered in the server's own task for it."""

    def __init__(self, app: AsgiApp, gate: Gate, routes: Mapping[str, HotRoute], settings: HttpSettings) -> None:
        self._app = app
        self._gate = gate
        self._routes = routes
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(cast("str", scope["path"])) if scope.get("method") == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        exchange = exchange_of(scope)
        exchange.route = route.path
        try:
            await self._answer(route, exchange, scope, receive, send)
        except _CallerLeft:
            return

    async def _answer(self, route: HotRoute, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        raw, refused = b"", None
        try:
            await self._gate.enter(exchange, scope, route.path)
            check_is_json(exchange, from_curl=route.from_curl)
            raw = await self._body(exchange, receive)
        except ClusterError as error:
            refused = refusal(error, exchange)
        async with _Listening(receive):
            await _send(refused or await _reply(route, raw, exchange), send)

    async def _body(self, exchange: Exchange, receive: Receive) -> bytes:
        """Raises BodyTooLarge, InvalidRequest for one that is late, _CallerLeft."""
        limit_bytes = self._settings.body_limit_bytes
        told = exchange.header(b"content-length") or ""
        if told.isdecimal() and int(told) > limit_bytes:
            raise body_too_large()
        parts: list[bytes] = []
        size_bytes = 0
        try:
            async with asyncio.timeout(self._settings.body_within_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _CallerLeft
                    part = cast("bytes", message.get("body", b""))
                    size_bytes += len(part)
                    if size_bytes > limit_bytes:
                        raise body_too_large()
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise body_late() from None


async def _reply(route: HotRoute, raw: bytes, exchange: Exchange) -> Reply:
    try:
        return await route.answer(raw, exchange)
    except ClusterError as error:
        return refusal(error, exchange)
    except Exception as error:  # noqa: BLE001  # an edge: a bug must end this request alone, with words
        return error_reply(unexpected(error, exchange), exchange)


async def _send(reply: Reply, send: Send) -> None:
    body = reply.body
    headers = [(name.encode(), value.encode("latin-1")) for name, value in reply.headers.items()]
    headers.append((b"content-type", reply.content_type.encode()))
    if isinstance(body, bytes):
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if isinstance(body, bytes):
        await send({"type": "http.response.body", "body": body})
        return
    async with aclosing(body) as parts:
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class _Listening:
    """Listens to the caller while the block works: takes in what it still sends, and ends the block when it has left.

    A block that was ended so raises `_CallerLeft`.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> None:
        working = asyncio.current_task()
        assert working is not None, "this runs in a task"
        self._working = working
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._working.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        self._listening.cancel()
        if self._left and kind is asyncio.CancelledError and not self._working.uncancel():
            raise _CallerLeft from None
