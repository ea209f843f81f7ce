"""OpenAI's chat `messages`, turned into the plain turns that engines take."""

from __future__ import annotations

import msgspec

from chorus_proto.dialects.fields import Refused, Unchecked, as_object, join_path, read_fields
from chorus_proto.dialects.openai_tools import read_calls
from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import Message

MAX_MESSAGES = 2048
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_NOT_TEXT = frozenset({"image_url", "input_audio", "file", "image", "video_url", "audio_url"})
_REFUSED = {
    "function_call": Refused(harmless=(None,), fix="Use 'tool_calls'."),
    "audio": Refused(harmless=(None,), fix="Only text can be honoured."),
}


class _Turn(msgspec.Struct):
    """One message. Thinking that a client sends back is dropped: it is not part of a conversation's history."""

    role: str
    content: Unchecked = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Unchecked = None
    refusal: str | None = None
    annotations: Unchecked = None
    reasoning_content: Unchecked = None
    reasoning: Unchecked = None
    thinking: Unchecked = None


def read_messages(value: JsonValue) -> tuple[Message, ...]:
    """Raises InvalidRequest, UnknownParameter or UnsupportedParameter naming the message and the part at fault."""
    if not isinstance(value, list):
        raise InvalidRequest("Invalid 'messages': expected an array of messages.", param="messages")
    if not value:
        raise InvalidRequest("Invalid 'messages': empty array. Expected at least 1 message.", param="messages")
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(
            f"Invalid 'messages': array too long. Expected at most {MAX_MESSAGES} messages, got {len(value)}.",
            param="messages",
        )
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(value: JsonValue, at: str) -> Message:
    turn = read_fields(as_object(value, at), _Turn, refused=_REFUSED, at=at)
    if turn.role == "function":
        raise UnsupportedParameter("The role 'function' is not supported; use 'tool'.", param=f"{at}.role")
    role = _ROLES.get(turn.role)
    if role is None:
        raise InvalidRequest(f"Invalid '{at}.role': expected one of {', '.join(_ROLES)}.", param=f"{at}.role")
    if turn.tool_calls and role != "assistant":
        raise InvalidRequest(f"'{at}.tool_calls' may only stand in an assistant's turn.", param=f"{at}.tool_calls")
    return Message(
        role=role,
        content=_content(turn, join_path(at, "content")),
        name=turn.name,
        tool_calls=read_calls(turn.tool_calls, f"{at}.tool_calls"),
        tool_call_id=turn.tool_call_id if role == "tool" else None,
    )


def instructed(messages: tuple[Message, ...], instructions: str | None) -> tuple[Message, ...]:
    """With the developer's instructions after the system prompt, in the one leading turn that chat templates know."""
    if not instructions:
        return messages
    if messages and messages[0].role == "system":
        first = Message(role="system", content=f"{messages[0].content}\n\n{instructions}")
        return (first, *messages[1:])
    return (Message(role="system", content=instructions), *messages)


def _content(turn: _Turn, at: str) -> str:
    match turn.content:
        case str() as text:
            return text
        case None if turn.role == "assistant":
            return turn.refusal or ""
        case list() as parts if parts:
            # A line between parts, as llama.cpp's server joins them.
            return "\n".join(_part(as_object(part, f"{at}[{j}]"), f"{at}[{j}]") for j, part in enumerate(parts))
        case _:
            raise InvalidRequest(f"Invalid '{at}': expected a string or a non-empty array of parts.", param=at)


def _part(part: JsonObject, at: str) -> str:
    kind = part.get("type")
    if isinstance(kind, str) and kind in _NOT_TEXT:
        raise UnsupportedParameter(f"'{at}' is a part of type '{kind}'; only text can be honoured.", param=at)
    name = "refusal" if kind == "refusal" else "text"
    if kind not in ("text", "refusal"):
        raise InvalidRequest(f"Invalid '{at}.type': expected 'text'.", param=f"{at}.type")
    text = part.get(name)
    if not isinstance(text, str):
        raise InvalidRequest(f"Invalid '{at}.{name}': expected a string.", param=f"{at}.{name}")
    return text
