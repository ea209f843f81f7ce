"""One HTTP request and its answer: its id, its owner of open calls, and what is counted about it.

Sits around Quart as plain ASGI, because Quart tells nobody when a body has been sent or that its sending was cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import cast

from quart import request

from chorus_http.apis import Api, api_of
from chorus_http.asgi import AsgiApp, Message, Receive, Scope, Send
from chorus_http.metrics import HttpMetrics
from chorus_proto.clock import Clock
from chorus_proto.ids import RequestId, new_request_id
from chorus_proto.keys import ApiKey, KeyClaim

log = logging.getLogger(__name__)

_SCOPE_KEY = "chorus.exchange"
ABORT_KEY = "chorus.abort"
"""Scope key of a callable that cuts the connection at once; the listener's protocol puts it there."""


_LINGER_S = 2.0
"""Closing a connection on a caller who still sends loses the answer on its way (RFC 9112, 9.6): so wait while more of
the body comes within this time. The listener's protocol bounds the whole of it."""


def _nothing() -> None:
    """Without our own protocol below (a test client), there is no connection to cut."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Everything that lives as long as one request."""

    request_id: RequestId
    started_s: float
    head: Sequence[tuple[bytes, bytes]] = ()
    """The request's header fields, names in small letters."""
    abort: Callable[[], None] = _nothing
    api: Api = Api.OPENAI
    """Whose callers use the path: their client must understand the refusal."""
    route: str = "other"
    key: ApiKey | None = None
    """The key that was shown; None where none is needed."""
    claim: KeyClaim | None = None
    """What proved `key`."""
    user: str = ""
    """On whose behalf; see `Call.user`."""
    status: int = 0
    sent_bytes: int = 0
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Closed when the exchange ends, however it ends: what works for this caller registers its close here."""

    def header(self, name: bytes) -> str | None:
        """The first field of this name, given in small letters; None where there is none."""
        for one, value in self.head:
            if one == name:
                return value.decode("latin-1")
        return None

    @property
    def key_id(self) -> str:
        """Empty where no key was shown."""
        return "" if self.key is None else self.key.key_id


def exchange_of(scope: Scope) -> Exchange:
    return cast("Exchange", scope[_SCOPE_KEY])


def current_exchange() -> Exchange:
    """The exchange of the request that this task serves for Quart."""
    return exchange_of(cast("Scope", request.scope))


class ExchangeMiddleware:
    """Gives each request its `Exchange`, answers with `X-Request-Id`, and counts."""

    def __init__(self, app: AsgiApp, *, metrics: HttpMetrics, clock: Clock, log_requests: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(
            request_id=new_request_id(),
            started_s=self._clock.monotonic_s(),
            head=cast("list[tuple[bytes, bytes]]", scope["headers"]),
            abort=cast("Callable[[], None]", scope.get(ABORT_KEY, _nothing)),
            api=api_of(cast("str", scope["path"])),
        )
        scope[_SCOPE_KEY] = exchange

        body_ended = False
        received: asyncio.Event | None = None
        last: Message = {}

        async def watched() -> Message:
            nonlocal body_ended, last
            # Quart holds on to a message until the next one, which comes when the caller leaves: a long wait.
            last.pop("body", None)
            last = await receive()
            body_ended = not last.get("more_body", False)
            if received is not None:
                received.set()
            return last

        async def lingering() -> None:
            """The app's receiver reads on beside this and drops what it may not keep."""
            nonlocal received
            with suppress(TimeoutError):
                while not body_ended:
                    received = asyncio.Event()
                    async with asyncio.timeout(_LINGER_S):
                        await received.wait()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = cast("int", message["status"])
                headers = cast("list[tuple[bytes, bytes]]", message["headers"])
                headers.append((b"x-request-id", exchange.request_id.encode()))
                if exchange.api is Api.ANTHROPIC:
                    headers.append((b"request-id", exchange.request_id.encode()))
                headers.append((b"x-content-type-options", b"nosniff"))
            else:
                exchange.sent_bytes += len(cast("bytes", message.get("body", b"")))
                if not body_ended and not message.get("more_body", False):
                    await lingering()
            await send(message)

        try:
            async with exchange.closing:
                await self._app(scope, watched, counted)
        finally:
            self._finished(exchange, cast("str", scope["method"]))

    def _finished(self, exchange: Exchange, method: str) -> None:
        seconds = self._clock.monotonic_s() - exchange.started_s
        # 499, nginx's number for it: the caller left before there was a status.
        status = exchange.status or 499
        self._metrics.finished(exchange.route, status, seconds, exchange.sent_bytes)
        if self._log_requests:
            log.info("%s %s %d %.3fs %s", method, exchange.route, status, seconds, exchange.request_id)
