"""Answers of the Responses API that their callers may fetch later, or go on from; and those that run with nobody there.

They are kept in this process's memory, the last used ones up to a limit: another process, or the next start, does not
know them, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from chorus_http.sse import GRACE_S, named_event
from chorus_proto.cluster import Call, CallFinished, CallOutput, Cluster
from chorus_proto.dialects.responses_answer import Shell, last_response
from chorus_proto.dialects.responses_input import read_items
from chorus_proto.dialects.strict_json import load_object
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

_NUMBER = re.compile(rb'"sequence_number":(\d+)')
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Told:
    """Some events of a stream."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ended(Told):
    """Nothing follows."""


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
        self._changed = asyncio.Event()

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
        number = _last_number(self._events) + 1
        event = {"type": "response.failed", "sequence_number": number, "response": msgspec.Raw(self._body)}
        self._events.append(named_event("response.failed", _encode(event)))
        self._over = True
        self._tell()

    async def cancel(self) -> bytes:
        """The response object after that; one that is over stays as it is. Raises InvalidRequest."""
        if not self.background:
            raise InvalidRequest("Only a response with 'background': true can be cancelled.", param="response_id")
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

    def conversation(self) -> tuple[Message, ...]:
        """The turns up to and with this answer. Raises InvalidRequest while it runs or when it came to nothing."""
        response = load_object(self.body)
        if response["status"] not in ("completed", "incomplete"):
            raise InvalidRequest(
                f"The response of 'previous_response_id' is {response['status']}.", param="previous_response_id"
            )
        output = response["output"]
        return (*self._turns, *(read_items(output, "output") if output else ()))

    async def follow(self, *, after: int) -> AsyncGenerator[Told, None]:
        """Its events behind the one with this number, as they come."""
        place = 0
        while True:
            self._changed.clear()
            payload = b"".join(_behind(chunk, after) for chunk in self._events[place:])
            place = len(self._events)
            if self._over:
                yield Ended(payload)
                return
            if payload:
                yield Told(payload)
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()


class KeptResponses:
    """Owns the runs in the background; close it with `aclose`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()

    def add(self, response_id: str, kept: KeptResponse) -> None:
        self._kept[response_id] = kept
        self._make_room()

    def find(self, response_id: str, user: str, *, param: str = "response_id") -> KeptResponse:
        """Raises NotFound; who asks for somebody else's hears the same as for one that never was."""
        kept = self._kept.get(response_id)
        if kept is None or kept.user != user:
            raise NotFound(f"The response '{response_id[:128]}' is not kept here, or no longer.", param=param)
        self._kept.move_to_end(response_id)
        return kept

    async def remove(self, response_id: str, user: str) -> None:
        """Raises NotFound."""
        kept = self.find(response_id, user)
        if kept.background:
            await kept.cancel()
        self._kept.pop(response_id, None)

    def run(self, kept: KeptResponse, call: Call) -> None:
        """Begin to answer with nobody waiting."""
        kept.task = asyncio.create_task(self._run(kept, call), name=f"background:{call.request_id}")

    async def _run(self, kept: KeptResponse, call: Call) -> None:
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


def _behind(events: bytes, after: int) -> bytes:
    if after < 0:
        return events
    kept = [one for one in events.split(b"\n\n") if (found := _NUMBER.search(one)) and int(found[1]) > after]
    return b"".join(one + b"\n\n" for one in kept)


def _last_number(events: list[bytes]) -> int:
    return max((int(found) for chunk in events[-1:] for found in _NUMBER.findall(chunk)), default=-1)
