"""GET /events: what happens in the cluster, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from quart import Blueprint, Response, request

from chorus_http.exchange import current_exchange
from chorus_http.live.feed import LiveFeed
from chorus_http.live.shown import LiveEvent
from chorus_http.metrics import HttpMetrics
from chorus_http.replies import encoded
from chorus_http.settings import HttpSettings
from chorus_http.sse import EventStream, Source, event_stream_response, named_event
from chorus_proto.event_log import Batch, Position
from chorus_proto.happenings import read_position


class _End(Batch[LiveEvent]):
    """The server stops."""


def event_routes(feed: LiveFeed, settings: HttpSettings, metrics: HttpMetrics) -> Blueprint:
    routes = Blueprint("events", __name__)

    async def events() -> Response:
        after = _after()
        rendering = _Rendering(after)
        source = Source(_ending(feed, after), rendering.render, _End, settings.request_within_s)
        stream = EventStream(source, current_exchange(), settings, metrics)
        await stream.open()
        return event_stream_response(stream.body(), {})

    routes.add_url_rule("/events", "events", events, methods=["GET"])
    return routes


class _Rendering:
    def __init__(self, after: Position | None) -> None:
        self._after = after
        self._is_first = True

    def render(self, batch: Batch[LiveEvent]) -> bytes:
        written = b"".join(_written(event) for event in batch.events)
        if self._is_first:
            self._is_first = False
            resumed = self._after is not None and not batch.missed
            at = self._after if resumed and self._after is not None else batch.position
            return _placed("hello", at, {"at": str(at), "resumed": resumed, "reason": batch.missed}) + written
        if batch.missed:
            at = batch.position
            return _placed("reset", at, {"at": str(at), "reason": batch.missed}) + written
        return written


async def _ending(feed: LiveFeed, after: Position | None) -> AsyncGenerator[Batch[LiveEvent]]:
    async with aclosing(feed.follow(after)) as batches:
        async for batch in batches:
            yield batch
    yield _End(Position(0, 0))


def _written(event: LiveEvent) -> bytes:
    payload = b'{"at_unix_s":%.3f,"body":%b}' % (event.at_unix_s, event.body)
    return b"id: %b\n" % event.name.encode() + named_event(event.kind, payload)


def _placed(name: str, at: Position, body: dict[str, object]) -> bytes:
    """With an id, so that who loses the connection before the first event goes on from here."""
    return b"id: %b\n" % str(at).encode() + named_event(name, encoded(body))


def _after() -> Position | None:
    """Raises InvalidRequest."""
    text = request.headers.get("Last-Event-ID") or request.args.get("after")
    return read_position(text) if text else None
