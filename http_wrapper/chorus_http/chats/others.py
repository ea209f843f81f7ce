"""Several HTTP processes on one state folder: what one of them changes is told to the open tabs of the others.

The file is looked at now and then, and only while a tab is open here: no process needs to know of another. A tab hears
that its session changed, with the new revision, and reads it anew; the words of an answer come when it is complete.
"""

from __future__ import annotations

import asyncio
import logging

from chorus_http.chats.events import ChatEvents
from chorus_http.chats.store import ChatStore
from chorus_proto.errors import ClusterError

log = logging.getLogger(__name__)


class OtherProcesses:
    """Owns the task that looks, from `start` to `aclose`. `every_s` 0: it never does."""

    def __init__(self, store: ChatStore, events: ChatEvents, *, every_s: float) -> None:
        self._store = store
        self._events = events
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._every_s > 0:
            self._task = asyncio.create_task(self._run(), name="chats:others")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        seen: int | None = None
        while True:
            try:
                if seen is None:
                    seen = await self._store.last_change()
                elif self._events.watched:
                    seen = await self.told(seen)
            except ClusterError as error:
                log.warning("changes of other processes to the chats are not told: %s", error.message)
            await asyncio.sleep(self._every_s)

    async def told(self, after: int) -> int:
        """Tell what others changed since that change; the number of the last one. Raises what the store raises."""
        changes = await self._store.changes_of_others(after)
        for session in changes.changed:
            self._events.tell_changed(session)
        for owner, session_id in changes.deleted:
            self._events.tell_deleted(owner, session_id)
        return changes.last
