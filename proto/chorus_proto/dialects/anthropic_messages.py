"""Anthropic's `messages` and `system`, turned into the plain turns that engines take.

One of Anthropic's turns may hold what OpenAI's API has as several: the results of tools come before the user's text.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from chorus_proto.dialects.fields import Refused, Unchecked, as_object, read_fields
from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import FunctionCall, Message, ToolCall

MAX_MESSAGES = 2048
MAX_BLOCKS = 2048
"""Of one message."""

_ROLES = ("user", "assistant", "system")
_THOUGHTS = ("thinking", "redacted_thinking")
"""Blocks of earlier turns that are not part of a conversation's history here."""
_REFUSED_TEXT = {"citations": Refused(harmless=(None, []))}
_FAILED = "Error: "
"""Before the result of a tool that failed: engines know no other mark for it."""

_encode = msgspec.json.Encoder().encode


class _Turn(msgspec.Struct):
    role: str
    content: Unchecked


class _Text(msgspec.Struct):
    type: str
    text: str
    cache_control: Unchecked = None


class _ToolUse(msgspec.Struct):
    type: str
    id: str
    name: str
    input: Unchecked = None
    cache_control: Unchecked = None
    caller: Unchecked = None


class _ToolResult(msgspec.Struct):
    type: str
    tool_use_id: str
    content: Unchecked = None
    is_error: bool | None = None
    cache_control: Unchecked = None


def read_system(value: JsonValue) -> tuple[Message, ...]:
    """None or one turn. Raises as `read_messages` does."""
    if value is None or value == "" or value == []:
        return ()
    return (Message(role="system", content=_texts(value, "system")),)


def read_messages(value: JsonValue) -> tuple[Message, ...]:
    """Raises InvalidRequest, UnknownParameter or UnsupportedParameter naming the message and the block at fault."""
    if not isinstance(value, list) or not value:
        raise InvalidRequest("Invalid 'messages': expected a non-empty array of messages.", param="messages")
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(
            f"Invalid 'messages': expected at most {MAX_MESSAGES} messages, got {len(value)}.", param="messages"
        )
    found: list[Message] = []
    for place, item in enumerate(value):
        found.extend(_turns(item, f"messages[{place}]"))
    return tuple(found)


def _turns(value: JsonValue, at: str) -> Iterator[Message]:
    turn = read_fields(as_object(value, at), _Turn, refused={}, at=at)
    if turn.role not in _ROLES:
        raise InvalidRequest(f"Invalid '{at}.role': expected one of {', '.join(_ROLES)}.", param=f"{at}.role")
    if isinstance(turn.content, str):
        yield Message(role=turn.role, content=turn.content)
        return
    texts: list[str] = []
    calls: list[ToolCall] = []
    answers = 0
    for block, path in _blocks(turn.content, f"{at}.content"):
        match block.get("type"):
            case "tool_use" if turn.role == "assistant":
                calls.append(_call(block, path))
            case "tool_result" if turn.role == "user":
                answers += 1
                yield _answer(block, path)
            case kind if kind in _THOUGHTS and turn.role == "assistant":
                pass
            case _:
                texts.append(_text(block, path))
    if texts or calls or not answers:
        yield Message(role=turn.role, content="\n".join(texts), tool_calls=tuple(calls))


def _blocks(value: JsonValue, at: str) -> Iterator[tuple[JsonObject, str]]:
    if not isinstance(value, list) or not value or len(value) > MAX_BLOCKS:
        raise InvalidRequest(f"Invalid '{at}': expected a text or an array of 1 to {MAX_BLOCKS} blocks.", param=at)
    for place, item in enumerate(value):
        path = f"{at}[{place}]"
        yield as_object(item, path), path


def _texts(value: JsonValue, at: str) -> str:
    if isinstance(value, str):
        return value
    return "\n".join(_text(block, path) for block, path in _blocks(value, at))


def _text(block: JsonObject, at: str) -> str:
    kind = block.get("type")
    if kind == "text":
        return read_fields(block, _Text, refused=_REFUSED_TEXT, at=at).text
    if not isinstance(kind, str):
        raise InvalidRequest(f"Missing required parameter: '{at}.type'.", param=f"{at}.type")
    raise UnsupportedParameter(f"'{at}' is a block of type '{kind[:64]}', which cannot be honoured here.", param=at)


def _call(block: JsonObject, at: str) -> ToolCall:
    use = read_fields(block, _ToolUse, refused={}, at=at)
    arguments = _encode(as_object({} if use.input is None else use.input, f"{at}.input")).decode()
    return ToolCall(id=use.id, function=FunctionCall(name=use.name, arguments=arguments))


def _answer(block: JsonObject, at: str) -> Message:
    result = read_fields(block, _ToolResult, refused={}, at=at)
    text = "" if result.content in (None, [], "") else _texts(result.content, f"{at}.content")
    return Message(role="tool", content=_FAILED + text if result.is_error else text, tool_call_id=result.tool_use_id)
