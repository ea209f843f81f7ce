"""uvicorn's HTTP/1.1 protocol with the limits that it does not have: size and time of a request's head and body.

uvicorn counts no header bytes with httptools and lets a request arrive one byte a minute.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chorus_http.body_limits import body_limit_bytes, body_within_s
from chorus_http.errors import error_body
from chorus_http.exchange import ABORT_KEY
from chorus_http.settings import HttpSettings
from chorus_proto.errors import ClusterError, InvalidRequest

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_BODY_GRACE_S = 5.0
"""The app refuses a late body in words; this much later the connection is cut."""
_DRAINED_BODIES = 2
"""A body over the limit is read and dropped up to this many limits, so that its sender gets to see the refusal."""


class _HeadTooLarge(Exception):
    """Stops httptools; the caller gets `send_400_response`'s 431."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    # With five names more in its dictionary, Python would no longer share that dictionary's keys between connections.
    __slots__ = ("_body_bytes", "_deadline", "_head_bytes", "_reading_head", "_refusal")

    settings = HttpSettings()
    """Set by the subclass that `bounded` makes."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline: asyncio.TimerHandle | None = None
        self._reading_head = True
        self._head_bytes = 0
        self._body_bytes = 0
        self._refusal: tuple[int, ClusterError] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._within(self.settings.head_within_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(_without_upgrade(data) if self._reading_head else data)
        if self._reading_head and not self.transport.is_closing():
            # httptools holds an unfinished header back, so what it has not shown yet is counted here.
            self._head_bytes += len(data)
            if self._head_bytes > 2 * self.settings.head_limit_bytes:
                self._refusal = _HEAD_REFUSAL
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, object]", self.scope)[ABORT_KEY] = self.transport.abort
        self._reading_head = True
        self._head_bytes = 0
        self._body_bytes = 0
        self._within(self.settings.head_within_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        if len(self.headers) >= self.settings.head_limit_fields:
            self._refuse_head()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading_head = False
        super().on_headers_complete()
        self._within(body_within_s(self.settings, self._path()) + _BODY_GRACE_S)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > _DRAINED_BODIES * body_limit_bytes(self.settings, self._path()):
            self.transport.close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_time()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._in_time()  # the connection is no longer ours
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        status, error = self._refusal or (400, InvalidRequest("This is not an HTTP/1.1 request."))
        body = error_body(error)
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[status], len(body), body)
        )
        self.transport.close()

    def _path(self) -> str:
        """Empty while a WebSocket is opened: uvicorn reads its path anew."""
        return cast("str", cast("dict[str, object]", self.scope).get("path", ""))

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self.settings.head_limit_bytes:
            self._refuse_head()

    def _refuse_head(self) -> None:
        self._refusal = _HEAD_REFUSAL
        raise _HeadTooLarge

    def _within(self, seconds: float) -> None:
        self._in_time()
        self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


_UPGRADE = re.compile(rb"\r\nupgrade:(?![ \t]*websocket)", re.IGNORECASE)


def _without_upgrade(data: bytes) -> bytes:
    """Hide an offer to change protocols, which a server may ignore (RFC 9110, 7.8): the parser would drop the body.

    Java's HTTP client offers h2c with every request.
    """
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    hidden = _UPGRADE.sub(b"\r\nx-offer:", head)
    return data if hidden is head else hidden + data[len(head) :]


_HEAD_REFUSAL: tuple[int, ClusterError] = (
    431,
    InvalidRequest("The request's headers are over the limit in size or number."),
)


def bounded(limits: HttpSettings) -> type[asyncio.Protocol]:
    """The protocol class that uvicorn makes connections of."""
    return cast("type[asyncio.Protocol]", type("BoundedHttpProtocol", (BoundedHttpProtocol,), {"settings": limits}))
