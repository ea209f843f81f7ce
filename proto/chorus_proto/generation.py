"""What an engine is asked to do, free of any caller's dialect; crosses the wire as JSON inside an opaque field.

A field added later has a default, and readers ignore fields they do not know, so old and new processes understand each
other (`proto/README.md`).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation. `role` is system, user, assistant or tool."""

    role: str
    content: str
    name: str | None = None


class Generation(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One generation: either `messages` (chat) or `prompt` (raw completion). None leaves the engine's own default."""

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None
    """None: no log-probabilities; n: with the n best alternatives of each token."""
    response_format: str | None = None
    """OpenAI's response_format object as JSON text, already checked."""
    include_usage: bool = False
    """Streaming only: send a closing chunk with the usage."""
    ignore_end: bool = False
    """Go on past the model's end token until `max_tokens`; for load tests."""

    def encoded(self) -> bytes:
        return _encoder.encode(self)

    @staticmethod
    def decoded(raw: bytes) -> Generation:
        """Raises msgspec.DecodeError when `raw` is not a generation."""
        return _decoder.decode(raw)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Generation)


class Delta(msgspec.Struct, frozen=True):
    """Text that an engine produced since the last delta. `logprobs` is OpenAI's `logprobs` object as JSON."""

    text: str
    tokens: int = 1
    logprobs: bytes | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a generation, with the engine's own counts and rates (None where it does not tell)."""

    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None


class Prefilled(msgspec.Struct, frozen=True):
    """So many of the prompt's tokens are computed: a sign of life before the first token."""

    tokens: int
    of_tokens: int


Piece: TypeAlias = Prefilled | Delta | Done
"""What a running engine yields: any number of `Prefilled`, any number of `Delta`, then one `Done`."""
