"""What callers of Ollama's API (docs/api.md) may ask, checked field by field and freed of the dialect.

A field is honoured, or accepted because an engine's own business is not the caller's here (`num_thread`, `num_ctx`: how
a model is loaded is the PC's to know, and a prompt that does not fit is refused with both numbers), or refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec

from chorus_proto.cluster import FOR_EVER_S
from chorus_proto.dialects.fields import (
    ModelText,
    Penalty,
    Refused,
    TopP,
    Unchecked,
    as_object,
    join_path,
    read_fields,
    refuse_documents,
)
from chorus_proto.dialects.openai_tools import read_calls, read_tools
from chorus_proto.dialects.parsed import ParsedRequest, check_model_name, text_bytes, tokens_estimate
from chorus_proto.dialects.response_format import read_response_format
from chorus_proto.dialects.strict_json import JsonObject, JsonValue, load_object
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import Effort, Generation, Message
from chorus_proto.ids import ModelName
from chorus_proto.values import Dialect

MAX_MESSAGES = 2048
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024

_ROLES = frozenset({"system", "user", "assistant", "tool"})
_ONLY_TEXT = "Only text can be honoured."
_NOTHING: tuple[JsonValue, ...] = (None, [], "")
_REFUSED = {
    "template": Refused(harmless=(None, ""), fix="A model answers by its own chat template."),
    "context": Refused(harmless=(None, []), fix="Use /api/chat, which carries the conversation in its messages."),
    "width": Refused(harmless=(None, 0), fix=_ONLY_TEXT),
    "height": Refused(harmless=(None, 0), fix=_ONLY_TEXT),
    "steps": Refused(harmless=(None, 0), fix=_ONLY_TEXT),
}
_REFUSED_OPTIONS = {
    "mirostat": Refused(harmless=(None, 0)),
    "tfs_z": Refused(harmless=(None, 1, 1.0)),
    "penalize_newline": Refused(harmless=(None, False)),
}
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d{1,12}(?:\.\d{0,9})?)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(rf"([+-]?)((?:{_DURATION_PART.pattern})+)")

Number: TypeAlias = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaRequest:
    """One checked request. `generation` None: nothing to answer, the model is only to be loaded or freed.

    `keep_alive_s`: how long it stays after this without a use, 0 frees it at once, `FOR_EVER_S` never; None: as it is.
    """

    model: ModelName
    dialect: Dialect
    stream: bool
    keep_alive_s: float | None
    generation: ParsedRequest | None


class _Options(msgspec.Struct):
    num_predict: Annotated[int, msgspec.Meta(ge=-2, le=2**31 - 1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    typical_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None
    repeat_last_n: Annotated[int, msgspec.Meta(ge=-1, le=1 << 20)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    stop: Unchecked = None
    # Accepted: how a model is loaded and computed is the PC's to know.
    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    num_keep: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    vocab_only: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None


class _Shared(msgspec.Struct, kw_only=True):
    """The fields that chat and generate share."""

    model: ModelText
    stream: bool | None = None
    format: Unchecked = None
    options: Unchecked = None
    keep_alive: Unchecked = None
    think: Unchecked = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    # Accepted: a prompt that does not fit is refused and never cut.
    truncate: bool | None = None
    shift: bool | None = None


class _Chat(_Shared, kw_only=True):
    messages: Unchecked = None
    tools: Unchecked = None
    # Taken out of the body by the wrapper, where documents are installed.
    rag: Unchecked = None


class _Generate(_Shared, kw_only=True):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    images: Unchecked = None
    raw: bool | None = None


class _Turn(msgspec.Struct):
    """One message. Thinking that a client sends back is dropped: it is not part of a conversation's history."""

    role: str
    content: str | None = None
    thinking: Unchecked = None
    images: Unchecked = None
    tool_calls: Unchecked = None
    tool_name: str | None = None
    tool_call_id: str | None = None


def parse_chat(raw: bytes) -> OllamaRequest:
    """A body of POST /api/chat.

    Raises InvalidJson, InvalidRequest, UnknownParameter or UnsupportedParameter; `param` names the field.
    """
    fields = read_fields(load_object(raw), _Chat, refused=_REFUSED)
    refuse_documents(fields.rag)
    messages = _messages(fields.messages)
    tools = read_tools(fields.tools, None)
    generation = Generation(messages=messages, tools=tools.tools) if messages else None
    prompt_bytes = sum(text_bytes(message.content) for message in messages) + len(tools.tools or "")
    return _request(fields, Dialect.OLLAMA_CHAT, generation, prompt_bytes)


def parse_generate(raw: bytes) -> OllamaRequest:
    """A body of POST /api/generate; raises as `parse_chat` does."""
    fields = read_fields(load_object(raw), _Generate, refused=_REFUSED)
    _refuse_images(fields.images, "images")
    prompt, system = fields.prompt or "", fields.system or ""
    if fields.raw and (system or fields.suffix):
        name = "system" if system else "suffix"
        raise InvalidRequest(f"'raw' takes the prompt as it is, without '{name}'.", param=name)
    generation = None
    if fields.suffix:
        generation = Generation(prompt=prompt, suffix=fields.suffix)
    elif fields.raw and prompt:
        generation = Generation(prompt=prompt)
    elif prompt:
        turns = [Message(role="system", content=system)] if system else []
        generation = Generation(messages=(*turns, Message(role="user", content=prompt)))
    prompt_bytes = text_bytes(prompt) + text_bytes(system) + text_bytes(fields.suffix or "")
    return _request(fields, Dialect.OLLAMA_GENERATE, generation, prompt_bytes)


def read_keep_alive(value: JsonValue) -> float | None:
    """Seconds: a number of them, or Go's notation such as `5m` or `1h30m`. Raises InvalidRequest."""
    seconds: float | None = None
    match value:
        case None:
            return None
        case bool():
            pass
        case int() | float():
            seconds = float(value)
        case str():
            seconds = _duration_s(value.strip())
        case _:
            pass
    if seconds is None:
        raise InvalidRequest(
            "Invalid 'keep_alive': expected seconds, or a text such as '5m'; 0 frees the model, -1 keeps it.",
            param="keep_alive",
        )
    return FOR_EVER_S if seconds < 0 else min(seconds, FOR_EVER_S)


def _duration_s(text: str) -> float | None:
    if re.fullmatch(r"-?\d{1,12}", text):
        return float(text)
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(found[2]))
    return -seconds if found[1] == "-" else seconds


def _request(fields: _Shared, dialect: Dialect, base: Generation | None, prompt_bytes: int) -> OllamaRequest:
    options = read_fields(
        as_object({} if fields.options is None else fields.options, "options"),
        _Options,
        refused=_REFUSED_OPTIONS,
        at="options",
    )
    stream = fields.stream is not False
    model = check_model_name(fields.model)
    if fields.top_logprobs is not None and not fields.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    max_tokens = None if options.num_predict is None or options.num_predict < 0 else options.num_predict
    if max_tokens == 0:
        raise InvalidRequest("Invalid 'options.num_predict': 0 asks for no answer.", param="options.num_predict")
    effort, answer_format, stops = _effort(fields.think), _format(fields.format), _stops(options.stop)
    keep_alive_s = read_keep_alive(fields.keep_alive)
    parsed = None
    if base is not None:
        generation = msgspec.structs.replace(
            base,
            max_tokens=max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
            typical_p=options.typical_p,
            repeat_penalty=options.repeat_penalty,
            repeat_last_n=options.repeat_last_n,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            seed=options.seed,
            stop=stops,
            logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
            response_format=answer_format,
            separate_thinking=base.messages is not None,
            reasoning_effort=effort,
        )
        parsed = ParsedRequest(
            dialect=dialect,
            model=model,
            stream=stream,
            generation=generation,
            prompt_tokens_estimate=tokens_estimate(prompt_bytes),
            max_tokens=max_tokens,
        )
    return OllamaRequest(model=model, dialect=dialect, stream=stream, keep_alive_s=keep_alive_s, generation=parsed)


def _messages(value: JsonValue) -> tuple[Message, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest("Invalid 'messages': expected an array of messages.", param="messages")
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(
            f"Invalid 'messages': expected at most {MAX_MESSAGES} messages, got {len(value)}.", param="messages"
        )
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(value: JsonValue, at: str) -> Message:
    turn = read_fields(as_object(value, at), _Turn, refused={}, at=at)
    if turn.role not in _ROLES:
        raise InvalidRequest(f"Invalid '{at}.role': expected one of {', '.join(sorted(_ROLES))}.", param=f"{at}.role")
    _refuse_images(turn.images, join_path(at, "images"))
    calls = read_calls(turn.tool_calls, f"{at}.tool_calls")
    if calls and turn.role != "assistant":
        raise InvalidRequest(f"'{at}.tool_calls' may only stand in an assistant's turn.", param=f"{at}.tool_calls")
    if turn.content is None and not calls:
        raise InvalidRequest(f"Missing required parameter: '{at}.content'.", param=f"{at}.content")
    return Message(
        role=turn.role,
        content=turn.content or "",
        name=turn.tool_name if turn.role == "tool" else None,
        tool_calls=calls,
        tool_call_id=turn.tool_call_id if turn.role == "tool" else None,
    )


def _refuse_images(value: JsonValue, at: str) -> None:
    if value not in (None, []):
        raise UnsupportedParameter(f"'{at}' is not supported here. {_ONLY_TEXT}", param=at)


def _format(value: JsonValue) -> str | None:
    """`json`, or a JSON schema, as OpenAI's `response_format`."""
    if value is None or value == "":
        return None
    if value == "json":
        return read_response_format({"type": "json_object"})
    if not isinstance(value, dict):
        raise InvalidRequest("Invalid 'format': expected 'json' or a JSON schema.", param="format")
    wrapped: JsonObject = {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}
    try:
        return read_response_format(wrapped)
    except InvalidRequest as error:
        words = error.message.replace("response_format.json_schema.schema", "format")
        raise InvalidRequest(words.replace("response_format.json_schema", "format"), param="format") from None


def _effort(value: JsonValue) -> Effort | None:
    match value:
        case None:
            return None
        case bool():
            return Effort.MEDIUM if value else Effort.NONE
        case "low" | "medium" | "high":
            return Effort(value)
        case "max":
            return Effort.HIGH
        case _:
            raise InvalidRequest("Invalid 'think': expected true, false, 'low', 'medium' or 'high'.", param="think")


def _stops(value: JsonValue) -> tuple[str, ...]:
    stops = value if isinstance(value, list) else [] if value in (None, "") else [value]
    found = tuple(s for s in stops if isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARACTERS)
    if len(found) != len(stops) or len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"Invalid 'options.stop': expected up to {MAX_STOPS} non-empty texts.", param="options.stop"
        )
    return found


CHAT_FIELDS: type[msgspec.Struct] = _Chat
GENERATE_FIELDS: type[msgspec.Struct] = _Generate
OPTIONS_FIELDS: type[msgspec.Struct] = _Options
"""For the description of the API: it is made of what checks the requests."""
