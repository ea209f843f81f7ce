"""The last events of a numbered series, and any number of followers, each at its own place in it.

A follower is a place, not a buffer: one who is slow costs nothing, and one who falls behind the oldest event that is
kept is told so and goes on with what is new.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

from chorus_proto.clock import Clock

BATCH_EVENTS = 64


class Numbered(Protocol):
    @property
    def id(self) -> int: ...


E = TypeVar("E", bound=Numbered)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The last event that somebody has seen."""

    epoch: int
    id: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.id}"


@dataclass(frozen=True, slots=True)
class Batch(Generic[E]):
    """`position` is where its reader stands after it."""

    position: Position
    events: tuple[E, ...] = ()
    missed: str = ""
    """Why events before these cannot be told any more, for people; "": none is missing."""


class EventLog(Generic[E]):
    """Keeps `keep_events` events, none for longer than `keep_s`."""

    def __init__(self, clock: Clock, *, epoch: int, keep_s: float, keep_events: int) -> None:
        self._clock = clock
        self._epoch = epoch
        self._keep_s = keep_s
        self._kept: deque[tuple[float, E]] = deque(maxlen=keep_events)
        self._last_id = 0
        self._followers: set[asyncio.Event] = set()
        self._closed = False

    @property
    def position(self) -> Position:
        return Position(self._epoch, self._last_id)

    @property
    def followers(self) -> int:
        return len(self._followers)

    def add(self, event: E) -> None:
        """The next one: its id is one more than the last."""
        assert event.id == self._last_id + 1, "a number was left out or came twice"
        self._last_id = event.id
        self._kept.append((self._clock.monotonic_s(), event))
        self._wake()

    def restart(self, position: Position) -> None:
        """Begin anew after `position`: what was before it is lost."""
        self._kept.clear()
        self._epoch, self._last_id = position.epoch, position.id
        self._wake()

    def close(self) -> None:
        """End every follower once it has read everything."""
        self._closed = True
        self._wake()

    def since(self, after: Position) -> Batch[E]:
        """The next events after that one, at most `BATCH_EVENTS`; or that they are gone."""
        self._forget_old()
        if after.epoch != self._epoch:
            return Batch(self.position, missed="the coordinator has started anew since then")
        first = self._kept[0][1].id if self._kept else self._last_id + 1
        if not first - 1 <= after.id <= self._last_id:
            return Batch(self.position, missed="the events since then are no longer kept")
        skipped = after.id + 1 - first
        events = tuple(event for _, event in islice(self._kept, skipped, skipped + BATCH_EVENTS))
        return Batch(Position(self._epoch, after.id + len(events)), events)

    async def follow(
        self, after: Position | None = None, *, silence_s: float | None = None
    ) -> AsyncGenerator[Batch[E]]:
        """What came after that event, or from now on, then what comes; the first batch comes at once.

        `silence_s`: after so long without events there is an empty batch.
        """
        news = asyncio.Event()
        self._followers.add(news)
        try:
            batch: Batch[E] = Batch(self.position) if after is None else self.since(after)
            yield batch
            while True:
                news.clear()
                batch = self.since(batch.position)
                if not (batch.events or batch.missed):
                    if self._closed:
                        return
                    if await _heard(news, silence_s):
                        continue
                yield batch
        finally:
            self._followers.discard(news)

    def _forget_old(self) -> None:
        oldest_s = self._clock.monotonic_s() - self._keep_s
        while self._kept and self._kept[0][0] < oldest_s:
            self._kept.popleft()

    def _wake(self) -> None:
        for news in self._followers:
            news.set()


async def _heard(news: asyncio.Event, within_s: float | None) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await news.wait()
    except TimeoutError:
        return False
    return True
