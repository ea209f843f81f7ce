"""Keeps every open tab of a session in step: what happens in it is told to all who watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from chorus_http.chats.records import ChatSession, SessionId
from chorus_http.chats.shown import session_shown
from chorus_proto.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Generator

PENDING_EVENTS = 512
"""That one watcher may be behind; one who is further behind is sent away and reads the session anew."""
WATCHERS_LIMIT = 1024


class ChatEventKind(StrEnum):
    """Names of the server-sent events."""

    SNAPSHOT = "snapshot"
    MESSAGE = "message"
    STARTED = "started"
    MEMBER = "member"
    DELTA = "delta"
    FINISHED = "finished"
    FAILED = "failed"
    CHANGED = "changed"
    DELETED = "deleted"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """Something that happened in a session. `body` is what is told of it, as JSON values."""

    kind: ChatEventKind
    body: dict[str, object]


class LastEvent(ChatEvent):
    """The event that ends a stream."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class _Watcher:
    events: asyncio.Queue[ChatEvent] = field(default_factory=lambda: asyncio.Queue(PENDING_EVENTS))
    behind: bool = False


def everything_of(owner: str) -> str:
    """The topic of all sessions of an owner; no session id can be like it."""
    return f"owner:{owner}"


class ChatEvents:
    """Topics and who watches them. A topic is a session, or all sessions of an owner."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[_Watcher]] = {}

    def tell(self, topic: str, event: ChatEvent) -> None:
        for watcher in self._watchers.get(topic, ()):
            if watcher.behind:
                continue
            try:
                watcher.events.put_nowait(event)
            except asyncio.QueueFull:
                watcher.behind = True

    def tell_of(self, session: ChatSession, event: ChatEvent) -> None:
        """To who watches this session and, when the event shows the session anew, to who watches all of its owner's."""
        self.tell(session.id, event)
        if "session" in event.body:
            changed = ChatEvent(ChatEventKind.CHANGED, {"session": event.body["session"]})
            self.tell(everything_of(session.owner), changed)

    def tell_changed(self, session: ChatSession) -> None:
        self.tell_of(session, ChatEvent(ChatEventKind.CHANGED, {"session": session_shown(session)}))

    def tell_deleted(self, owner: str, session_id: SessionId) -> None:
        self.tell(session_id, ChatEvent(ChatEventKind.DELETED, {"session_id": session_id}))
        self.tell(everything_of(owner), ChatEvent(ChatEventKind.CHANGED, {"deleted": session_id}))

    @property
    def watched(self) -> bool:
        """Does anybody watch anything?"""
        return bool(self._watchers)

    async def watch(
        self, topic: str, first: Callable[[], Awaitable[ChatEvent]], *, within_s: float
    ) -> AsyncGenerator[ChatEvent, None]:
        """What `first` tells once nothing can be missed any more, then what happens, for `within_s`.

        A `LastEvent` ends it. Raises QueueFull when too many watch.
        """
        with self._watching(topic) as watcher:
            yield await first()
            try:
                async with asyncio.timeout(within_s):
                    while not (watcher.behind and watcher.events.empty()):
                        event = await watcher.events.get()
                        if event.kind is ChatEventKind.DELETED:
                            yield LastEvent(event.kind, event.body)
                            return
                        yield event
            except TimeoutError:
                pass  # browsers come again by themselves
            yield LastEvent(ChatEventKind.BEHIND, {})

    @contextmanager
    def _watching(self, topic: str) -> Generator[_Watcher]:
        if sum(map(len, self._watchers.values())) >= WATCHERS_LIMIT:
            raise QueueFull(f"{WATCHERS_LIMIT} tabs watch chats already.", retry_after_s=30)
        watcher = _Watcher()
        self._watchers.setdefault(topic, set()).add(watcher)
        try:
            yield watcher
        finally:
            watchers = self._watchers[topic]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[topic]
