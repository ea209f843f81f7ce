"""OpenAI's `response_format`, checked before an engine turns a schema into a grammar.

A grammar compiler is where a hostile schema hurts: recursion, huge repeat counts and nested quantifiers blow it up, and
it runs in the engine that others share. So what costs more than it says is refused here.
"""

from __future__ import annotations

import re

import msgspec

from chorus_proto.dialects.fields import as_object
from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.errors import InvalidRequest

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_PATTERN_CHARACTERS = 512
MAX_REPEAT = 2000
"""llama.cpp's own bound on a grammar's repetitions."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NESTED_QUANTIFIER = re.compile(r"[*+}]\??\)[*+{]")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_encoder = msgspec.json.Encoder()


def read_response_format(value: JsonValue) -> str | None:
    """The object as JSON text, or None for plain text. Raises InvalidRequest naming the part at fault."""
    if value is None:
        return None
    body = as_object(value, "response_format")
    match body.get("type"):
        case "text":
            return None
        case "json_object":
            return '{"type":"json_object"}'
        case "json_schema":
            return _json_schema(body)
        case _:
            raise InvalidRequest(
                "Invalid 'response_format.type': expected one of 'text', 'json_object', 'json_schema'.",
                param="response_format.type",
            )


def _json_schema(body: JsonObject) -> str:
    at = "response_format.json_schema"
    wrapper = as_object(body.get("json_schema"), at)
    name = wrapper.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(f"Invalid '{at}.name': expected 1 to 64 of a-z, A-Z, 0-9, _ and -.", param=f"{at}.name")
    schema = as_object(wrapper.get("schema", {}), f"{at}.schema")
    text = _encoder.encode({"type": "json_schema", "json_schema": wrapper})
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"Invalid '{at}': larger than {MAX_SCHEMA_BYTES} bytes.", param=at)
    check_schema(schema, at=f"{at}.schema")
    return text.decode()


def check_schema(schema: JsonObject, *, at: str) -> None:
    """Raises InvalidRequest for a schema that no grammar should be made of; `at` is its path in the request."""
    references: dict[str, set[str]] = {}
    _walk(schema, at, 0, "", references)
    for start in references:
        _refuse_cycle(start, references, at)


def _walk(value: JsonValue, at: str, depth: int, inside: str, references: dict[str, set[str]]) -> None:
    if depth > MAX_SCHEMA_DEPTH:
        raise InvalidRequest(f"Invalid '{at}': nested deeper than {MAX_SCHEMA_DEPTH} levels.", param=at)
    if isinstance(value, list):
        for item in value:
            _walk(item, at, depth + 1, inside, references)
    elif isinstance(value, dict):
        _check_keywords(value, at, inside, references)
        for name, item in value.items():
            definitions = depth == 0 and name in ("$defs", "definitions") and isinstance(item, dict)
            if definitions and isinstance(item, dict):
                for key, definition in item.items():
                    _walk(definition, at, depth + 2, f"#/{name}/{key}", references)
            else:
                _walk(item, at, depth + 1, inside, references)


def _check_keywords(schema: JsonObject, at: str, inside: str, references: dict[str, set[str]]) -> None:
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if not reference.startswith("#/"):
            raise InvalidRequest(f"Invalid '{at}': $ref must point inside the schema ('#/...').", param=at)
        references.setdefault(inside, set()).add("/".join(reference.split("/")[:3]))
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        if len(pattern) > MAX_PATTERN_CHARACTERS:
            raise InvalidRequest(f"Invalid '{at}': a pattern is over {MAX_PATTERN_CHARACTERS} characters.", param=at)
        if _NESTED_QUANTIFIER.search(pattern):
            raise InvalidRequest(f"Invalid '{at}': a pattern repeats a repetition, such as (a+)+.", param=at)
    for name in _COUNTS:
        count = schema.get(name)
        if type(count) is int and not 0 <= count <= MAX_REPEAT:
            raise InvalidRequest(f"Invalid '{at}': {name} must lie in 0 to {MAX_REPEAT}.", param=at)


def _refuse_cycle(start: str, references: dict[str, set[str]], at: str) -> None:
    reached: set[str] = set()
    waiting = list(references[start])
    while waiting:
        target = waiting.pop()
        if target == start or target in ("#", "#/"):
            raise InvalidRequest(f"Invalid '{at}': a $ref leads back to itself; write the schema out.", param=at)
        if target not in reached:
            reached.add(target)
            waiting.extend(references.get(target, ()))
