"""No field of a request is dropped silently: each one changes what is asked, is refused by name, or is listed here
with the reason why it asks for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec
import pytest

from chorus_proto.dialects import (
    anthropic_request,
    embeddings_request,
    ollama_embed_request,
    ollama_request,
    openai_request,
    responses_request,
)
from chorus_proto.dialects.chorus_fields import ChorusFields
from chorus_proto.errors import UnsupportedParameter

Json: TypeAlias = dict[str, object]

TEXT = "Which town is it?"
TURNS = [{"role": "user", "content": TEXT}]
FUNCTION: Json = {"name": "weather", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]
SCHEMA: Json = {"type": "object", "properties": {"town": {"type": "string"}}}
IMAGE = "iVBORw0KGgo="

MODELS_OWN = "how a model is loaded and computed is the PC's to know"
NO_CUT = "a prompt that does not fit is refused and never cut"
NOBODYS = "asks for nothing that an answer from one's own PCs would show"


class Field:
    """A value of a field, beside others that it needs to mean something."""

    def __init__(self, value: object, **beside: object) -> None:
        self.value = value
        self.beside = beside


SAMPLING: Json = {
    "model": "other:1b",
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "stop": ["x"],
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "logit_bias": {"5": -10},
    "stream": True,
    "stream_options": Field({"include_usage": True}, stream=True),
    "user": "ann",
    "n": 2,
    "x_chorus": {"node": "attic"},
}
OPTIONS: Json = {
    "num_predict": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "typical_p": 0.5,
    "repeat_penalty": 1.5,
    "repeat_last_n": 5,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 7,
    "stop": ["x"],
}
OPTIONS_WITHOUT_EFFECT: dict[str, str] = {
    **dict.fromkeys(["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "numa"], MODELS_OWN),
    **dict.fromkeys(["low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock"], MODELS_OWN),
    **dict.fromkeys(["mirostat_tau", "mirostat_eta"], "of 'mirostat', which is refused"),
}
OLLAMA: Json = {
    "model": "other:1b",
    "stream": False,
    "format": "json",
    "options": {"seed": 1},
    "keep_alive": "5m",
    "think": True,
    "logprobs": True,
    "top_logprobs": Field(2, logprobs=True),
}
CLAUDE: Json = {
    "model": "other:1b",
    "messages": [{"role": "user", "content": "Other"}],
    "system": "Be kind.",
    "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
    "tool_choice": Field({"type": "any"}, tools=[{"name": "weather", "input_schema": {"type": "object"}}]),
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "output_config": {"effort": "low"},
}
EMBEDDING: Json = {"model": "other:1b", "dimensions": 5}


class Api:
    """One kind of request: what reads it, its least body, a value for each field, and what asks for nothing."""

    def __init__(
        self,
        fields: type[msgspec.Struct],
        read: Callable[[bytes], object],
        base: Json,
        values: Json,
        nothing: Mapping[str, str] | None = None,
        *,
        inside: str = "",
    ) -> None:
        self.fields = fields
        self.read = read
        self.base = base
        self.values = values
        self.nothing = nothing or {}
        self.inside = inside

    def asked(self, more: Json) -> object:
        body = {**self.base, self.inside: more} if self.inside else {**self.base, **more}
        return self.read(msgspec.json.encode(body))


APIS = {
    "chat": Api(
        openai_request.CHAT_FIELDS,
        openai_request.parse_chat,
        {"model": "tiny:1b", "messages": TURNS},
        {
            **SAMPLING,
            "messages": [{"role": "user", "content": "Other"}],
            "max_completion_tokens": 5,
            "logprobs": True,
            "top_logprobs": Field(2, logprobs=True),
            "response_format": {"type": "json_object"},
            "tools": TOOLS,
            "tool_choice": Field("required", tools=TOOLS),
            "parallel_tool_calls": Field(False, tools=TOOLS),
            "reasoning_effort": "low",
            "reasoning": "low",
            "verbosity": "low",
            "separate_thinking": False,
            "include_channels": ["analysis"],
            "developer_instructions": "Be kind.",
            "rag": True,
            "safety_identifier": "ann",
            "prompt_cache_key": "ann",
        },
        {"metadata": NOBODYS, "store": NOBODYS, "service_tier": NOBODYS, "prompt_cache_retention": NOBODYS},
    ),
    "completion": Api(
        openai_request.COMPLETION_FIELDS,
        openai_request.parse_completion,
        {"model": "tiny:1b", "prompt": TEXT},
        {**SAMPLING, "prompt": "Other", "suffix": "!", "logprobs": 2, "echo": True},
    ),
    "responses": Api(
        responses_request.RESPONSES_FIELDS,
        responses_request.parse_responses,
        {"model": "tiny:1b", "input": TEXT},
        {
            "model": "other:1b",
            "input": "Other",
            "instructions": "Be kind.",
            "previous_response_id": "resp_1",
            "max_output_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.5,
            "top_logprobs": 2,
            "stream": True,
            "store": False,
            "background": True,
            "tools": [{"type": "function", **FUNCTION}],
            "tool_choice": Field("required", tools=[{"type": "function", **FUNCTION}]),
            "parallel_tool_calls": Field(False, tools=[{"type": "function", **FUNCTION}]),
            "text": {"verbosity": "high"},
            "reasoning": {"effort": "low"},
            "include": ["message.output_text.logprobs"],
            "metadata": {"a": "b"},
            "user": "ann",
            "x_chorus": {"node": "attic"},
            "safety_identifier": "ann",
            "prompt_cache_key": "ann",
        },
        {
            "stream_options": "obfuscation is against listeners of an encrypted line, and no text",
            "max_tool_calls": "of tools that the server calls; here callers call theirs",
            "truncation": NO_CUT,
            "service_tier": NOBODYS,
            "prompt_cache_retention": NOBODYS,
            "prompt_cache_options": NOBODYS,
        },
    ),
    "messages": Api(
        anthropic_request.MESSAGES_FIELDS,
        anthropic_request.parse_messages,
        {"model": "tiny:1b", "max_tokens": 9, "messages": TURNS},
        {
            **CLAUDE,
            "max_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.5,
            "top_k": 5,
            "stop_sequences": ["x"],
            "stream": True,
            "metadata": {"user_id": "ann"},
            "x_chorus": {"node": "attic"},
            "rag": True,
        },
        {
            "cache_control": "prefixes are cached without being told",
            "context_management": NO_CUT,
            "speed": NOBODYS,
            "service_tier": NOBODYS,
            "inference_geo": NOBODYS,
            "diagnostics": NOBODYS,
        },
    ),
    "count_tokens": Api(
        anthropic_request.COUNT_FIELDS,
        anthropic_request.parse_count,
        {"model": "tiny:1b", "messages": TURNS},
        CLAUDE,
        {"cache_control": NOBODYS, "context_management": NO_CUT, "speed": NOBODYS},
    ),
    "ollama chat": Api(
        ollama_request.CHAT_FIELDS,
        ollama_request.parse_chat,
        {"model": "tiny:1b", "messages": TURNS},
        {**OLLAMA, "messages": [{"role": "user", "content": "Other"}], "tools": TOOLS, "rag": True},
        {"truncate": NO_CUT, "shift": NO_CUT},
    ),
    "ollama generate": Api(
        ollama_request.GENERATE_FIELDS,
        ollama_request.parse_generate,
        {"model": "tiny:1b", "prompt": TEXT},
        {**OLLAMA, "prompt": "Other", "suffix": "!", "system": "Be kind.", "raw": True, "images": [IMAGE]},
        {"truncate": NO_CUT, "shift": NO_CUT},
    ),
    "ollama options": Api(
        ollama_request.OPTIONS_FIELDS,
        ollama_request.parse_chat,
        {"model": "tiny:1b", "messages": TURNS},
        OPTIONS,
        OPTIONS_WITHOUT_EFFECT,
        inside="options",
    ),
    "embeddings": Api(
        embeddings_request.EMBEDDINGS_FIELDS,
        embeddings_request.parse_embeddings,
        {"model": "tiny:1b", "input": TEXT},
        {**EMBEDDING, "input": ["a", "b"], "encoding_format": "base64", "user": "ann", "x_chorus": {"node": "attic"}},
    ),
    "rerank": Api(
        embeddings_request.RERANK_FIELDS,
        embeddings_request.parse_rerank,
        {"model": "tiny:1b", "query": TEXT, "documents": ["a", "b"]},
        {
            "model": "other:1b",
            "query": "Other",
            "documents": ["c"],
            "top_n": 1,
            "return_documents": True,
            "user": "ann",
            "x_chorus": {"node": "attic"},
        },
    ),
    "ollama embed": Api(
        ollama_embed_request.EMBED_FIELDS,
        ollama_embed_request.parse_embed,
        {"model": "tiny:1b", "input": TEXT},
        {**EMBEDDING, "input": "Other", "truncate": False, "keep_alive": "5m"},
        {"options": MODELS_OWN},
    ),
    "ollama embeddings": Api(
        ollama_embed_request.EMBEDDINGS_FIELDS,
        ollama_embed_request.parse_embeddings,
        {"model": "tiny:1b", "prompt": TEXT},
        {"model": "other:1b", "prompt": "Other", "keep_alive": "5m"},
        {"options": MODELS_OWN},
    ),
    "x_chorus": Api(
        ChorusFields,
        openai_request.parse_chat,
        {"model": "tiny:1b", "messages": TURNS},
        {
            "node": "attic",
            "strategy": "random",
            "queue_within_s": 5,
            "within_s": 5,
            "ignore_end": True,
            "priority": "batch",
            "routing": True,
        },
        inside="x_chorus",
    ),
}


@pytest.mark.parametrize("name", APIS)
def test_every_field_has_a_value_or_a_reason(name: str) -> None:
    api = APIS[name]
    assert set(api.fields.__struct_fields__) == set(api.values) | set(api.nothing)
    assert not set(api.values) & set(api.nothing)


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, api in APIS.items() for field in api.values], ids=str
)
def test_a_field_changes_what_is_asked_or_is_refused_by_name(name: str, field: str) -> None:
    api = APIS[name]
    value = api.values[field]
    value = value if isinstance(value, Field) else Field(value)
    without = api.asked(value.beside)
    try:
        assert api.asked({**value.beside, field: value.value}) != without
    except UnsupportedParameter as refused:
        assert refused.param == field
