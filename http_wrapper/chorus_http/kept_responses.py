"""Answers of the Responses API that their callers may fetch later, or go on from; and those that run with nobody there.

While one runs it is in this process's memory, and then in the store (`response_store`). Without a store, the last used
ones stay in memory, up to a limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from chorus_http.response_store import ResponseStore
from chorus_http.sse import GRACE_S, named_event
from chorus_http.stored_responses import (
    Ended,
    StoredResponse,
    Told,
    conversation_of,
    events_behind,
    last_number,
    must_be_background,
)
from chorus_proto.cluster import Call, CallFinished, CallOutput, Cluster
from chorus_proto.dialects.responses_answer import Shell, last_response
from chorus_proto.errors import (
    ClusterError,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    NotFound,
)
from chorus_proto.generation import Message

log = logging.getLogger(__name__)

MOST_RESPONSES = 1000
MOST_BYTES = 128 << 20
"""Of all together."""
MOST_RESPONSE_BYTES = 16 << 20

_encode = msgspec.json.Encoder().encode


class KeptResponse:
    """One of them. `turns` is the conversation that it answers, without instructions."""

    def __init__(self, shell: Shell, *, user: str, turns: tuple[Message, ...], background: bool) -> None:
        self.user = user
        self.background = background
        self.task: asyncio.Task[None] | None = None
        self.size_bytes = sum(len(turn.content) for turn in turns)
        self._shell = shell
        self._turns = turns
        self._events: list[bytes] = []
        self._body = b""
        self._over = False
        self._followers: set[asyncio.Event] = set()

    def hear(self, events: bytes) -> None:
        """What a stream tells."""
        self._events.append(events)
        self.size_bytes += len(events)
        if self.size_bytes > MOST_RESPONSE_BYTES and not self.background:
            self._events.clear()
        self._tell()

    def hear_whole(self, body: bytes) -> None:
        """The answer that was not streamed."""
        self._body = body
        self._over = True
        self.size_bytes += len(body)

    def settle(self) -> None:
        """The stream is over: keep the response and, unless somebody may want to follow it again, drop its events."""
        if self._over or self._has_ended():
            return
        # It broke off, and its caller was told so.
        self._end(_encode(self._shell.with_output([], status="incomplete")))

    def _has_ended(self) -> bool:
        """Takes the response out of the last event, when that has come."""
        try:
            body = last_response(b"".join(self._events))
        except msgspec.DecodeError:
            return False
        self._end(body)
        return True

    def _end(self, body: bytes) -> None:
        self._body, self._over = body, True
        if not self.background:
            self._events.clear()
        self.size_bytes = sum(map(len, self._events)) + len(self._body) + sum(len(turn.content) for turn in self._turns)
        self._tell()

    def fail(self, error: ClusterError) -> None:
        told = self._shell.with_output([], status="failed")
        told["error"] = {"code": "server_error", "message": error.message}
        self._body = _encode(told)
        number = last_number(self._events) + 1
        event = {"type": "response.failed", "sequence_number": number, "response": msgspec.Raw(self._body)}
        self._events.append(named_event("response.failed", _encode(event)))
        self._over = True
        self._tell()

    async def cancel(self) -> bytes:
        """The response object after that; one that is over stays as it is. Raises InvalidRequest."""
        must_be_background(self.background)
        if not self._over:
            self._body = _encode(self._shell.with_output([], status="cancelled"))
            self._over = True
            self._tell()
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        return self._body

    @property
    def body(self) -> bytes:
        """The response object as it is now. A client may ask before the stream that it read to its end is closed."""
        return (
            self._body
            if self._over or (not self.background and self._has_ended())
            else _encode(self._shell.with_output([], status="in_progress"))
        )

    @property
    def over(self) -> bool:
        return self._over

    def stored(self, response_id: str) -> StoredResponse:
        """As it is now."""
        return StoredResponse(
            response_id=response_id,
            user=self.user,
            background=self.background,
            turns=self._turns,
            body=self.body,
            events=b"".join(self._events) if self.background else b"",
        )

    def conversation(self) -> tuple[Message, ...]:
        """See `conversation_of`."""
        return conversation_of(self._turns, self.body)

    async def follow(self, *, after: int) -> AsyncGenerator[Told, None]:
        """Its events behind the one with this number, as they come."""
        place = 0
        news = asyncio.Event()  # its own: who clears a common one takes the news from those who have not heard it yet
        self._followers.add(news)
        try:
            while True:
                news.clear()
                payload = b"".join(events_behind(chunk, after) for chunk in self._events[place:])
                place = len(self._events)
                if self._over:
                    yield Ended(payload)
                    return
                if payload:
                    yield Told(payload)
                await news.wait()
        finally:
            self._followers.discard(news)

    def _tell(self) -> None:
        for news in self._followers:
            news.set()


class KeptResponses:
    """Owns the runs in the background; close it with `aclose`."""

    def __init__(self, cluster: Cluster, store: ResponseStore | None) -> None:
        self._cluster = cluster
        self._store = store
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()

    def add(self, response_id: str, kept: KeptResponse) -> None:
        self._kept[response_id] = kept
        self._make_room()

    async def find(self, response_id: str, user: str, *, param: str = "response_id") -> KeptResponse | StoredResponse:
        """Raises NotFound; who asks for somebody else's hears the same as for one that never was."""
        kept = self._kept.get(response_id)
        if kept is not None and kept.user == user:
            self._kept.move_to_end(response_id)
            return kept
        stored = None if self._store is None else await self._store.find(response_id, user)
        if stored is None:
            raise NotFound(f"The response '{response_id[:128]}' is not kept here, or no longer.", param=param)
        return stored

    async def remove(self, response_id: str, user: str) -> None:
        """Raises NotFound."""
        kept = await self.find(response_id, user)
        if kept.background:
            await kept.cancel()
        self._kept.pop(response_id, None)
        if self._store is not None:
            await self._store.delete(response_id, user)

    async def settle(self, response_id: str, kept: KeptResponse) -> None:
        """Its caller has been answered, or has left."""
        kept.settle()
        await self._save(response_id, kept)

    async def run(self, response_id: str, kept: KeptResponse, call: Call) -> None:
        """Begin to answer with nobody waiting. Raises what `ResponseStore.save` raises, and then nothing runs."""
        if self._store is not None:
            await self._store.save(kept.stored(response_id), over=False)
        self.add(response_id, kept)
        kept.task = asyncio.create_task(self._run(response_id, kept, call), name=f"background:{call.request_id}")

    async def _save(self, response_id: str, kept: KeptResponse) -> None:
        """Hand it over to the store. One that cannot be written down stays in memory."""
        if self._store is None or not kept.over or self._kept.get(response_id) is not kept:
            return
        try:
            await self._store.save(kept.stored(response_id), over=True)
        except ClusterError as error:
            log.warning("response %s is kept in memory only: %s", response_id, error.message)
        else:
            self._kept.pop(response_id, None)

    async def _run(self, response_id: str, kept: KeptResponse, call: Call) -> None:
        try:
            async with asyncio.timeout(call.within_s + GRACE_S), aclosing(self._cluster.submit(call)) as events:
                async for event in events:
                    if isinstance(event, CallOutput | CallFinished) and event.payload:
                        kept.hear(event.payload)
                    if kept.size_bytes > MOST_RESPONSE_BYTES:
                        raise InvalidRequest("The answer is too long to be kept; stream it without 'background'.")
            kept.settle()
        except ClusterError as error:
            log.info("request %s failed in the background: %s: %s", call.request_id, error.code, error.message)
            kept.fail(error)
        except TimeoutError:
            kept.fail(DeadlineExceeded("The request's time is up."))
        except Exception:
            # The edge of one run: nobody awaits it, and whoever asks for it must not hear that it goes on.
            log.exception("request %s broke in the background", call.request_id)
            kept.fail(InternalError(f"Internal error. The log has the details under request {call.request_id}."))
        finally:
            await self._save(response_id, kept)
            self._make_room()

    def _make_room(self) -> None:
        total_bytes = sum(kept.size_bytes for kept in self._kept.values())
        for response_id, kept in list(self._kept.items()):
            if len(self._kept) <= MOST_RESPONSES and total_bytes <= MOST_BYTES:
                return
            if kept.task is None or kept.task.done():
                total_bytes -= kept.size_bytes
                del self._kept[response_id]

    async def aclose(self) -> None:
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
