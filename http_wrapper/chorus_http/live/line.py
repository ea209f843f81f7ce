"""One socket: who is at its other end, how fast they may speak, and what runs for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

from chorus_http.gate import Visitor
from chorus_http.live.mail import Mail
from chorus_http.live.wire import event_text
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, InternalError, QueueFull, SlowConsumer

log = logging.getLogger(__name__)

TOPICS_LIMIT = 64
"""Things that one socket may watch or have generated at the same time."""
REFUSAL_EVERY_S = 0.5

Send = Callable[[str], Awaitable[None]]


def nothing() -> None:
    """No connection is held."""


class Line:
    """Lives as long as the connection of Engine.IO; `sid` and `visitor` are there while it is connected."""

    def __init__(
        self,
        eio_sid: str,
        address: str,
        mail: Mail,
        send: Send,
        clock: Clock,
        *,
        events_per_s: int,
        stall_within_s: float,
        end: Callable[[Line, ClusterError], None],
    ) -> None:
        """`end` closes the socket, with a word why."""
        self.eio_sid = eio_sid
        self.address = address
        self.sid = ""
        self.visitor: Visitor | None = None
        self.is_known = False
        """Whether it was ever said who this is."""
        self.is_ending = False
        self.undo: Callable[[], None] | None = None
        """Takes back the watch on the visitor's key."""
        self._mail = mail
        self.send = send
        self.abort: Callable[[], None] = nothing
        """Cuts the WebSocket; there is nothing to cut between two polls."""
        self._clock = clock
        self._events_per_s = events_per_s
        self._stall_within_s = stall_within_s
        self._end = end
        self._tokens = float(events_per_s)
        self._tokens_at_s = clock.monotonic_s()
        self._refused_at_s: float | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # What comes ---------------------------------------------------------------------------------------------------

    def may_speak(self) -> bool:
        """Whether one more message is within the rate."""
        now_s = self._clock.monotonic_s()
        self._tokens = min(self._events_per_s, self._tokens + (now_s - self._tokens_at_s) * self._events_per_s)
        self._tokens_at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def may_be_told_off(self) -> bool:
        """Whether a flood gets one more word: it must not be answered by another."""
        now_s = self._clock.monotonic_s()
        if self._refused_at_s is not None and now_s - self._refused_at_s < REFUSAL_EVERY_S:
            return False
        self._refused_at_s = now_s
        return True

    # What goes ----------------------------------------------------------------------------------------------------

    async def tell(self, event: str, payload: bytes) -> None:
        """Send one event, whose argument is this JSON, once the client has read enough. Raises SlowConsumer."""
        try:
            async with asyncio.timeout(self._stall_within_s):
                await self._mail.room()
        except TimeoutError:
            raise SlowConsumer(f"This socket read nothing for {self._stall_within_s:g} s.") from None
        await self.send(event_text(event, payload))

    def wake(self) -> None:
        """Answer the poll that waits for something to tell: the library leaves it when its client says goodbye."""
        self._mail.put_nowait(None)

    # What runs ----------------------------------------------------------------------------------------------------

    def is_busy_with(self, topic: str) -> bool:
        return topic in self._tasks

    def check_room(self, topic: str) -> None:
        """Whether one more thing may be followed. Raises QueueFull."""
        if len(self._tasks) >= TOPICS_LIMIT and topic not in self._tasks:
            raise QueueFull(f"This socket follows {TOPICS_LIMIT} things already.")

    def start(self, topic: str, work: Coroutine[None, None, None]) -> None:
        """Run something that tells this socket of `topic`, instead of what did so before. Raises QueueFull."""
        before = self._tasks.pop(topic, None)
        if before is not None:
            before.cancel()
        try:
            self.check_room(topic)
        except QueueFull:
            work.close()
            raise
        task = asyncio.create_task(self._guarded(topic, work), name=f"live:{topic}")
        self._tasks[topic] = task
        task.add_done_callback(lambda done: self._forget(topic, done, work))

    def stop(self, topic: str) -> bool:
        """False when nothing ran."""
        task = self._tasks.get(topic)
        if task is not None:
            task.cancel()
        return task is not None

    async def stop_all(self) -> None:
        """Nobody is at the other end any more: what worked for them is freed."""
        # What has just been started takes its first step, and so gives back what it holds when it is cancelled.
        await asyncio.sleep(0)
        own = asyncio.current_task()
        tasks = [task for task in self._tasks.values() if task is not own]
        for task in tasks:
            task.cancel()
        if own is not None and own in self._tasks.values():
            # It found the client gone while telling it something, and the library has to finish its closing first.
            asyncio.get_running_loop().call_soon(own.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.undo is not None:
            self.undo()
            self.undo = None
        self.visitor, self.sid = None, ""

    def _forget(self, topic: str, done: asyncio.Task[None], work: Coroutine[None, None, None]) -> None:
        work.close()  # a task that was cancelled before its first step never began it
        if self._tasks.get(topic) is done:
            del self._tasks[topic]

    async def _guarded(self, topic: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except ClusterError as error:
            self._end(self, error)
        except Exception:
            # The edge: a bug in what tells one socket must be heard of, and end that socket alone.
            log.exception("telling a socket of %s broke", topic)
            self._end(self, InternalError("Internal error."))
