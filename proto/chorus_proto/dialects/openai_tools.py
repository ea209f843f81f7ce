"""OpenAI's `tools`, `tool_choice` and the calls of earlier turns, checked before an engine makes a grammar of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from chorus_proto.dialects.fields import Unchecked, as_object, read_fields
from chorus_proto.dialects.response_format import check_schema
from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import FunctionCall, ToolCall

MAX_TOOLS = 128
MAX_TOOLS_BYTES = 256 * 1024
MAX_CALLS = 128

TOOL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Tools:
    """As `Generation` holds them. None: the request names no tool that may be called."""

    tools: str | None = None
    choice: str | None = None


class _Tool(msgspec.Struct):
    type: str
    function: Unchecked = None


class _Function(msgspec.Struct, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: Unchecked = None
    strict: bool | None = None


class _Declared(msgspec.Struct):
    type: str
    function: _Function


class _Choice(msgspec.Struct):
    type: str
    function: Unchecked = None


class _Named(msgspec.Struct):
    name: str


class _Call(msgspec.Struct):
    function: Unchecked
    id: str = ""
    type: str = "function"
    index: int | None = None


def read_tools(tools: JsonValue, choice: JsonValue) -> Tools:
    """Raises InvalidRequest, UnknownParameter or UnsupportedParameter naming the part at fault.

    A choice of one tool by name becomes that tool alone and `required`, which every engine can do.
    """
    declared = _declared(tools)
    if choice is None or choice == "auto":
        wanted = None
    elif choice == "none":
        return Tools()
    elif not declared:
        raise InvalidRequest("'tool_choice' needs 'tools'.", param="tool_choice")
    elif choice == "required":
        wanted = '"required"'
    elif isinstance(choice, dict):
        name = _chosen(choice)
        declared = [tool for tool in declared if tool.function.name == name]
        if not declared:
            raise InvalidRequest(f"'tool_choice' names '{name[:64]}', which is not in 'tools'.", param="tool_choice")
        wanted = '"required"'
    else:
        raise InvalidRequest(
            "Invalid 'tool_choice': expected 'none', 'auto', 'required' or an object that names a function.",
            param="tool_choice",
        )
    if not declared:
        return Tools()
    text = _encode(declared)
    if len(text) > MAX_TOOLS_BYTES:
        raise InvalidRequest(f"Invalid 'tools': larger than {MAX_TOOLS_BYTES} bytes.", param="tools")
    return Tools(text.decode(), wanted)


def _declared(tools: JsonValue) -> list[_Declared]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise InvalidRequest("Invalid 'tools': expected an array.", param="tools")
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"Invalid 'tools': at most {MAX_TOOLS}, got {len(tools)}.", param="tools")
    return [_tool(as_object(tool, f"tools[{place}]"), f"tools[{place}]") for place, tool in enumerate(tools)]


def _tool(body: JsonObject, at: str) -> _Declared:
    tool = read_fields(body, _Tool, refused={}, at=at)
    if tool.type != "function":
        raise UnsupportedParameter(f"'{at}' is of type '{tool.type[:64]}'; only functions can be called.", param=at)
    function = read_fields(as_object(tool.function, f"{at}.function"), _Function, refused={}, at=f"{at}.function")
    if not TOOL_NAME.fullmatch(function.name):
        raise InvalidRequest(
            f"Invalid '{at}.function.name': expected 1 to 64 of a-z, A-Z, 0-9, _ . : and -.",
            param=f"{at}.function.name",
        )
    if function.parameters is not None:
        schema = as_object(function.parameters, f"{at}.function.parameters")
        check_schema(schema, at=f"{at}.function.parameters")
    return _Declared("function", function)


def _chosen(choice: JsonObject) -> str:
    found = read_fields(choice, _Choice, refused={}, at="tool_choice")
    if found.type != "function":
        raise UnsupportedParameter(
            "'tool_choice.type': only 'function' can be honoured here.", param="tool_choice.type"
        )
    at = "tool_choice.function"
    return read_fields(as_object(found.function, at), _Named, refused={}, at=at).name


def read_calls(value: JsonValue, at: str) -> tuple[ToolCall, ...]:
    """The `tool_calls` of an assistant's turn; `at` is their path."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_CALLS:
        raise InvalidRequest(f"Invalid '{at}': expected an array of at most {MAX_CALLS} calls.", param=at)
    return tuple(_call(as_object(call, f"{at}[{place}]"), f"{at}[{place}]") for place, call in enumerate(value))


class _Called(msgspec.Struct):
    name: str
    arguments: Unchecked = None
    index: int | None = None
    """Of Ollama's shape; its clients send back what they were told. The calls stand in their order anyway."""


def _call(body: JsonObject, at: str) -> ToolCall:
    call = read_fields(body, _Call, refused={}, at=at)
    if call.type != "function":
        raise UnsupportedParameter(f"'{at}' is of type '{call.type[:64]}'; only functions are known.", param=at)
    function = read_fields(as_object(call.function, f"{at}.function"), _Called, refused={}, at=f"{at}.function")
    arguments = function.arguments
    if arguments is None:
        arguments = "{}"
    elif isinstance(arguments, dict):  # Ollama's shape
        arguments = _encode(arguments).decode()
    elif not isinstance(arguments, str):
        raise InvalidRequest(
            f"Invalid '{at}.function.arguments': expected JSON text.", param=f"{at}.function.arguments"
        )
    return ToolCall(id=call.id, function=FunctionCall(name=function.name, arguments=arguments))
