"""What callers of Anthropic's Messages API may ask, checked field by field and freed of the dialect.

A field is honoured, or accepted because it has no effect on the answer here (`cache_control`: prefixes are cached
without being told; `context_management`: a prompt that does not fit is refused, none is cut), or refused by name.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from chorus_proto.dialects.anthropic_messages import read_messages, read_system
from chorus_proto.dialects.anthropic_tools import read_tools
from chorus_proto.dialects.chorus_fields import read_chorus_fields
from chorus_proto.dialects.fields import (
    ModelText,
    Refused,
    TokenLimit,
    TopP,
    Unchecked,
    as_object,
    read_fields,
    refuse_documents,
)
from chorus_proto.dialects.parsed import ParsedRequest, check_model_name, text_bytes, tokens_estimate
from chorus_proto.dialects.response_format import read_response_format
from chorus_proto.dialects.strict_json import JsonObject, JsonValue, load_object
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Channel, Effort, Generation
from chorus_proto.values import Dialect

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
LEAST_BUDGET_TOKENS = 1024
"""Of a thought; the API's own bound."""

_NOTHING: tuple[JsonValue, ...] = (None, [])
_REFUSED = {
    "container": Refused(harmless=(None,)),
    "mcp_servers": Refused(harmless=_NOTHING, fix="Call the servers yourself, and send what they offer as 'tools'."),
}
_SHORT_BUDGET, _MEDIUM_BUDGET = 4096, 16_384
_EFFORTS = {"low": Effort.LOW, "medium": Effort.MEDIUM, "high": Effort.HIGH, "xhigh": Effort.HIGH, "max": Effort.HIGH}


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: Annotated[int, msgspec.Meta(ge=LEAST_BUDGET_TOKENS)] | None = None
    display: str | None = None


class _Output(msgspec.Struct):
    effort: str | None = None
    format: Unchecked = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Asked(msgspec.Struct, kw_only=True):
    """The fields that the request and the count of its tokens share."""

    model: ModelText
    messages: Unchecked
    system: Unchecked = None
    tools: Unchecked = None
    tool_choice: Unchecked = None
    thinking: Unchecked = None
    output_config: Unchecked = None
    # Accepted; see above.
    cache_control: Unchecked = None
    context_management: Unchecked = None
    speed: str | None = None


class _Messages(_Asked, kw_only=True):
    max_tokens: TokenLimit
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    metadata: Unchecked = None
    x_chorus: Unchecked = None
    # Taken out of the body by the wrapper, where documents are installed.
    rag: Unchecked = None
    # Accepted; each asks for nothing that an answer from one's own PCs would show.
    service_tier: str | None = None
    inference_geo: str | None = None
    diagnostics: Unchecked = None


def parse_messages(raw: bytes) -> ParsedRequest:
    """A body of POST /v1/messages.

    Raises InvalidJson, InvalidRequest, UnknownParameter or UnsupportedParameter; `param` names the field.
    """
    fields = read_fields(load_object(raw), _Messages, refused=_REFUSED)
    refuse_documents(fields.rag)
    asked = _asked(fields)
    ours = read_chorus_fields(fields.x_chorus)
    metadata = read_fields(_object(fields.metadata, "metadata"), _Metadata, refused={}, at="metadata")
    generation = msgspec.structs.replace(
        asked,
        max_tokens=fields.max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        stop=_stops(fields.stop_sequences),
        ignore_end=bool(ours.ignore_end),
    )
    return ParsedRequest(
        dialect=Dialect.ANTHROPIC,
        model=check_model_name(fields.model),
        stream=bool(fields.stream),
        generation=generation,
        prompt_tokens_estimate=_estimate(generation),
        affinity=metadata.user_id,
        max_tokens=fields.max_tokens,
        node=ours.node,
        strategy=ours.strategy,
        queue_within_s=ours.queue_within_s,
        within_s=ours.within_s,
        priority=ours.asked_priority,
    )


def parse_count(raw: bytes) -> ParsedRequest:
    """A body of POST /v1/messages/count_tokens, as the request whose prompt is to be counted; raises as above.

    Only the node that has the model can count: it reads the prompt and writes one token, and the prompt is in its
    cache when the request itself comes.
    """
    fields = read_fields(load_object(raw), _Asked, refused=_REFUSED)
    generation = msgspec.structs.replace(_asked(fields), max_tokens=1, separate_thinking=False)
    return ParsedRequest(
        dialect=Dialect.TEXT,
        model=check_model_name(fields.model),
        stream=False,
        generation=generation,
        prompt_tokens_estimate=_estimate(generation),
        max_tokens=1,
    )


def _asked(fields: _Asked) -> Generation:
    tools = read_tools(fields.tools, fields.tool_choice)
    output = read_fields(_object(fields.output_config, "output_config"), _Output, refused={}, at="output_config")
    effort, shown = _thinking(fields.thinking, output.effort)
    return Generation(
        messages=(*read_system(fields.system), *read_messages(fields.messages)),
        separate_thinking=True,
        include_channels=None if shown else (Channel.FINAL,),
        reasoning_effort=effort,
        response_format=_format(output.format),
        tools=tools.tools,
        tool_choice=tools.choice,
        parallel_tool_calls=tools.parallel,
    )


def _estimate(generation: Generation) -> int:
    texts = sum(text_bytes(message.content) for message in generation.messages or ())
    return tokens_estimate(texts + len(generation.tools or ""))


def _object(value: JsonValue, at: str) -> JsonObject:
    return {} if value is None else as_object(value, at)


def _thinking(value: JsonValue, word: str | None) -> tuple[Effort | None, bool]:
    """How long to think, and whether thoughts are shown. What is not said is left to the model, as the API does."""
    if word is not None and word not in _EFFORTS:
        raise InvalidRequest(
            f"Invalid 'output_config.effort': expected one of {', '.join(_EFFORTS)}.", param="output_config.effort"
        )
    effort = None if word is None else _EFFORTS[word]
    if value is None:
        return effort, True
    asked = read_fields(as_object(value, "thinking"), _Thinking, refused={}, at="thinking")
    if asked.display not in (None, "summarized", "omitted"):
        raise InvalidRequest(
            "Invalid 'thinking.display': expected 'summarized' or 'omitted'.", param="thinking.display"
        )
    shown = asked.display != "omitted"
    match asked.type:
        case "disabled":
            return Effort.NONE, False
        case "adaptive" | "between_tools":
            return effort, shown
        case "enabled" if asked.budget_tokens is not None:
            return effort or _effort_within(asked.budget_tokens), shown
        case "enabled":
            raise InvalidRequest(
                "Missing required parameter: 'thinking.budget_tokens'.", param="thinking.budget_tokens"
            )
        case _:
            raise InvalidRequest(
                "Invalid 'thinking.type': expected 'enabled', 'disabled' or 'adaptive'.", param="thinking.type"
            )


def _effort_within(budget_tokens: int) -> Effort:
    """Local models know efforts and no budgets; `max_tokens` is what bounds a thought here."""
    if budget_tokens < _SHORT_BUDGET:
        return Effort.LOW
    return Effort.MEDIUM if budget_tokens < _MEDIUM_BUDGET else Effort.HIGH


def _format(value: JsonValue) -> str | None:
    if value is None:
        return None
    body = as_object(value, "output_config.format")
    if body.get("type") != "json_schema":
        raise InvalidRequest(
            "Invalid 'output_config.format.type': expected 'json_schema'.", param="output_config.format.type"
        )
    wrapped: JsonObject = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": as_object(body.get("schema"), "output_config.format.schema")},
    }
    try:
        return read_response_format(wrapped)
    except InvalidRequest as error:
        words = error.message.replace("response_format.json_schema", "output_config.format")
        raise InvalidRequest(words, param="output_config.format.schema") from None


def _stops(stops: list[str] | None) -> tuple[str, ...]:
    found = tuple(stops or ())
    if len(found) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in found):
        raise InvalidRequest(
            f"Invalid 'stop_sequences': expected up to {MAX_STOPS} non-empty texts.", param="stop_sequences"
        )
    return found


MESSAGES_FIELDS: type[msgspec.Struct] = _Messages
COUNT_FIELDS: type[msgspec.Struct] = _Asked
"""For the description of the API: it is made of what checks the requests."""
