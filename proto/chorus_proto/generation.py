"""What an engine is asked to do, free of any caller's dialect; crosses the wire as JSON inside an opaque field.

A field added later has a default, and readers ignore fields they do not know, so old and new processes understand each
other (`proto/README.md`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import TypeAlias

import msgspec


class Channel(StrEnum):
    """gpt-oss's names; the thought of a `<think>` model is ANALYSIS and all else it writes is FINAL."""

    ANALYSIS = "analysis"
    COMMENTARY = "commentary"
    FINAL = "final"


class Effort(StrEnum):
    """How long a model that thinks is to think. MEDIUM is gpt-oss's default."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class ThoughtField(StrEnum):
    """Under which name an answer of OpenAI's chat shows a thought. Clients read one or the other; some show both."""

    BOTH = "both"
    REASONING_CONTENT = "reasoning_content"
    """llama.cpp's and vLLM's."""
    REASONING = "reasoning"
    """Ollama's and OpenRouter's."""
    NONE = "none"
    """Thoughts are not shown."""


class VectorForm(StrEnum):
    """How a vector is written down: as JSON numbers, or as the base64 of 32-bit floats, least byte first."""

    FLOATS = "floats"
    BASE64 = "base64"


class FunctionCall(msgspec.Struct, frozen=True):
    """`arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model made in an earlier turn, in OpenAI's shape."""

    id: str
    function: FunctionCall
    type: str = "function"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation. `role` is system, user, assistant or tool."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """Of a tool's answer: the call that it answers."""


class Generation(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One generation: either `messages` (chat) or `prompt` (raw completion). None leaves the engine's own default.

    With `inputs` it is no text that is generated, but a vector for each of them.
    """

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
    separate_thinking: bool = False
    """Tell thoughts from the answer; False gives the text as the model wrote it."""
    include_channels: tuple[Channel, ...] | None = None
    """The channels to show under keys of their own; None: nobody asked for them by name."""
    thought_field: ThoughtField = ThoughtField.BOTH
    reasoning_effort: Effort | None = None
    tools: str | None = None
    """OpenAI's `tools` array as JSON text, already checked."""
    tool_choice: str | None = None
    """OpenAI's `tool_choice` as JSON text."""
    parallel_tool_calls: bool | None = None
    suffix: str | None = None
    """With `prompt`: the text that follows what is to be written (fill in the middle)."""
    echo: bool = False
    """With `prompt`: the answer's text begins with it."""
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    inputs: tuple[str, ...] | None = None
    ranks: bool = False
    """`inputs` are a query and documents. A model that ranks answers with `null` and a number for each document, others
    with vectors, to be compared."""
    vectors: VectorForm = VectorForm.FLOATS
    dimensions: int | None = None
    """Numbers in each vector; None: as many as the model makes."""
    cuts_inputs: bool = False
    """An input that does not fit is cut at its end; False: it is refused."""
    choice: int = 0
    """Which of the caller's `choices` this is."""
    choices: int = 1
    """Above 1: the others run beside this one, and who joins them writes usage and end."""
    answer_id: str | None = None
    """What the answer is called instead of the request's id."""
    answer_head: str | None = None
    """Members of the answer's object that the caller's API repeats from the request, as the JSON text of an object."""

    def encoded(self) -> bytes:
        return _encoder.encode(self)

    @staticmethod
    def decoded(raw: bytes) -> Generation:
        """Raises msgspec.DecodeError when `raw` is not a generation."""
        return _decoder.decode(raw)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Generation)


class ToolCallPart(msgspec.Struct, frozen=True):
    """A piece of the call number `index`. Id and name come with its first piece; the arguments' texts are joined."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True):
    """Text that an engine produced since the last delta. `logprobs` is OpenAI's `logprobs` object as JSON."""

    text: str
    tokens: int = 1
    logprobs: bytes | None = None
    channel: Channel = Channel.FINAL
    tool_calls: tuple[ToolCallPart, ...] = ()


class ChannelTokens(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens of an answer each channel got; markers between them are in none."""

    analysis: int = 0
    commentary: int = 0
    final: int = 0

    @property
    def thinking(self) -> int:
        return self.analysis + self.commentary


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a generation, with the engine's own counts and rates (None where it does not tell)."""

    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    channel_tokens: ChannelTokens | None = None
    """None where thoughts were not told apart."""
    stop_sequence: str | None = None
    """Which of the caller's ended the answer; None: none did, or the engine does not tell."""


class Prefilled(msgspec.Struct, frozen=True):
    """So many of the prompt's tokens are computed: a sign of life before the first token."""

    tokens: int
    of_tokens: int


Piece: TypeAlias = Prefilled | Delta | Done
"""What a running engine tells: any number of `Prefilled`, any number of `Delta`, then one `Done`."""

PieceBatches: TypeAlias = AsyncGenerator[list[Piece], None]
"""The same as they come: those that came together, at least one, are one list. The agent's work for each token is less
than what passing one on by itself costs."""
