"""Streams events of the cluster to a caller.

A pump takes from the cluster while the response sends: what came while a write was in flight goes out joined, in one
write, with no timer in between. The buffer between them is bounded, so a slow reader slows its own node down, and one
who stops reading is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from quart import Response

from chorus_http.errors import unexpected
from chorus_http.exchange import Exchange
from chorus_http.framing import OPENAI_EVENTS, Framing
from chorus_http.metrics import HttpMetrics
from chorus_http.replies import Reply, quart_response
from chorus_http.settings import HttpSettings
from chorus_proto.errors import ClusterError, DeadlineExceeded, InternalError, SlowConsumer

log = logging.getLogger(__name__)

E = TypeVar("E")

GRACE_S = 5.0
"""The coordinator ends a request at its deadline; this much later the wrapper stops waiting for that."""


@dataclass(frozen=True, slots=True)
class Source(Generic[E]):
    """Where a stream comes from: `events` until one of type `last`, each written down by `render` (b"": nothing)."""

    events: AsyncGenerator[E, None]
    render: Callable[[E], bytes]
    last: type[E]
    within_s: float
    silence: Callable[[], bytes | None] | None = None
    """What to send when nothing came for a while, instead of the framing's ping."""


class EventStream(Generic[E]):
    """One response body. Owned by the exchange: whatever ends it closes the cluster's generator at once."""

    def __init__(
        self,
        source: Source[E],
        exchange: Exchange,
        settings: HttpSettings,
        metrics: HttpMetrics,
        framing: Framing = OPENAI_EVENTS,
    ) -> None:
        self._source = source
        self._framing = framing
        self._exchange = exchange
        self._settings = settings
        self._metrics = metrics
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None
        self._pinging: asyncio.TimerHandle | None = None
        self._waits_since_s = 0.0
        self._silent = False
        self._room = asyncio.Event()
        self._ended = False
        self._shown = False
        self._error: ClusterError | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._cut_off: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Start, and wait for the first output or for `stream_open_after_s`.

        Raises the ClusterError of a failure before any output, while it can still have a status of its own.
        """
        self._metrics.stream_opened()
        self._exchange.closing.push_async_callback(self._close)
        self._pumping = asyncio.create_task(self._pump(), name=f"stream:{self._exchange.request_id}")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.stream_open_after_s):
                await self._something()
        if self._error is not None and not self._chunks:
            raise self._error

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The response's bytes, with a ping for each silent `ping_every_s`."""
        self._ping_later()
        while True:
            await self._something()
            if self._chunks:
                joined = b"".join(self._chunks)
                self._chunks.clear()
                self._buffered_bytes = 0
                self._room.set()
                self._shown = True
                yield joined
            elif self._ended:
                break
            elif self._silent:
                silence = self._source.silence
                yield (silence() if silence is not None else None) or self._framing.ping
            self._silent = False
        if self._error is not None:
            yield self._framing.failure(self._error, self._exchange, partial=self._shown)

    async def _something(self) -> None:
        """Wait for a chunk, the end or, while the body is read, a silence that is worth a ping."""
        while not (self._chunks or self._ended or self._silent):
            self._waits_since_s = self._loop.time()
            self._wake = self._loop.create_future()
            await self._wake

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _ping_later(self) -> None:
        """One timer that looks again and again: one for each chunk would cost as much as the chunk."""
        every_s = self._metrics.ping_every_s(self._settings.ping_every_s)
        waits = self._wake is not None and not self._wake.done()
        left_s = self._waits_since_s + every_s - self._loop.time() if waits else every_s
        if left_s <= 0:
            self._silent = True
            self._notify()
            left_s = every_s
        self._pinging = self._loop.call_later(left_s, self._ping_later)

    async def _pump(self) -> None:
        try:
            async with asyncio.timeout(self._source.within_s + GRACE_S):
                await self._take_all()
        except ClusterError as error:
            self._error = error
        except TimeoutError:
            self._error = DeadlineExceeded("The request's time is up.")
        except Exception as error:  # noqa: BLE001  # an edge: a bug must end this stream alone, with an event
            self._error = unexpected(error, self._exchange)
        finally:
            self._ended = True
            self._notify()
            # A reader who stopped would hold the connection for ever; `_close` takes this back.
            self._cut_off = self._loop.call_later(self._settings.stall_within_s, self._exchange.abort)

    async def _take_all(self) -> None:
        complete = False
        async with aclosing(self._source.events) as events:
            async for event in events:
                complete = isinstance(event, self._source.last)
                chunk = self._source.render(event)
                if not chunk:
                    continue
                self._chunks.append(chunk)
                self._buffered_bytes += len(chunk)
                self._notify()
                if self._buffered_bytes >= self._settings.stream_buffer_bytes:
                    await self._wait_for_room()
        if not complete:
            raise InternalError("The answer ended without its closing event.")

    async def _wait_for_room(self) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(self._settings.stall_within_s):
                await self._room.wait()
        except TimeoutError:
            self._exchange.abort()
            raise SlowConsumer(f"The caller read nothing for {self._settings.stall_within_s:g} s.") from None

    async def _close(self) -> None:
        self._metrics.stream_closed()
        if self._pumping is not None:
            self._pumping.cancel()
            await asyncio.wait([self._pumping])
        for timer in (self._cut_off, self._pinging):
            if timer is not None:
                timer.cancel()


def event_stream_response(
    body: AsyncGenerator[bytes, None], headers: dict[str, str], framing: Framing = OPENAI_EVENTS
) -> Response:
    return quart_response(event_stream_reply(body, headers, framing))


def event_stream_reply(
    body: AsyncGenerator[bytes, None], headers: Mapping[str, str], framing: Framing = OPENAI_EVENTS
) -> Reply:
    # nginx would hold tokens back
    more = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return Reply(body=body, content_type=framing.content_type, headers={**headers, **more})


def named_event(name: str, payload: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), payload)
