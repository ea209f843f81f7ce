"""This process's copy of the coordinator's events, for any number of browsers.

The coordinator is watched only while somebody follows, and a while longer, for who lost the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from chorus_http.live.shown import LiveEvent, shown
from chorus_proto.backoff import delay_s
from chorus_proto.clock import Clock
from chorus_proto.cluster import Cluster
from chorus_proto.errors import ClusterError, CoordinatorUnavailable
from chorus_proto.event_log import Batch, EventLog, Position
from chorus_proto.happenings import HubEvent

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.25
LAST_RETRY_S = 5.0
NOWHERE = Position(0, 0)


class LiveFeed:
    """Owned by one app; `aclose` at its end."""

    def __init__(self, cluster: Cluster, clock: Clock, *, keep_s: float, keep_events: int, within_s: float) -> None:
        """`within_s`: how long the coordinator may take to say where it stands."""
        self._cluster = cluster
        self._keep_s = keep_s
        self._within_s = within_s
        self._log: EventLog[LiveEvent] = EventLog(clock, epoch=0, keep_s=keep_s, keep_events=keep_events)
        self._stands = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._enough: asyncio.TimerHandle | None = None
        self._followers = 0

    async def follow(
        self, after: Position | None = None, *, silence_s: float | None = None
    ) -> AsyncGenerator[Batch[LiveEvent]]:
        """As `EventLog.follow`. Raises CoordinatorUnavailable when the coordinator does not say where it stands."""
        self._followers += 1
        try:
            self._watch(after)
            try:
                async with asyncio.timeout(self._within_s):
                    await self._stands.wait()
            except TimeoutError:
                raise CoordinatorUnavailable("The coordinator tells no events now.", retry_after_s=2) from None
            async with aclosing(self._log.follow(after, silence_s=silence_s)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._followers -= 1
            if not self._followers and self._watching is not None:
                self._enough = asyncio.get_running_loop().call_later(self._keep_s, self._stop)

    def close(self) -> None:
        """End every follower."""
        self._log.close()

    async def aclose(self) -> None:
        self.close()
        if self._enough is not None:
            self._enough.cancel()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    @property
    def is_watching(self) -> bool:
        """Whether the coordinator is asked for its events now."""
        return self._watching is not None

    def _watch(self, after: Position | None) -> None:
        if self._enough is not None:
            self._enough.cancel()
            self._enough = None
        if self._watching is None:
            # What this process has never seen, the coordinator may still have.
            self._log.restart(after or NOWHERE)
            self._watching = asyncio.create_task(self._run(after), name="live-feed")

    def _stop(self) -> None:
        self._enough = None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
            self._stands.clear()

    async def _run(self, after: Position | None) -> None:
        failures = 0
        while True:
            try:
                async with aclosing(self._cluster.watch(after)) as batches:
                    async for batch in batches:
                        self._take(batch)
                        after, failures = batch.position, 0
            except ClusterError as error:
                log.info("the coordinator tells no events: %s", error.message)
            except Exception:
                # The supervisor of the feed: one event that cannot be shown must not end it for everybody.
                log.exception("an event could not be taken")
            await asyncio.sleep(delay_s(failures, first_s=FIRST_RETRY_S, last_s=LAST_RETRY_S))
            failures += 1

    def _take(self, batch: Batch[HubEvent]) -> None:
        position = batch.position
        before = Position(position.epoch, position.id - len(batch.events))
        if self._log.position != before:
            self._log.restart(before)
        for event in batch.events:
            self._log.add(shown(event, position.epoch))
        self._stands.set()
