"""Anthropic's `tools` and `tool_choice`, checked and put into the shape that engines take."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from chorus_proto.dialects import openai_tools
from chorus_proto.dialects.fields import Refused, Unchecked, as_object, read_fields
from chorus_proto.dialects.openai_tools import MAX_TOOLS, TOOL_NAME
from chorus_proto.dialects.response_format import check_schema
from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.errors import InvalidRequest, UnsupportedParameter

_REFUSED_TOOL = {
    "input_examples": Refused(harmless=(None, []), fix="Put them into the description."),
    "allowed_callers": Refused(harmless=(None, [], ["direct"]), fix="Only the model itself calls tools here."),
}


@dataclass(frozen=True, slots=True)
class Tools:
    """As `Generation` holds them. None: the request names no tool that may be called."""

    tools: str | None = None
    choice: str | None = None
    parallel: bool | None = None


class _Tool(msgspec.Struct):
    name: str
    input_schema: Unchecked = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    # Accepted: when a tool's definition is read, and how its input is streamed, changes no answer.
    cache_control: Unchecked = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def read_tools(tools: JsonValue, choice: JsonValue) -> Tools:
    """Raises InvalidRequest, UnknownParameter or UnsupportedParameter naming the part at fault."""
    if tools is not None and not isinstance(tools, list):
        raise InvalidRequest("Invalid 'tools': expected an array.", param="tools")
    if tools and len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"Invalid 'tools': at most {MAX_TOOLS}, got {len(tools)}.", param="tools")
    declared: list[JsonValue] = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools or [])]
    if choice is None:
        found = openai_tools.read_tools(declared, None)
        return Tools(found.tools, found.choice)
    wanted = read_fields(as_object(choice, "tool_choice"), _Choice, refused={}, at="tool_choice")
    found = openai_tools.read_tools(declared, _choice(wanted))
    one_at_a_time = found.tools is not None and wanted.disable_parallel_tool_use
    return Tools(found.tools, found.choice, False if one_at_a_time else None)


def _tool(value: JsonValue, at: str) -> JsonObject:
    body = as_object(value, at)
    kind = body.get("type")
    if isinstance(kind, str) and kind != "custom":
        raise UnsupportedParameter(
            f"'{at}' is the server tool '{kind[:64]}'; only tools with an input_schema can be called.",
            param=f"{at}.type",
        )
    tool = read_fields(body, _Tool, refused=_REFUSED_TOOL, at=at)
    if not TOOL_NAME.fullmatch(tool.name):
        raise InvalidRequest(
            f"Invalid '{at}.name': expected 1 to 64 of a-z, A-Z, 0-9, _ . : and -.", param=f"{at}.name"
        )
    schema = as_object(tool.input_schema, f"{at}.input_schema")
    check_schema(schema, at=f"{at}.input_schema")
    function: JsonObject = {"name": tool.name, "parameters": schema}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: _Choice) -> JsonValue:
    match choice.type:
        case "auto" | "none":
            return choice.type
        case "any":
            return "required"
        case "tool" if choice.name:
            return {"type": "function", "function": {"name": choice.name}}
        case "tool":
            raise InvalidRequest("Missing required parameter: 'tool_choice.name'.", param="tool_choice.name")
        case _:
            raise InvalidRequest(
                "Invalid 'tool_choice.type': expected 'auto', 'any', 'tool' or 'none'.", param="tool_choice.type"
            )
