"""The items of OpenAI's Responses API, of a request's `input` and of an answer's `output`, as plain turns."""

from __future__ import annotations

import msgspec

from chorus_proto.dialects.fields import Unchecked, as_object, read_fields
from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import FunctionCall, Message, ToolCall

MAX_ITEMS = 4096
MAX_PARTS = 1024

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXTS = ("input_text", "output_text", "text", "summary_text")


class _Said(msgspec.Struct):
    role: str
    content: Unchecked
    type: str = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class _Called(msgspec.Struct):
    type: str
    call_id: str
    name: str
    arguments: str = "{}"
    id: str | None = None
    status: str | None = None
    caller: Unchecked = None
    namespace: str | None = None


class _Answered(msgspec.Struct):
    type: str
    call_id: str
    output: Unchecked = None
    id: str | None = None
    status: str | None = None


def read_items(value: JsonValue, at: str) -> tuple[Message, ...]:
    """Raises InvalidRequest, UnknownParameter or UnsupportedParameter naming the item at fault."""
    if isinstance(value, str) and value:
        return (Message(role="user", content=value),)
    if not isinstance(value, list) or not value or len(value) > MAX_ITEMS:
        raise InvalidRequest(f"Invalid '{at}': expected a non-empty text or 1 to {MAX_ITEMS} items.", param=at)
    turns: list[Message] = []
    for place, item in enumerate(value):
        path = f"{at}[{place}]"
        _read(as_object(item, path), path, turns)
    return tuple(turns)


def _read(item: JsonObject, at: str, turns: list[Message]) -> None:
    match item.get("type", "message"):
        case "message":
            turns.append(_said(item, at))
        case "function_call":
            _add_call(_call(item, at), turns)
        case "function_call_output":
            result = read_fields(item, _Answered, refused={}, at=at)
            text = "" if result.output is None else _text(result.output, f"{at}.output")
            turns.append(Message(role="tool", content=text, tool_call_id=result.call_id))
        case "reasoning":
            pass  # thoughts are not part of a conversation's history
        case kind:
            raise UnsupportedParameter(f"'{at}' is an item of type '{str(kind)[:64]}', not honoured here.", param=at)


def _said(item: JsonObject, at: str) -> Message:
    said = read_fields(item, _Said, refused={}, at=at)
    role = _ROLES.get(said.role)
    if role is None:
        raise InvalidRequest(f"Invalid '{at}.role': expected one of {', '.join(_ROLES)}.", param=f"{at}.role")
    return Message(role=role, content=_text(said.content, f"{at}.content"))


def _call(item: JsonObject, at: str) -> ToolCall:
    called = read_fields(item, _Called, refused={}, at=at)
    return ToolCall(id=called.call_id, function=FunctionCall(name=called.name, arguments=called.arguments))


def _add_call(call: ToolCall, turns: list[Message]) -> None:
    """Calls follow what the assistant said, and each other, in one turn: chat templates know no others."""
    if turns and turns[-1].role == "assistant":
        turns[-1] = msgspec.structs.replace(turns[-1], tool_calls=(*turns[-1].tool_calls, call))
    else:
        turns.append(Message(role="assistant", content="", tool_calls=(call,)))


def _text(value: JsonValue, at: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) > MAX_PARTS:
        raise InvalidRequest(f"Invalid '{at}': expected a text or an array of at most {MAX_PARTS} parts.", param=at)
    return "\n".join(_part(as_object(part, f"{at}[{place}]"), f"{at}[{place}]") for place, part in enumerate(value))


def _part(part: JsonObject, at: str) -> str:
    kind = part.get("type")
    name = "refusal" if kind == "refusal" else "text"
    if kind not in (*_TEXTS, "refusal"):
        raise UnsupportedParameter(f"'{at}' is a part of type '{str(kind)[:64]}'; only text can be honoured.", param=at)
    text = part.get(name)
    if not isinstance(text, str):
        raise InvalidRequest(f"Invalid '{at}.{name}': expected a string.", param=f"{at}.{name}")
    return text
