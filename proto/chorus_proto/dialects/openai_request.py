"""What callers of OpenAI's chat and completion APIs may ask, checked field by field and freed of the dialect.

The wrapper runs this before anything waits in a queue. A field is honoured, or accepted because it has no effect on
the answer here (`store`, `service_tier`, ...), or refused by name: nothing that would change the answer is dropped
silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from chorus_proto.dialects.chorus_fields import read_chorus_fields
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
    refuse_documents,
)
from chorus_proto.dialects.openai_messages import instructed, read_messages
from chorus_proto.dialects.openai_tools import read_tools
from chorus_proto.dialects.parsed import ParsedRequest, check_model_name, text_bytes, tokens_estimate
from chorus_proto.dialects.response_format import read_response_format
from chorus_proto.dialects.strict_json import JsonValue, load_object
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import Channel, Effort, Generation
from chorus_proto.values import Dialect

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1024
MAX_BIASED_TOKENS = 300
MAX_CHOICES = 16
"""Answers to one request, each a run of its own."""
COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for /v1/completions."""

_REFUSED_CHAT = {
    "functions": Refused(harmless=(None, []), fix="Use 'tools'."),
    "function_call": Refused(harmless=(None, "none", "auto"), fix="Use 'tool_choice'."),
    "audio": Refused(harmless=(None,), fix="Only text can be honoured."),
    "modalities": Refused(harmless=(None, [], ["text"]), fix="Only text can be honoured."),
    "prediction": Refused(harmless=(None,)),
    "web_search_options": Refused(harmless=(None,)),
}
_REFUSED_COMPLETION = {
    "best_of": Refused(harmless=(None, 1), fix="Ask for 'n' answers and choose."),
}
_EFFORTS = {
    "none": Effort.NONE,
    "minimal": Effort.LOW,
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
    "xhigh": Effort.HIGH,
}
"""OpenAI's words; models know three, and that they are not to think."""


_VERBOSITIES = {"low": "Answer briefly.", "medium": "", "high": "Answer at length and in detail."}
"""OpenAI's models are trained on these words; to others they are said."""


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
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    x_chorus: Unchecked = None


class _Chat(_Sampling, kw_only=True):
    messages: Unchecked
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: Unchecked = None
    tools: Unchecked = None
    tool_choice: Unchecked = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    # Seed 004's.
    reasoning: str | None = None
    separate_thinking: bool | None = None
    include_channels: Annotated[list[Channel], msgspec.Meta(max_length=8)] | None = None
    developer_instructions: Annotated[str, msgspec.Meta(max_length=1 << 20)] | None = None
    # Taken out of the body by the wrapper, where documents are installed.
    rag: Unchecked = None
    # Accepted; each asks for nothing that an answer from one's own PCs would show.
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class _Completion(_Sampling, kw_only=True):
    prompt: Unchecked
    suffix: str | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    echo: bool | None = None


def parse_chat(raw: bytes) -> ParsedRequest:
    """A body of POST /v1/chat/completions.

    Raises InvalidJson, InvalidRequest, UnknownParameter or UnsupportedParameter; `param` names the field.
    """
    fields = read_fields(load_object(raw, int64_names=("seed",)), _Chat, refused=_REFUSED_CHAT)
    refuse_documents(fields.rag)
    wishes = (fields.developer_instructions, verbosity_words(fields.verbosity, "verbosity"))
    messages = instructed(read_messages(fields.messages), "\n\n".join(filter(None, wishes)))
    if fields.max_tokens and fields.max_completion_tokens and fields.max_tokens != fields.max_completion_tokens:
        raise InvalidRequest(
            "'max_tokens' and 'max_completion_tokens' differ; send one of them.", param="max_completion_tokens"
        )
    if fields.top_logprobs is not None and not fields.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    tools = read_tools(fields.tools, fields.tool_choice)
    generation = _generation(
        fields,
        Generation(
            messages=messages,
            max_tokens=fields.max_completion_tokens or fields.max_tokens,
            logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
            response_format=read_response_format(fields.response_format),
            separate_thinking=fields.separate_thinking is not False,
            include_channels=_channels(fields),
            reasoning_effort=_effort(fields),
            tools=tools.tools,
            tool_choice=tools.choice,
            parallel_tool_calls=fields.parallel_tool_calls if tools.tools else None,
        ),
    )
    return _parsed(
        fields,
        Dialect.OPENAI_CHAT,
        (generation,),
        affinity=fields.user or fields.prompt_cache_key or fields.safety_identifier,
        prompt_bytes=sum(text_bytes(message.content) for message in messages) + len(tools.tools or ""),
    )


def parse_completion(raw: bytes) -> ParsedRequest:
    """A body of POST /v1/completions; raises as `parse_chat` does."""
    fields = read_fields(load_object(raw, int64_names=("seed",)), _Completion, refused=_REFUSED_COMPLETION)
    prompts = _prompts(fields.prompt)
    if fields.echo and (fields.logprobs is not None or fields.suffix):
        other = "suffix" if fields.suffix else "logprobs"
        raise UnsupportedParameter(f"'echo' cannot be honoured together with '{other}'; leave one out.", param="echo")
    return _parsed(
        fields,
        Dialect.OPENAI_COMPLETION,
        [
            _generation(
                fields,
                Generation(
                    prompt=prompt,
                    suffix=fields.suffix or None,
                    echo=bool(fields.echo),
                    max_tokens=fields.max_tokens or COMPLETION_MAX_TOKENS,
                    logprobs=fields.logprobs,
                ),
            )
            for prompt in prompts
        ],
        affinity=fields.user,
        prompt_bytes=sum(map(text_bytes, prompts)) + text_bytes(fields.suffix or ""),
    )


def _generation(fields: _Sampling, base: Generation) -> Generation:
    """`base` with the fields that both APIs share."""
    return msgspec.structs.replace(
        base,
        temperature=fields.temperature,
        top_p=fields.top_p,
        stop=_stop(fields.stop),
        seed=fields.seed,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        logit_bias=_logit_bias(fields.logit_bias),
        include_usage=_include_usage(fields.stream_options, stream=bool(fields.stream)),
    )


def _parsed(
    fields: _Sampling,
    dialect: Dialect,
    generations: Sequence[Generation],
    *,
    affinity: str | None,
    prompt_bytes: int,
) -> ParsedRequest:
    ours = read_chorus_fields(fields.x_chorus)
    if ours.ignore_end:
        generations = [msgspec.structs.replace(one, ignore_end=True) for one in generations]
    first, *others = _choices(generations, fields.n or 1)
    return ParsedRequest(
        dialect=dialect,
        model=check_model_name(fields.model),
        stream=bool(fields.stream),
        generation=first,
        prompt_tokens_estimate=tokens_estimate(prompt_bytes),
        affinity=affinity,
        max_tokens=first.max_tokens,
        node=ours.node,
        strategy=ours.strategy,
        queue_within_s=ours.queue_within_s,
        within_s=ours.within_s,
        priority=ours.asked_priority,
        routing=bool(ours.routing),
        others=tuple(others),
    )


def _choices(generations: Sequence[Generation], n: int) -> list[Generation]:
    """`n` runs of each, numbered as OpenAI does: all choices of the first prompt come first."""
    count = len(generations) * n
    if count > MAX_CHOICES:
        raise InvalidRequest(f"'prompt' and 'n' ask for {count} answers; {MAX_CHOICES} are possible.", param="n")
    if count == 1:
        return list(generations)
    return [
        msgspec.structs.replace(
            one,
            choice=place * n + k,
            choices=count,
            # The same seed would give the same answer n times.
            seed=None if one.seed is None else (one.seed + k) % 2**63,
        )
        for place, one in enumerate(generations)
        for k in range(n)
    ]


def _channels(fields: _Chat) -> tuple[Channel, ...] | None:
    """Who asks for thoughts apart in so many words gets them by channel, as callers of seed 004 expect."""
    if fields.include_channels is not None:
        return tuple(dict.fromkeys(fields.include_channels))
    return tuple(Channel) if fields.separate_thinking else None


def _effort(fields: _Chat) -> Effort | None:
    if fields.reasoning is not None:
        return read_effort(fields.reasoning, "reasoning")
    return read_effort(fields.reasoning_effort, "reasoning_effort")


def read_effort(word: str | None, at: str) -> Effort | None:
    """OpenAI's word for it. Raises InvalidRequest for another one, which names `at`."""
    if word is None:
        return None
    if word not in _EFFORTS:
        raise InvalidRequest(f"Invalid '{at}': expected one of {', '.join(_EFFORTS)}.", param=at)
    return _EFFORTS[word]


def verbosity_words(word: str | None, at: str) -> str:
    """What is said to the model; "" asks for nothing. Raises InvalidRequest for another word, which names `at`."""
    if word is None:
        return ""
    if word not in _VERBOSITIES:
        raise InvalidRequest(f"Invalid '{at}': expected one of {', '.join(_VERBOSITIES)}.", param=at)
    return _VERBOSITIES[word]


def _prompts(value: JsonValue) -> list[str]:
    """One text or several. Raises InvalidRequest, and UnsupportedParameter for token arrays."""
    prompts = value if isinstance(value, list) else [value]
    if any(isinstance(one, int | list) for one in prompts) and isinstance(value, list):
        raise UnsupportedParameter(
            "'prompt' holds token numbers, which are each model's own; send text.", param="prompt"
        )
    texts = [one for one in prompts if isinstance(one, str) and one]
    if not texts or len(texts) != len(prompts):
        raise InvalidRequest("Invalid 'prompt': expected a non-empty string or an array of them.", param="prompt")
    return texts


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


CHAT_FIELDS: type[msgspec.Struct] = _Chat
COMPLETION_FIELDS: type[msgspec.Struct] = _Completion
"""For the description of the API: it is made of what checks the requests."""
