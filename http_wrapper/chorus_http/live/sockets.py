"""The sockets of one app: the library's server, the gate in front of every event, and the table of those connected."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from chorus_http.asgi import Scope
from chorus_http.exchange import ABORT_KEY, Exchange
from chorus_http.gate import Gate
from chorus_http.live.library import EngineIOError, Environ, Refused, library_server
from chorus_http.live.line import Line, nothing
from chorus_http.live.verbs import Check, Reply, Verb
from chorus_http.live.wire import check_message, error_shown, event_named, event_text, refused_text
from chorus_http.replies import encoded
from chorus_http.rights import ANY_KEY, SOCKET_RIGHTS, Right
from chorus_http.settings import HttpSettings
from chorus_proto.clock import Clock
from chorus_proto.dialects.strict_json import JsonObject
from chorus_proto.errors import (
    ClusterError,
    DeadlineExceeded,
    Draining,
    Forbidden,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    NotFound,
    QueueFull,
    RateLimitExceeded,
    SlowConsumer,
)
from chorus_proto.ids import new_request_id

log = logging.getLogger(__name__)

ADDRESS_KEY = "chorus.address"
"""Scope key of the address that the front found."""
CONNECT_WITHIN_S = 10.0
"""A connection over which nobody says who they are is closed."""
UNKNOWN_PER_ADDRESS = 16
"""Such connections from one address."""
CLIENT_LEFT = "client disconnect"
"""The library's reason when a client said goodbye."""
GOODBYE_S = 0.3
"""After the word why, the connection is closed politely; this much later it is cut."""
_COUNTED = frozenset({"generate"})
"""Events that count as requests of their key, and as running until what they began has ended."""


class Sockets:
    """Owned by one app: `aclose` at its end."""

    def __init__(self, gate: Gate, verbs: Mapping[str, Verb], settings: HttpSettings, clock: Clock) -> None:
        self._gate = gate
        self._verbs = verbs
        self._settings = settings
        self._clock = clock
        self._lines: dict[str, Line] = {}
        self._by_sid: dict[str, Line] = {}
        self._unknown: Counter[str] = Counter()
        self._named: Counter[str] = Counter()
        self._ending: set[asyncio.Task[None]] = set()
        self._draining = False
        self.server, self.app = library_server(settings)
        engine = self.server.eio
        self._heard = engine.handlers["message"]
        self._opened, self._closed = engine.handlers["connect"], engine.handlers["disconnect"]
        engine.on("connect", self._open)
        engine.on("message", self._hear)
        engine.on("disconnect", self._close)
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._disconnect)
        for name, verb in verbs.items():
            self.server.on(name, self._handler(name, verb))
        self.server.on("*", self._unknown_event)

    # The connection -----------------------------------------------------------------------------------------------

    def check_room(self, address: str) -> None:
        """Whether one more connection may be opened from there. Raises Draining, QueueFull, RateLimitExceeded."""
        if self._draining:
            raise Draining("This server is shutting down.", retry_after_s=5)
        if len(self._lines) >= self._settings.live_sockets_limit:
            raise QueueFull(f"{self._settings.live_sockets_limit} sockets are open already.", retry_after_s=30)
        if self._unknown[address] >= UNKNOWN_PER_ADDRESS:
            raise RateLimitExceeded("Too many sockets wait to be told who they belong to.", retry_after_s=5)

    def upgraded(self, eio_sid: str, scope: Scope) -> None:
        """The connection goes on over this WebSocket."""
        line = self._lines.get(eio_sid)
        if line is not None:
            line.abort = _abort_of(scope)

    async def _open(self, eio_sid: str, environ: Environ) -> None:
        scope = cast("Scope", environ["asgi.scope"])
        mail = self.server.eio.sockets[eio_sid].queue

        async def send(text: str) -> None:
            try:
                await self.server.eio.send(eio_sid, text)
            except EngineIOError:
                log.debug("a socket was gone before it was told something")

        line = Line(
            eio_sid,
            cast("str", scope[ADDRESS_KEY]),
            mail,
            send,
            self._clock,
            events_per_s=self._settings.live_events_per_s,
            stall_within_s=self._settings.stall_within_s,
            end=self.end,
        )
        if scope["type"] == "websocket":
            line.abort = _abort_of(scope)
        mail.overflown = lambda: self.end(line, SlowConsumer("This socket asks and does not read the answers."))
        self._lines[eio_sid] = line
        self._unknown[line.address] += 1
        asyncio.get_running_loop().call_later(CONNECT_WITHIN_S, self._check_known, line)
        await self._opened(eio_sid, environ)

    def _check_known(self, line: Line) -> None:
        if line.visitor is None and line.eio_sid in self._lines:
            self.end(line, DeadlineExceeded(f"Nobody said within {CONNECT_WITHIN_S:g} s who this is."))

    async def _close(self, eio_sid: str, reason: str) -> None:
        await self._closed(eio_sid, reason)  # `_disconnect`, if it was connected
        line = self._lines.pop(eio_sid, None)
        if line is None:
            return
        if not line.is_known:
            _count_down(self._unknown, line.address)
        if reason == CLIENT_LEFT:
            line.wake()

    async def _hear(self, eio_sid: str, message: object) -> None:
        line = self._lines.get(eio_sid)
        if line is None:
            return
        try:
            if not line.may_speak():
                if not line.may_be_told_off():
                    return
                per_s = self._settings.live_events_per_s
                raise RateLimitExceeded(f"More than {per_s} events in a second.", retry_after_s=1)
            check_message(message)
        except ClusterError as error:
            await self._refuse(line, event_named(message), error)
            return
        try:
            await self._heard(eio_sid, message)
        except ValueError as error:
            await self._refuse(line, event_named(message), InvalidRequest(f"This is no packet of Socket.IO 5: {error}"))

    # Who is there -------------------------------------------------------------------------------------------------

    async def _connect(self, sid: str, environ: Environ, auth: object = None) -> None:
        line = self._lines[self.server.manager.eio_sid_from_sid(sid, "/")]
        try:
            visitor = await self._gate.meet(cast("Scope", environ["asgi.scope"]), _shown_key(auth))
            await self._gate.admit(self._exchange(), visitor, _right("connect"), counts=False)
            if self._named[visitor.name] >= self._settings.live_sockets_per_key:
                raise RateLimitExceeded(
                    f"{self._settings.live_sockets_per_key} sockets are open for this key already.", retry_after_s=30
                )
        except ClusterError as error:
            log.info("a socket was refused: %s: %s", error.code, error.message)
            raise Refused(error.message, error_shown(error)) from None
        line.sid, line.visitor = sid, visitor
        line.undo = self._gate.until_revoked(visitor, lambda: self.end(line, InvalidApiKey("This key has ended.")))
        self._by_sid[sid] = line
        self._named[visitor.name] += 1
        if not line.is_known:
            line.is_known = True
            _count_down(self._unknown, line.address)

    async def _disconnect(self, sid: str, reason: str) -> None:
        line = self._by_sid.pop(sid, None)
        if line is None or line.visitor is None:
            return
        log.debug("a socket has gone: %s", reason)
        _count_down(self._named, line.visitor.name)
        await line.stop_all()
        asyncio.get_running_loop().call_later(CONNECT_WITHIN_S, self._check_known, line)

    # What they ask ------------------------------------------------------------------------------------------------

    def _handler(self, name: str, verb: Verb) -> Callable[..., Awaitable[Reply]]:
        async def handle(sid: str, *arguments: object) -> Reply:
            line = self._by_sid.get(sid)
            return {"ok": False} if line is None else await self._answer(line, name, verb, arguments)

        return handle

    async def _unknown_event(self, event: str, sid: str, *_arguments: object) -> Reply:
        line = self._by_sid.get(sid)
        return {"ok": False} if line is None else await self._answer(line, event, _no_such_event, ({},))

    async def _answer(self, line: Line, name: str, verb: Verb, arguments: tuple[object, ...]) -> Reply:
        exchange = self._exchange()
        try:
            async with exchange.closing:
                check = await self._admitted(line, name, exchange, known=verb is not _no_such_event)
                return {"ok": True, **await verb(line, exchange, _one_object(arguments), check)}
        except ClusterError as error:
            refused = error
        except Exception:
            # The edge: a bug in one event must be answered, and end nothing else.
            log.exception("bug while serving the event %s, request %s", name, exchange.request_id)
            refused = InternalError(f"Internal error. The log has the details under request {exchange.request_id}.")
        await self._refuse(line, name, refused)
        return {"ok": False, "error": error_shown(refused)}

    async def _admitted(self, line: Line, name: str, exchange: Exchange, *, known: bool) -> Check:
        """Raises ClusterError."""
        visitor = line.visitor
        if visitor is None:
            raise Forbidden("This socket is not connected.")
        right = _right(name) if known else ANY_KEY
        await self._gate.admit(exchange, visitor, right, counts=name in _COUNTED)

        async def check() -> None:
            await self._gate.admit(self._exchange(), visitor, right, counts=False)

        return check

    def _exchange(self) -> Exchange:
        return Exchange(request_id=new_request_id(), started_s=self._clock.monotonic_s(), route="socket")

    async def _refuse(self, line: Line, event: str, error: ClusterError) -> None:
        log.debug("the event %s of a socket was refused: %s: %s", event, error.code, error.message)
        if line.visitor is not None:
            await line.send(refused_text(event, error))

    # The end ------------------------------------------------------------------------------------------------------

    def end(self, line: Line, error: ClusterError) -> None:
        """Close a socket, with a word why."""
        if line.is_ending:
            return
        line.is_ending = True
        task = asyncio.create_task(self._end(line, error), name="live:goodbye")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, line: Line, error: ClusterError) -> None:
        engine = self.server.eio
        connection = engine.sockets.get(line.eio_sid)
        if connection is None or connection.closed:
            return
        log.info("a socket is closed: %s: %s", error.code, error.message)
        if line.visitor is not None:
            await line.send(event_text("goodbye", encoded(error_shown(error))))
        if line.sid and isinstance(error, InvalidApiKey):
            await self.server.disconnect(line.sid)  # else the library at the other end connects again by itself
        await connection.close(wait=False)
        await asyncio.sleep(GOODBYE_S)
        line.abort()

    def drain(self) -> None:
        """Take no more sockets, and close all there are: they come again when the server is back."""
        self._draining = True
        for line in list(self._lines.values()):
            self.end(line, Draining("This server is shutting down.", retry_after_s=5))

    async def aclose(self) -> None:
        self.drain()
        await asyncio.gather(*self._ending, return_exceptions=True)
        for line in list(self._lines.values()):
            await line.stop_all()
        await self.server.shutdown()

    @property
    def open(self) -> int:
        return len(self._lines)


async def _no_such_event(line: Line, exchange: Exchange, argument: JsonObject, check: Check) -> Reply:
    raise NotFound("There is no such event; docs/live.md lists those there are.")


def _right(name: str) -> Right:
    """Raises Forbidden for an event that nobody has declared."""
    right = SOCKET_RIGHTS.get(name)
    if right is None:
        log.error("the event %s has no entry in rights.py and is refused to everybody", name)
        raise Forbidden("This event is not open to anybody.")
    return right


def _shown_key(auth: object) -> bytes | None:
    """Raises InvalidRequest."""
    if auth is None or auth == {}:
        return None
    key = cast("dict[str, object]", auth).get("key") if isinstance(auth, dict) else None
    if not isinstance(key, str):
        raise InvalidRequest("The connection's 'auth' must be {\"key\": KEY}.", param="auth")
    return key.encode()


def _one_object(arguments: tuple[object, ...]) -> JsonObject:
    """Raises InvalidRequest."""
    if len(arguments) != 1 or not isinstance(arguments[0], dict):
        raise InvalidRequest("An event takes one object.")
    return cast("JsonObject", arguments[0])


def _abort_of(scope: Scope) -> Callable[[], None]:
    return cast("Callable[[], None]", scope.get(ABORT_KEY, nothing))


def _count_down(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]
