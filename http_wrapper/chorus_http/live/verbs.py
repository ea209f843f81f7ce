"""What a client may ask for over its socket: each event with the shape of its argument and what it does."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Annotated, Literal, TypeVar

import msgspec

from chorus_http.chats.conversations import Conversations
from chorus_http.chats.events import ChatEvent, ChatEventKind
from chorus_http.exchange import Exchange
from chorus_http.live.feed import LiveFeed
from chorus_http.live.line import Line
from chorus_http.live.shown import LiveEvent
from chorus_http.live.streams import Streams
from chorus_http.live.wire import error_shown
from chorus_http.replies import encoded
from chorus_proto.dialects.fields import read_fields
from chorus_proto.dialects.strict_json import JsonObject
from chorus_proto.errors import ClusterError, InvalidRequest, NotFound
from chorus_proto.event_log import Batch, Position
from chorus_proto.happenings import read_position

WATCHED_S = 3600.0
"""A chat's events are followed anew after this, with a fresh snapshot."""

Reply = dict[str, object]
Check = Callable[[], Awaitable[None]]
Verb = Callable[[Line, Exchange, JsonObject, Check], Awaitable[Reply]]
"""`Check` looks at the visitor's right again; raises what it no longer may."""

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_STREAM_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class _Cluster(msgspec.Struct):
    after: str | None = None


class _Chat(msgspec.Struct):
    session_id: _Id


class _Nothing(msgspec.Struct):
    pass


class _Stream(msgspec.Struct):
    id: _Id


class _Topic(msgspec.Struct):
    topic: Literal["cluster", "chat", "chats", "stream"]
    id: _Id | None = None


Shape = TypeVar("Shape", bound=msgspec.Struct)


def _read(argument: JsonObject, shape: type[Shape]) -> Shape:
    return read_fields(argument, shape, refused={})


class Verbs:
    """Of one app. `chats` is None where there are no chat sessions."""

    def __init__(self, feed: LiveFeed, streams: Streams, chats: Conversations | None) -> None:
        self._feed = feed
        self._streams = streams
        self._chats = chats
        self.table: Mapping[str, Verb] = {
            "watch_cluster": self._watch_cluster,
            "watch_chat": self._watch_chat,
            "watch_chats": self._watch_chats,
            "watch_stream": self._watch_stream,
            "unwatch": self._unwatch,
            "generate": self._generate,
            "cancel": self._cancel,
        }

    async def _watch_cluster(self, line: Line, exchange: Exchange, argument: JsonObject, check: Check) -> Reply:
        wanted = _read(argument, _Cluster).after
        after = None if wanted is None else read_position(wanted)
        line.check_room("cluster")
        line.stop("cluster")
        batches = self._feed.follow(after)
        first = await anext(batches)
        line.start("cluster", self._tell_cluster(line, batches, first, check))
        resumed = after is not None and not first.missed
        at = after if resumed and after is not None else first.position
        return {"at": str(at), "resumed": resumed, "reason": first.missed}

    @staticmethod
    async def _tell_cluster(
        line: Line, batches: AsyncGenerator[Batch[LiveEvent]], first: Batch[LiveEvent], check: Check
    ) -> None:
        async with aclosing(batches):
            await _tell_batch(line, first.position, first.events)
            async for batch in batches:
                await check()
                if batch.missed:
                    await line.tell("reset", encoded({"at": str(batch.position), "reason": batch.missed}))
                await _tell_batch(line, batch.position, batch.events)

    async def _watch_chat(self, line: Line, exchange: Exchange, argument: JsonObject, check: Check) -> Reply:
        session_id = _read(argument, _Chat).session_id
        chats, owner = self._having_chats(), exchange.user

        def watch() -> AsyncGenerator[ChatEvent]:
            return chats.watch(owner, session_id, within_s=WATCHED_S)

        line.check_room(f"chat:{session_id}")
        events = watch()
        first = await anext(events)
        line.start(f"chat:{session_id}", _tell_chat(line, "chat", {"session_id": session_id}, watch, events, first))
        return {}

    async def _watch_chats(self, line: Line, exchange: Exchange, argument: JsonObject, check: Check) -> Reply:
        _read(argument, _Nothing)
        chats, owner = self._having_chats(), exchange.user

        def watch() -> AsyncGenerator[ChatEvent]:
            return chats.watch_all(owner, within_s=WATCHED_S)

        line.check_room("chats")
        events = watch()
        first = await anext(events)
        line.start("chats", _tell_chat(line, "chats", {}, watch, events, first))
        return {}

    def _having_chats(self) -> Conversations:
        if self._chats is None:
            raise NotFound("There are no chat sessions here.")
        return self._chats

    async def _watch_stream(self, line: Line, exchange: Exchange, argument: JsonObject, check: Check) -> Reply:
        stream_id = _read(argument, _Stream).id
        return self._streams.watch(line, exchange.user, stream_id)

    async def _unwatch(self, line: Line, exchange: Exchange, argument: JsonObject, check: Check) -> Reply:
        wanted = _read(argument, _Topic)
        if (wanted.id is None) != (wanted.topic in ("cluster", "chats")):
            raise InvalidRequest("Name the chat session or the stream by 'id', and nothing else by it.", param="id")
        line.stop(wanted.topic if wanted.id is None else f"{wanted.topic}:{wanted.id}")
        return {}

    async def _generate(self, line: Line, exchange: Exchange, argument: JsonObject, check: Check) -> Reply:
        rest = dict(argument)
        wanted = rest.pop("id", None)
        if wanted is not None and not (isinstance(wanted, str) and _STREAM_ID.fullmatch(wanted)):
            raise InvalidRequest("Invalid 'id': expected 1-64 letters, digits and . _ : -", param="id")
        return {"id": await self._streams.begin(line, exchange, wanted or exchange.request_id, rest)}

    async def _cancel(self, line: Line, exchange: Exchange, argument: JsonObject, check: Check) -> Reply:
        return {"cancelled": self._streams.cancel(exchange.user, _read(argument, _Stream).id)}


async def _tell_batch(line: Line, position: Position, events: tuple[LiveEvent, ...]) -> None:
    if events:
        await line.tell("cluster", b"[%b]" % b",".join(event.object() for event in events))


async def _tell_chat(
    line: Line,
    name: str,
    head: Reply,
    watch: Callable[[], AsyncGenerator[ChatEvent]],
    events: AsyncGenerator[ChatEvent],
    first: ChatEvent,
) -> None:
    """Follow until the session is deleted; who fell behind begins anew with a snapshot."""
    event = first
    while True:
        async with aclosing(events):
            while event.kind is not ChatEventKind.BEHIND:
                await line.tell(name, encoded({**head, "kind": event.kind, "body": event.body}))
                if event.kind is ChatEventKind.DELETED:
                    return
                event = await anext(events)
        events = watch()
        try:
            event = await anext(events)
        except ClusterError as error:
            await line.tell("refused", encoded({"event": f"watch_{name}", **error_shown(error)}))
            return
