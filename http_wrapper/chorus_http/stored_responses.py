"""Answers of the Responses API that are over: shown, followed once more, and gone on from."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec

from chorus_proto.dialects.responses_input import read_items
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Message

_NUMBER = re.compile(rb'"sequence_number":(\d+)')


@dataclass(frozen=True, slots=True)
class Told:
    """Some events of a stream."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ended(Told):
    """Nothing follows."""


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. `turns` is the conversation that it answers, `events` what a background one told on its way."""

    response_id: str
    user: str
    background: bool
    turns: tuple[Message, ...]
    body: bytes
    events: bytes = b""

    @property
    def size_bytes(self) -> int:
        return len(self.body) + len(self.events) + sum(len(turn.content) for turn in self.turns)

    def conversation(self) -> tuple[Message, ...]:
        """See `conversation_of`."""
        return conversation_of(self.turns, self.body)

    async def follow(self, *, after: int) -> AsyncGenerator[Told, None]:
        """Its events behind the one with this number."""
        yield Ended(events_behind(self.events, after))

    async def cancel(self) -> bytes:
        """The response object, which stays as it is. Raises InvalidRequest."""
        must_be_background(self.background)
        return self.body


def must_be_background(background: bool) -> None:
    """Raises InvalidRequest."""
    if not background:
        raise InvalidRequest("Only a response with 'background': true can be cancelled.", param="response_id")


def conversation_of(turns: tuple[Message, ...], body: bytes) -> tuple[Message, ...]:
    """The turns up to and with this answer. Raises InvalidRequest while it runs or when it came to nothing."""
    response = load_object(body)
    if response["status"] not in ("completed", "incomplete"):
        raise InvalidRequest(
            f"The response of 'previous_response_id' is {response['status']}.", param="previous_response_id"
        )
    output = response["output"]
    return (*turns, *(read_items(output, "output") if output else ()))


def events_behind(events: bytes, after: int) -> bytes:
    if after < 0:
        return events
    kept = [one for one in events.split(b"\n\n") if (found := _NUMBER.search(one)) and int(found[1]) > after]
    return b"".join(one + b"\n\n" for one in kept)


def last_number(events: list[bytes]) -> int:
    """Of the last event; -1 when there is none."""
    return max((int(found) for chunk in events[-1:] for found in _NUMBER.findall(chunk)), default=-1)


def broken_off(body: bytes) -> bytes:
    """The response object of one that ran in the background when its process ended."""
    told = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    error = {"code": "server_error", "message": "Chorus was stopped while this response was being made; ask again."}
    return msgspec.json.encode(told | {"status": "failed", "error": error})
