"""What the server and its computing process say to each other: MessagePack in length-prefixed frames over two pipes.

torch holds the interpreter's lock for 0.6 s at a time while it is imported, and transformers for 0.1 s at a time while
it loads (measured). So they have a process of their own, and the HTTP side answers whatever the model does.
"""

from __future__ import annotations

import asyncio
import struct
from typing import BinaryIO, TypeAlias

import msgspec

from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Generation
from chorus_proto.values import ThinkingStyle

MOST_FRAME_BYTES = 64 << 20
_LENGTH = struct.Struct("<I")


class Load(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The first order: what to load. `context_tokens` is per generation; `threads` 0 leaves them to torch."""

    folder: str
    device_map: str
    dtype: str
    threads: int
    context_tokens: int


class Begin(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Start one generation. `number` is the caller's name for it, never used twice."""

    number: int
    generation: Generation
    top_k: int | None = None
    reasoning: str | None = None
    developer_instructions: str | None = None


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop one generation within a step; its `Ended` still comes."""

    number: int


Order: TypeAlias = Load | Begin | Cancel


class Loading(msgspec.Struct, frozen=True, tag=True):
    """What the load does now, in words."""

    stage: str


class Ready(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The model computes."""

    device: str
    dtype: str
    thoughts: ThinkingStyle
    """How it marks its thoughts."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The process is about to end: why, in words."""

    words: str


class Prefilled(msgspec.Struct, frozen=True, tag=True):
    """So many of the prompt's tokens are computed."""

    number: int
    tokens: int
    of_tokens: int
    opens_thought: bool = False
    """The prompt ends with `<think>`."""


class Said(msgspec.Struct, frozen=True, tag=True):
    """Text of one generation, and how many tokens made it. `logprobs` is the JSON of OpenAI's chat-shaped object."""

    number: int
    text: str
    tokens: int
    logprobs: bytes | None = None


class Ended(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The end of one generation; `finish_reason` is stop, length or cancelled. `met`: the stop string that ended it."""

    number: int
    finish_reason: str
    met: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_s: float = 0.0
    completion_s: float = 0.0


class Refused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One generation was refused or failed; the fields are those of a `ClusterError`."""

    number: int
    code: str
    message: str
    param: str | None = None


Event: TypeAlias = Loading | Ready | Failed | Prefilled | Said | Ended | Refused

_encoder = msgspec.msgpack.Encoder()
_orders = msgspec.msgpack.Decoder(Order)
_events = msgspec.msgpack.Decoder(list[Event])


def encoded(message: Order | list[Event]) -> bytes:
    """One whole frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def read_order(source: BinaryIO) -> Order | None:
    """The next order; None at the end of input. Blocks."""
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    length: int = _LENGTH.unpack(head)[0]
    body = source.read(length)
    return _orders.decode(body) if len(body) == length else None


async def read_events(source: asyncio.StreamReader) -> list[Event]:
    """The next events; none at the end of input. Raises EngineFailed for what is no frame."""
    try:
        length: int = _LENGTH.unpack(await source.readexactly(_LENGTH.size))[0]
        if length > MOST_FRAME_BYTES:
            raise EngineFailed("the computing process sent something that is no frame")
        return _events.decode(await source.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return []
    except msgspec.DecodeError as error:
        raise EngineFailed(f"the computing process sent a frame that cannot be read: {error}") from None
