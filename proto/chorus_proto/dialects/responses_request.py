"""What callers of OpenAI's Responses API may ask, checked field by field and freed of the dialect.

A field is honoured, or accepted because it has no effect on the answer here, or refused by name. `truncation: auto`
is accepted: a prompt that fits is as it is, and one that does not is refused with both numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from chorus_proto.dialects.chorus_fields import read_chorus_fields
from chorus_proto.dialects.fields import (
    ModelText,
    Refused,
    Temperature,
    TokenLimit,
    TopP,
    Unchecked,
    as_object,
    read_fields,
)
from chorus_proto.dialects.openai_request import read_effort, verbosity_words
from chorus_proto.dialects.openai_tools import read_tools
from chorus_proto.dialects.parsed import ParsedRequest, check_model_name, text_bytes, tokens_estimate
from chorus_proto.dialects.response_format import read_response_format
from chorus_proto.dialects.responses_input import read_items
from chorus_proto.dialects.strict_json import JsonObject, JsonValue, load_object
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import Generation, Message
from chorus_proto.values import Dialect

_LOGPROBS = "message.output_text.logprobs"
_INCLUDE = frozenset(
    {
        _LOGPROBS,
        # What these would add does not exist here: no such tool can run, and thoughts come in the clear.
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
    }
)
_REFUSED = {
    "conversation": Refused(harmless=(None,), fix="Use 'previous_response_id', or send the items."),
    "prompt": Refused(harmless=(None,), fix="Send the text itself."),
    "context_management": Refused(harmless=(None, [])),
    "moderation": Refused(harmless=(None,)),
    "image": Refused(harmless=(None, {}), fix="Only text can be honoured."),
}
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesRequest:
    """One checked request. `turns` are those of `input` alone, `instructions` the system prompt of this answer alone.

    `store`: keep the answer for `GET` and for a later request's `previous_response_id`.
    """

    parsed: ParsedRequest
    turns: tuple[Message, ...]
    instructions: str | None
    previous: str | None
    store: bool
    background: bool


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class _Text(msgspec.Struct):
    format: Unchecked = None
    verbosity: str | None = None


class _Tool(msgspec.Struct, omit_defaults=True):
    name: str
    parameters: Unchecked = None
    description: str | None = None
    strict: bool | None = None


class _StreamOptions(msgspec.Struct):
    include_obfuscation: bool | None = None


class _Responses(msgspec.Struct, kw_only=True):
    model: ModelText
    input: Unchecked
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: Unchecked = None
    store: bool | None = None
    background: bool | None = None
    tools: Unchecked = None
    tool_choice: Unchecked = None
    parallel_tool_calls: bool | None = None
    text: Unchecked = None
    reasoning: Unchecked = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    x_chorus: Unchecked = None
    # Accepted; each asks for nothing that an answer from one's own PCs would show.
    max_tool_calls: int | None = None
    truncation: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Unchecked = None


def parse_responses(raw: bytes) -> ResponsesRequest:
    """A body of POST /v1/responses.

    Raises InvalidJson, InvalidRequest, UnknownParameter or UnsupportedParameter; `param` names the field.
    """
    fields = read_fields(load_object(raw), _Responses, refused=_REFUSED)
    background = bool(fields.background)
    if background and fields.store is False:
        raise InvalidRequest("'background' needs 'store': its answer is fetched later.", param="store")
    if fields.stream_options is not None:
        read_fields(as_object(fields.stream_options, "stream_options"), _StreamOptions, refused={}, at="stream_options")
    turns = read_items(fields.input, "input")
    ours = read_chorus_fields(fields.x_chorus)
    reasoning = read_fields(_object(fields.reasoning, "reasoning"), _Reasoning, refused={}, at="reasoning")
    text = read_fields(_object(fields.text, "text"), _Text, refused={}, at="text")
    wishes = (fields.instructions, verbosity_words(text.verbosity, "text.verbosity"))
    instructions = "\n\n".join(filter(None, wishes)) or None
    tools = read_tools(_tools(fields.tools), _choice(fields.tool_choice))
    generation = Generation(
        messages=with_instructions(turns, instructions),
        max_tokens=fields.max_output_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        logprobs=_logprobs(fields),
        response_format=_format(text.format),
        separate_thinking=True,
        reasoning_effort=read_effort(reasoning.effort, "reasoning.effort"),
        tools=tools.tools,
        tool_choice=tools.choice,
        parallel_tool_calls=fields.parallel_tool_calls if tools.tools else None,
        ignore_end=bool(ours.ignore_end),
        answer_head=_head(fields, background=background),
    )
    parsed = ParsedRequest(
        dialect=Dialect.OPENAI_RESPONSES,
        model=check_model_name(fields.model),
        stream=bool(fields.stream),
        generation=generation,
        prompt_tokens_estimate=estimate(generation),
        affinity=fields.user or fields.prompt_cache_key or fields.safety_identifier,
        max_tokens=fields.max_output_tokens,
        node=ours.node,
        strategy=ours.strategy,
        queue_within_s=ours.queue_within_s,
        within_s=ours.within_s,
        priority=ours.asked_priority,
    )
    return ResponsesRequest(
        parsed=parsed,
        turns=turns,
        instructions=instructions,
        previous=fields.previous_response_id,
        store=fields.store is not False,
        background=background,
    )


def with_instructions(turns: tuple[Message, ...], instructions: str | None) -> tuple[Message, ...]:
    """The whole prompt. Instructions hold for one answer and are not part of the conversation that is kept."""
    return (Message(role="system", content=instructions), *turns) if instructions else turns


def estimate(generation: Generation) -> int:
    """The prompt's tokens, about."""
    texts = sum(text_bytes(message.content) for message in generation.messages or ())
    return tokens_estimate(texts + len(generation.tools or ""))


def _object(value: JsonValue, at: str) -> JsonObject:
    return {} if value is None else as_object(value, at)


def _logprobs(fields: _Responses) -> int | None:
    for place, name in enumerate(fields.include or []):
        if name not in _INCLUDE:
            raise InvalidRequest(f"Invalid 'include[{place}]': '{name[:64]}' is unknown.", param=f"include[{place}]")
    if _LOGPROBS in (fields.include or []) or fields.top_logprobs is not None:
        return fields.top_logprobs or 0
    return None


def _tools(value: JsonValue) -> JsonValue:
    """In the shape of the chat API, where a function has an object of its own."""
    if not isinstance(value, list):
        return value
    return [_tool(as_object(tool, f"tools[{place}]"), f"tools[{place}]") for place, tool in enumerate(value)]


def _tool(tool: JsonObject, at: str) -> JsonObject:
    kind = tool.get("type")
    if kind != "function":
        raise UnsupportedParameter(
            f"'{at}' is of type '{str(kind)[:64]}'; only functions can be called.", param=f"{at}.type"
        )
    rest = {name: value for name, value in tool.items() if name not in ("type", "defer_loading")}
    read = read_fields(rest, _Tool, refused=_REFUSED_TOOL, at=at)
    known = _Tool.__struct_fields__
    function: JsonObject = {name: value for name, value in rest.items() if name in known and value is not None}
    function["name"] = read.name
    return {"type": "function", "function": function}


_REFUSED_TOOL = {
    "allowed_callers": Refused(harmless=(None, [], ["direct"]), fix="Only the model itself calls tools here."),
    "output_schema": Refused(harmless=(None,)),
}


def _choice(value: JsonValue) -> JsonValue:
    if not isinstance(value, dict):
        return value
    if value.get("type") != "function":
        raise UnsupportedParameter(
            "'tool_choice.type': only 'function' can be honoured here.", param="tool_choice.type"
        )
    return {"type": "function", "function": {"name": value.get("name")}}


def _format(value: JsonValue) -> str | None:
    """`text.format`, whose schema stands beside its type and not in an object of its own."""
    if value is None:
        return None
    body = as_object(value, "text.format")
    if body.get("type") == "json_schema":
        wrapped: JsonObject = {name: member for name, member in body.items() if name != "type"}
        chats: JsonObject = {"type": "json_schema", "json_schema": wrapped}
        body = chats
    try:
        return read_response_format(body)
    except InvalidRequest as error:
        at = (error.param or "").replace("response_format.json_schema", "text.format")
        at = at.replace("response_format", "text.format")
        words = error.message.replace("response_format.json_schema", "text.format")
        raise InvalidRequest(words.replace("response_format", "text.format"), param=at) from None


def _head(fields: _Responses, *, background: bool) -> str:
    """What the response object says again, in the API's order."""
    text = fields.text if isinstance(fields.text, dict) else {}
    head: dict[str, object] = {
        "background": background,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata or {},
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "previous_response_id": fields.previous_response_id,
        "reasoning": fields.reasoning or {"effort": None, "summary": None},
        "store": fields.store is not False,
        "temperature": fields.temperature,
        "text": {"format": {"type": "text"}} | text,
        "tool_choice": "auto" if fields.tool_choice is None else fields.tool_choice,
        "tools": fields.tools or [],
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": fields.top_p,
        "truncation": fields.truncation or "disabled",
        "user": fields.user,
    }
    return _encode(head).decode()


RESPONSES_FIELDS: type[msgspec.Struct] = _Responses
"""For the description of the API: it is made of what checks the requests."""
