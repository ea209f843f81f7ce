"""JSON schemas of the fields that are checked by hand, because no type says what they take.

`msgspec` gives such a field the schema that allows everything; what stands here replaces it, by name of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Schema: TypeAlias = Mapping[str, object]

_NULL: Schema = {"type": "null"}
_TEXT: Schema = {"type": "string"}


def _list_of(items: Schema, **more: object) -> Schema:
    return {"type": "array", "items": items, **more}


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": required}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, _NULL]}


_TEXT_PART = _object(["type", "text"], type={"const": "text"}, text=_TEXT)
_FUNCTION = _object(
    ["name"],
    name={"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
    description=_TEXT,
    parameters={"type": "object", "description": "a JSON schema"},
)
_TOOLS = _maybe(_list_of(_object(["type", "function"], type={"const": "function"}, function=_FUNCTION)))
_SOME_TEXT: Schema = {"type": "string", "minLength": 1}
_STOP = _maybe({"anyOf": [_SOME_TEXT, _list_of(_SOME_TEXT, maxItems=4)]})
_TEXTS: Schema = {"anyOf": [_SOME_TEXT, _list_of(_SOME_TEXT, minItems=1)]}
_MESSAGE = _object(
    ["role", "content"],
    role={"enum": ["system", "developer", "user", "assistant"]},
    content={"anyOf": [_TEXT, _list_of(_TEXT_PART, minItems=1)]},
)
_MESSAGES = _list_of(_MESSAGE, minItems=1, maxItems=2048)
_FORMAT = _maybe(
    {
        "anyOf": [
            _object(["type"], type={"enum": ["text", "json_object"]}),
            _object(
                ["type", "json_schema"],
                type={"const": "json_schema"},
                json_schema=_object(["name", "schema"], name=_TEXT, schema={"type": "object"}),
            ),
        ]
    }
)
_CHORUS: Schema = _maybe({"$ref": "#/components/schemas/ChorusFields"})
_SAMPLING: Mapping[str, Schema] = {
    "stop": _STOP,
    "stream_options": _maybe(_object([], include_usage={"type": "boolean"})),
    "x_chorus": _CHORUS,
}
_KEEP_ALIVE: Schema = _maybe(
    {
        "anyOf": [{"type": "number"}, {"type": "string", "pattern": "^-?[0-9]{1,6}(ms|s|m|h)?$"}],
        "description": "seconds, or a text such as 5m; 0 frees the model, -1 keeps it",
    }
)
_THINK: Schema = _maybe({"anyOf": [{"type": "boolean"}, {"enum": ["low", "medium", "high"]}]})
_OLLAMA: Mapping[str, Schema] = {
    "options": _maybe({"$ref": "#/components/schemas/OllamaOptions"}),
    "format": _maybe({"anyOf": [{"const": "json"}, {"type": "object", "description": "a JSON schema"}]}),
    "keep_alive": _KEEP_ALIVE,
    "think": _THINK,
}
_CLAUDE: Mapping[str, Schema] = {
    "messages": _list_of(
        _object(
            ["role", "content"],
            role={"enum": ["user", "assistant"]},
            content={"anyOf": [{"type": "string", "minLength": 1}, _list_of(_TEXT_PART, minItems=1)]},
        ),
        minItems=1,
    ),
    "system": _maybe({"anyOf": [_TEXT, _list_of(_TEXT_PART)]}),
    "tools": _maybe(
        _list_of(_object(["name", "input_schema"], name=_TEXT, description=_TEXT, input_schema={"type": "object"}))
    ),
    "x_chorus": _CHORUS,
}

_METADATA_VALUE: Schema = {"anyOf": [_TEXT, {"type": "number"}, {"type": "boolean"}]}
_METADATA_VALUES: Schema = {"anyOf": [_METADATA_VALUE, _list_of(_METADATA_VALUE, minItems=1, maxItems=64)]}
_BOUND: Schema = _maybe({"anyOf": [_TEXT, {"type": "number"}]})
_FIELD_NAMES: Schema = {"pattern": r"^[\w.-]{1,64}$"}
_METADATA: Schema = _maybe(
    {"type": "object", "propertyNames": _FIELD_NAMES, "maxProperties": 64, "additionalProperties": _METADATA_VALUES}
)
_FILTER: Schema = _maybe(
    {
        "type": "object",
        "propertyNames": _FIELD_NAMES,
        "maxProperties": 16,
        "additionalProperties": {
            "anyOf": [
                _METADATA_VALUES,
                {
                    "type": "object",
                    "properties": {"in": _METADATA_VALUES, "not": _METADATA_VALUES, "gte": _BOUND, "lte": _BOUND},
                    "additionalProperties": False,
                },
            ]
        },
    }
)

_RAG: Schema = _maybe({"anyOf": [{"type": "boolean"}, {"$ref": "#/components/schemas/ChatOption"}]})

PARTS: Mapping[str, Mapping[str, Schema]] = {
    "ChatCompletionRequest": {
        **_SAMPLING,
        "messages": _MESSAGES,
        "rag": _RAG,
        "response_format": _FORMAT,
        "tools": _TOOLS,
        "tool_choice": _maybe({"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]}),
    },
    "CompletionRequest": {**_SAMPLING, "prompt": {"anyOf": [_TEXT, _list_of(_TEXT, minItems=1, maxItems=16)]}},
    "ResponsesRequest": {
        "input": {"anyOf": [_SOME_TEXT, _list_of(_MESSAGE, minItems=1)]},
        "x_chorus": _CHORUS,
    },
    "EmbeddingsRequest": {"input": _TEXTS, "x_chorus": _CHORUS},
    "RerankRequest": {"documents": _list_of(_SOME_TEXT, minItems=1, maxItems=10_000), "x_chorus": _CHORUS},
    "OllamaEmbedRequest": {"input": _maybe(_TEXTS), "keep_alive": _KEEP_ALIVE},
    "OllamaEmbeddingsRequest": {"prompt": _maybe(_TEXT), "keep_alive": _KEEP_ALIVE},
    "TaskRequest": {"messages": _maybe(_MESSAGES), "response_format": _FORMAT},
    "OllamaChatRequest": {
        **_OLLAMA,
        "messages": _maybe(
            _list_of(_object(["role", "content"], role={"enum": ["system", "user", "assistant"]}, content=_TEXT))
        ),
        "tools": _TOOLS,
        "rag": _RAG,
    },
    "OllamaGenerateRequest": {**_OLLAMA, "images": _maybe(_list_of(_TEXT, maxItems=0))},
    "OllamaOptions": {"stop": _STOP},
    "DocumentRequest": {"metadata": _METADATA},
    "ImportRequest": {
        "messages": _list_of(
            _object(["role", "content"], role={"enum": ["user", "assistant"]}, content=_TEXT), maxItems=5000
        )
    },
    "SearchRequest": {"filter": _FILTER},
    "AskRequest": {"filter": _FILTER},
    "ChatOption": {"filter": _FILTER},
    "LoadRequest": {"keep_alive": _KEEP_ALIVE},
    "MessagesRequest": {**_CLAUDE, "rag": _RAG},
    "CountRequest": {name: part for name, part in _CLAUDE.items() if name != "x_chorus"},
}
