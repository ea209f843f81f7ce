"""Makes the document: OpenAPI 3.1, whose schemas are those that check the requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TypeAlias, cast

import msgspec

import chorus_proto
from chorus_http.openapi.parts import PARTS
from chorus_http.openapi.table import EVENTS, FORM, JSON, LINES, OPERATIONS, REQUESTS, Kind, Told
from chorus_http.rights import ANY_KEY, PUBLIC, right_of

Schema: TypeAlias = dict[str, object]

_REFS = "#/components/schemas/"
_VARIABLE = re.compile(r"<(?:\w+:)?(\w+)>")
_ANYWHERE = {
    400: "The request cannot be understood or honoured; the message names the field.",
    401: "A key is needed, or this one is none.",
    403: "This key may not do that.",
    404: "No such model, PC or thing.",
    405: "The path does not take this method.",
    413: "The body is over the limit.",
    429: "Too many requests; Retry-After says when to come again.",
    502: "A PC or its engine failed.",
    503: "Nobody can serve it now; Retry-After says when to come again.",
    504: "The time that the request had is up.",
}


def openapi_document() -> Schema:
    """Made once a process: it depends on nothing but the code."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chorus",
            "version": chorus_proto.__version__,
            "description": "Several PCs as one local-LLM service: the APIs of OpenAI, Ollama and Anthropic, the verbs "
            "of llama.cpp's router, and what only Chorus has.",
        },
        "tags": [{"name": name} for name in dict.fromkeys(told.tag for told in OPERATIONS.values())],
        "paths": _paths(),
        "components": {
            "schemas": dict(sorted(_components().items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> Schema:
    paths: dict[str, Schema] = {}
    for name, told in OPERATIONS.items():
        method, _, rule = name.partition(" ")
        path = _VARIABLE.sub(r"{\1}", rule)
        paths.setdefault(path, {})[method.lower()] = _operation(method, rule, told)
    return cast("Schema", paths)


def _operation(method: str, rule: str, told: Told) -> Schema:
    right = right_of(method, rule)
    shown: Schema = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{rule}").strip("_"),
        "summary": told.summary,
        "tags": [told.tag],
        "responses": _responses(told),
    }
    if right is not PUBLIC:
        scopes = "any key" if right == ANY_KEY else " or ".join(sorted(right or ()))
        shown["description"] = f"Where keys are asked for: {scopes}."
        shown["security"] = [{"key": []}]
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _VARIABLE.findall(rule)
    ]
    for name, kind in told.query:
        parameters.append({"name": name, "in": "query", "schema": {"type": kind}})
    if parameters:
        shown["parameters"] = parameters
    if told.request:
        content: Schema = {JSON: {"schema": _one_of(told.request)}}
        if told.form is not None:
            content[FORM] = {"schema": {"$ref": _REFS + told.form.__name__}}
        shown["requestBody"] = {"required": not told.body_optional, "content": content}
    return shown


def _responses(told: Told) -> Schema:
    responses: dict[str, Schema] = {}
    content: Schema = {}
    if told.answer:
        content[JSON] = {"schema": _one_of([kind.__name__ for kind in told.answer])}
    for kind in filter(None, told.also):
        # Of a stream OpenAPI 3.1 can only tell the type.
        content[kind] = {"schema": {"type": "object"}} if kind == JSON else {}
    good: Schema = {"description": _described(told), "content": content}
    responses[str(told.status)] = good
    if told.status != 200 and set(told.also) & {EVENTS, LINES}:
        responses["200"] = {"description": "A stream.", "content": {kind: content.pop(kind) for kind in told.also}}
    refused = {JSON: {"schema": {"$ref": _REFS + told.refused.__name__}}}
    for status, words in _ANYWHERE.items():
        responses[str(status)] = {"description": words, "content": refused}
    for status in told.errors:
        accepted: Schema = {"description": "It goes on; see its id.", "content": content}
        denied: Schema = {"description": HTTPStatus(status).phrase, "content": refused}
        responses[str(status)] = accepted if status < 300 else denied
    return cast("Schema", responses)


def _one_of(names: Sequence[str]) -> Schema:
    shapes: list[object] = [{"$ref": _REFS + name} for name in names]
    return cast("Schema", shapes[0]) if len(shapes) == 1 else {"anyOf": shapes}


def _described(told: Told) -> str:
    streams = {EVENTS: "server-sent events", LINES: "one object a line"}
    named = [words for kind, words in streams.items() if kind in told.also]
    return "; with `stream` ".join(["The answer", *named]) + "."


def _components() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for name, kind in REQUESTS.items():
        for each, schema in _schemas_of(kind, name):
            found[each] = schema
        own = found[name]
        own["additionalProperties"] = False
        properties = cast("dict[str, Schema]", own["properties"])
        for field, part in PARTS.get(name, {}).items():
            properties[field] = dict(part)
    for told in OPERATIONS.values():
        for kind in (*told.answer, told.refused):
            found |= dict(_schemas_of(kind, kind.__name__))
        if told.form is not None:
            found |= _form(told.form)
    return found


def _form(kind: Kind) -> dict[str, Schema]:
    """The fields that are checked, and the files: any number, the name of their part does not matter."""
    found = dict(_schemas_of(kind, kind.__name__))
    own = found[kind.__name__]
    own["additionalProperties"] = False
    cast("dict[str, Schema]", own["properties"])["file"] = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
    }
    own["required"] = ["file"]
    return found


def _schemas_of(kind: Kind, name: str) -> Iterator[tuple[str, Schema]]:
    """The kind's schema under `name`, then those of what it is made of; private ones get the name before theirs."""
    (_,), components = msgspec.json.schema_components((kind,), schema_hook=_hand_checked, ref_template=_REFS + "{name}")
    names = {each: f"{name}{each.lstrip('_')}" if each.startswith("_") else each for each in components}
    names[kind.__name__] = name
    for each, schema in components.items():
        renamed = cast("Schema", _renamed(schema, names))
        renamed["title"] = names[each]
        yield names[each], renamed


def _hand_checked(kind: type[object]) -> Schema:
    """Of a field that allows everything as far as types go; see `parts`."""
    if kind is object:
        return {"description": "checked by hand"}  # msgspec takes an empty schema for none
    raise NotImplementedError(kind)


def _renamed(value: object, names: Mapping[str, str]) -> object:
    if isinstance(value, dict):
        items = cast("Schema", value).items()
        return {
            key: _REFS + names[str(inner).removeprefix(_REFS)] if key == "$ref" else _renamed(inner, names)
            for key, inner in items
        }
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in cast("list[object]", value)]
    return value
