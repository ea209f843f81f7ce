"""Generations over sockets: one socket begins it and pays for it, others of the same user may look on.

A socket that goes away ends what it began, and the slot on the node is free. Who looks on reads from what was said so
far, so it holds back nobody.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace

from chorus_http.calls import call_of
from chorus_http.exchange import Exchange
from chorus_http.live.line import Line
from chorus_http.live.wire import error_shown
from chorus_http.replies import encoded
from chorus_http.routes.execute import parsed_task
from chorus_http.settings import HttpSettings
from chorus_http.sse import GRACE_S
from chorus_http.state import StateReader
from chorus_http.tasks import TaskRun
from chorus_http.wishes import Wishes
from chorus_proto.clock import Clock
from chorus_proto.cluster import Call, CallEvent, CallFinished, CallWaiting, Cluster
from chorus_proto.dialects.strict_json import JsonObject
from chorus_proto.errors import Cancelled, ClusterError, DeadlineExceeded, InternalError, InvalidRequest, NotFound
from chorus_proto.event_log import Batch, EventLog, Position

KEPT_EVENTS = 256
"""Who looks on and is further behind is told the whole text again."""

ENDS = ("finished", "failed")

Shown = tuple[str, object]


@dataclass(frozen=True, slots=True)
class StreamEvent:
    id: int
    payload: bytes


class _Stream:
    """One generation that runs."""

    def __init__(self, stream_id: str, user: str, line: Line, call: Call, clock: Clock) -> None:
        self.id = stream_id
        self.user = user
        self.line = line
        self.call = call
        self.run = TaskRun(call)
        self.log: EventLog[StreamEvent] = EventLog(clock, epoch=0, keep_s=math.inf, keep_events=KEPT_EVENTS)
        self.state = "waiting"
        self.work: asyncio.Task[None] | None = None

    def payload(self, seq: int, kind: str, body: object) -> bytes:
        return encoded({"id": self.id, "seq": seq, "kind": kind, "body": body})

    def note(self, kind: str, body: object) -> bytes:
        """Tell those who look on; what to tell who began it is returned."""
        self.state = kind
        seq = self.log.position.id + 1
        payload = self.payload(seq, kind, body)
        self.log.add(StreamEvent(seq, payload))
        return payload

    async def tell(self, kind: str, body: object) -> None:
        """To those who look on, and to who began it, however long that takes."""
        await self.line.tell("stream", self.note(kind, body))


class Streams:
    """The generations of all sockets of one app."""

    def __init__(self, cluster: Cluster, states: StateReader, settings: HttpSettings, clock: Clock) -> None:
        self._cluster = cluster
        self._states = states
        self._settings = settings
        self._clock = clock
        self._running: dict[tuple[str, str], _Stream] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    async def begin(self, line: Line, exchange: Exchange, stream_id: str, body: JsonObject) -> str:
        """Raises InvalidRequest and the like for what cannot be asked, and for an id that is in use."""
        parsed = await parsed_task(encoded({**body, "stream": True}), self._states)
        call = call_of(parsed, exchange, longest_s=self._settings.request_within_s, wished=Wishes())
        call = replace(call, standing_every_s=self._settings.ping_every_s)
        key = (exchange.user, stream_id)
        if key in self._running:
            raise InvalidRequest(f"A generation with the id '{stream_id}' runs already.", param="id")
        stream = _Stream(stream_id, exchange.user, line, call, self._clock)
        # What the gate counts for it ends with the generation, not with the event that began it.
        line.start(f"generate:{stream_id}", self._run(stream, exchange.closing.pop_all()))
        self._running[key] = stream
        return stream_id

    def cancel(self, user: str, stream_id: str) -> bool:
        """False when there is none, or none any more."""
        stream = self._running.get((user, stream_id))
        if stream is None or stream.work is None:
            return False
        return stream.work.cancel()

    def watch(self, line: Line, user: str, stream_id: str) -> dict[str, object]:
        """Look on from now on; what was said so far is returned. Raises NotFound."""
        stream = self._running.get((user, stream_id))
        if stream is None:
            raise NotFound(f"No generation with the id '{stream_id}' runs.", param="id")
        if stream.line is line:
            raise InvalidRequest("This socket began that generation and hears of it.", param="id")
        after = stream.log.position
        line.start(f"stream:{stream_id}", _look_on(line, stream, after))
        return {"text": stream.run.text, "seq": after.id, "state": stream.state}

    async def _run(self, stream: _Stream, closing: AsyncExitStack) -> None:
        try:
            async with closing:
                stream.work = asyncio.create_task(self._generate(stream), name=f"generate:{stream.id}")
                try:
                    await asyncio.wait([stream.work])
                finally:
                    stream.work.cancel()
                    await asyncio.wait([stream.work])
            if stream.work.cancelled():
                await stream.tell("failed", error_shown(Cancelled("The generation was cancelled.")))
            else:
                stream.work.result()
        finally:
            if stream.state not in ENDS:
                stream.note("failed", error_shown(Cancelled("The socket that began it has gone.")))
            stream.log.close()
            self._running.pop((stream.user, stream.id), None)

    async def _generate(self, stream: _Stream) -> None:
        complete = False
        try:
            async with (
                asyncio.timeout(stream.call.within_s + GRACE_S),
                aclosing(self._cluster.submit(stream.call)) as events,
            ):
                async for event in events:
                    complete = isinstance(event, CallFinished)
                    for kind, body in _told(stream.run, event):
                        await stream.tell(kind, body)
            if not complete:
                raise InternalError("The answer ended without its closing event.")
        except ClusterError as error:
            await stream.tell("failed", error_shown(error))
        except TimeoutError:
            await stream.tell("failed", error_shown(DeadlineExceeded("The request's time is up.")))


def _told(run: TaskRun, event: CallEvent) -> list[Shown]:
    if isinstance(event, CallWaiting):
        standing = event.standing
        body: dict[str, object] = {"position": standing.position, "of": standing.of}
        return [("waiting", {**body, "expected_wait_s": standing.expected_wait_s, "going_on": standing.going_on})]
    return run.told(event)


async def _look_on(line: Line, stream: _Stream, after: Position) -> None:
    async with aclosing(stream.log.follow(after)) as batches:
        async for batch in batches:
            await _tell_looker(line, stream, batch)


async def _tell_looker(line: Line, stream: _Stream, batch: Batch[StreamEvent]) -> None:
    if batch.missed:
        await line.tell("stream", stream.payload(batch.position.id, "text", {"text": stream.run.text}))
    for event in batch.events:
        await line.tell("stream", event.payload)
