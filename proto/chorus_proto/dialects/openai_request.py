"""What callers of OpenAI's chat and completion APIs may ask, checked field by field and freed of the dialect.

The wrapper runs this before anything waits in a queue. A field is honoured, or accepted because it has no effect on
the answer here (`store`, `service_tier`, ...), or refused by name: nothing that would change the answer is dropped
silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from chorus_proto.dialects.fields import (
    ModelText,
    Penalty,
    Refused,
    Temperature,
    TokenLimit,
    TopP,
    Unchecked,
    as_object,
    read_fields,
)
from chorus_proto.dialects.openai_messages import read_messages
from chorus_proto.dialects.response_format import read_response_format
from chorus_proto.dialects.strict_json import JsonObject, JsonValue, load_object
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName
from chorus_proto.values import Dialect, RoutingStrategy

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1024
MAX_BIASED_TOKENS = 300
COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for /v1/completions."""

_NONE_YET = "Tool calls cannot be honoured yet."
_ONE_ANSWER = Refused(harmless=(None, 1), fix="Ask once for each answer.")
_REFUSED_CHAT = {
    "n": _ONE_ANSWER,
    "tools": Refused(harmless=(None, []), fix=_NONE_YET),
    "tool_choice": Refused(harmless=(None, "none", "auto"), fix=_NONE_YET),
    "functions": Refused(harmless=(None, []), fix=_NONE_YET),
    "function_call": Refused(harmless=(None, "none", "auto"), fix=_NONE_YET),
    "audio": Refused(harmless=(None,), fix="Only text can be honoured."),
    "modalities": Refused(harmless=(None, [], ["text"]), fix="Only text can be honoured."),
    "prediction": Refused(harmless=(None,)),
    "web_search_options": Refused(harmless=(None,)),
    "reasoning_effort": Refused(harmless=(None, "none")),
}
_REFUSED_COMPLETION = {
    "n": _ONE_ANSWER,
    "best_of": Refused(harmless=(None, 1), fix="Ask once for each answer."),
    "echo": Refused(harmless=(None, False)),
    "suffix": Refused(harmless=(None, "")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """One checked request. `prompt_tokens_estimate` is the prompt's bytes / 3; the node counts exactly."""

    dialect: Dialect
    model: ModelName
    stream: bool
    generation: Generation
    prompt_tokens_estimate: int
    affinity: str | None = None
    max_tokens: int | None = None
    node: str | None = None
    strategy: RoutingStrategy | None = None
    queue_within_s: float | None = None
    within_s: float | None = None


class _ChorusFields(msgspec.Struct):
    """`x_chorus`: what only Chorus understands."""

    node: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    strategy: RoutingStrategy | None = None
    queue_within_s: Annotated[float, msgspec.Meta(ge=0, le=600)] | None = None
    within_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    ignore_end: bool | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Sampling(msgspec.Struct, kw_only=True):
    """The fields that both APIs share."""

    model: ModelText
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Unchecked = None
    seed: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: Unchecked = None
    user: str | None = None
    x_chorus: Unchecked = None


class _Chat(_Sampling, kw_only=True):
    messages: Unchecked
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: Unchecked = None
    # Accepted; each asks for nothing that an answer from one's own PCs would show.
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    verbosity: str | None = None


class _Completion(_Sampling, kw_only=True):
    prompt: Unchecked
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None


def parse_chat(raw: bytes) -> ParsedRequest:
    """A body of POST /v1/chat/completions.

    Raises InvalidJson, InvalidRequest, UnknownParameter or UnsupportedParameter; `param` names the field.
    """
    fields = read_fields(load_object(raw, int64_names=("seed",)), _Chat, refused=_REFUSED_CHAT)
    messages = read_messages(fields.messages)
    if fields.max_tokens and fields.max_completion_tokens and fields.max_tokens != fields.max_completion_tokens:
        raise InvalidRequest(
            "'max_tokens' and 'max_completion_tokens' differ; send one of them.", param="max_completion_tokens"
        )
    if fields.top_logprobs is not None and not fields.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    max_tokens = fields.max_completion_tokens or fields.max_tokens
    return _parsed(
        fields,
        Dialect.OPENAI_CHAT,
        messages=messages,
        max_tokens=max_tokens,
        logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
        response_format=read_response_format(fields.response_format),
        affinity=fields.user or fields.prompt_cache_key or fields.safety_identifier,
        prompt_bytes=sum(_bytes(message.content) for message in messages),
    )


def parse_completion(raw: bytes) -> ParsedRequest:
    """A body of POST /v1/completions; raises as `parse_chat` does."""
    fields = read_fields(load_object(raw, int64_names=("seed",)), _Completion, refused=_REFUSED_COMPLETION)
    prompt = _prompt(fields.prompt)
    return _parsed(
        fields,
        Dialect.OPENAI_COMPLETION,
        prompt=prompt,
        max_tokens=fields.max_tokens or COMPLETION_MAX_TOKENS,
        logprobs=fields.logprobs,
        affinity=fields.user,
        prompt_bytes=_bytes(prompt),
    )


def tokens_estimate(text_bytes: int) -> int:
    """How many tokens `text_bytes` of prompt may be, for admission only: bytes / 3."""
    return -(-text_bytes // 3)


def check_model_name(model: str) -> ModelName:
    """Raises InvalidRequest for control characters; whether the model exists is the coordinator's to say."""
    if not model.isprintable():
        raise InvalidRequest("Invalid 'model': it holds a control character.", param="model")
    return ModelName(model)


def _parsed(
    fields: _Sampling,
    dialect: Dialect,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    affinity: str | None,
    prompt_bytes: int,
    messages: tuple[Message, ...] | None = None,
    prompt: str | None = None,
    response_format: str | None = None,
) -> ParsedRequest:
    stream = bool(fields.stream)
    ours = read_fields(_object(fields.x_chorus, "x_chorus"), _ChorusFields, refused={}, at="x_chorus")
    return ParsedRequest(
        dialect=dialect,
        model=check_model_name(fields.model),
        stream=stream,
        generation=Generation(
            messages=messages,
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=fields.temperature,
            top_p=fields.top_p,
            stop=_stop(fields.stop),
            seed=fields.seed,
            presence_penalty=fields.presence_penalty,
            frequency_penalty=fields.frequency_penalty,
            logit_bias=_logit_bias(fields.logit_bias),
            logprobs=logprobs,
            response_format=response_format,
            include_usage=_include_usage(fields.stream_options, stream=stream),
            ignore_end=bool(ours.ignore_end),
        ),
        prompt_tokens_estimate=tokens_estimate(prompt_bytes),
        affinity=affinity,
        max_tokens=max_tokens,
        node=ours.node,
        strategy=ours.strategy,
        queue_within_s=ours.queue_within_s,
        within_s=ours.within_s,
    )


def _object(value: JsonValue, at: str) -> JsonObject:
    return {} if value is None else as_object(value, at)


def _prompt(value: JsonValue) -> str:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, list) and value:
        what = "token arrays cannot be honoured; send text" if not isinstance(value[0], str) else "send one prompt"
        raise UnsupportedParameter(f"'prompt' holds an array: {what}.", param="prompt")
    if not isinstance(value, str) or not value:
        raise InvalidRequest("Invalid 'prompt': expected a non-empty string.", param="prompt")
    return value


def _stop(value: JsonValue) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = value if isinstance(value, list) else [value]
    found = tuple(s for s in stops if isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARACTERS)
    if len(found) != len(stops) or len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"Invalid 'stop': expected a non-empty string or an array of up to {MAX_STOPS} of them.", param="stop"
        )
    return found


def _logit_bias(bias: dict[str, float] | None) -> dict[str, float] | None:
    if not bias:
        return None
    if len(bias) > MAX_BIASED_TOKENS:
        raise InvalidRequest(f"Invalid 'logit_bias': more than {MAX_BIASED_TOKENS} tokens.", param="logit_bias")
    for token in bias:
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise InvalidRequest(
                "Invalid 'logit_bias': each name must be a token id, e.g. \"50256\".", param="logit_bias"
            )
    return bias


def _include_usage(value: JsonValue, *, stream: bool) -> bool:
    if value is None:
        return False
    if not stream:
        raise InvalidRequest("'stream_options' is only allowed with 'stream': true.", param="stream_options")
    options = read_fields(as_object(value, "stream_options"), _StreamOptions, refused={}, at="stream_options")
    return bool(options.include_usage)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
