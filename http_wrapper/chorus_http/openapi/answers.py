"""The shapes of answers that are written down elsewhere, byte by byte, as callers may rely on them.

They serve the description of the API alone; a test holds real answers against them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Json: TypeAlias = dict[str, object]


class Answer(msgspec.Struct):
    """Fields beyond those named may come: clients skip what they do not know."""


class OpenAIErrorBody(Answer):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str


class OpenAIError(Answer):
    error: OpenAIErrorBody


class OllamaError(Answer, omit_defaults=True):
    error: str
    code: str
    param: str | None = None


class AnthropicErrorBody(Answer):
    type: str
    message: str


class AnthropicError(Answer):
    type: Literal["error"]
    error: AnthropicErrorBody
    request_id: str


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(Answer):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[Json] | None = None


class ChatChoice(Answer):
    index: int
    message: ChatMessage
    finish_reason: str
    logprobs: Json | None


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(Answer):
    index: int
    text: str
    finish_reason: str
    logprobs: Json | None


class Completion(Answer):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class Embedding(Answer):
    """`embedding` is a list of numbers, or base64 of float32, little-endian, where that was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Answer):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Json


class Ranked(Answer):
    model: str
    results: list[Json]
    usage: Json


class OllamaEmbedded(Answer):
    model: str
    embeddings: list[list[float]]


class OllamaVector(Answer):
    embedding: list[float]


class OpenAIModel(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    name: str


class OpenAIModels(Answer):
    object: Literal["list"]
    data: list[OpenAIModel]


class AnthropicUsage(Answer):
    input_tokens: int
    output_tokens: int


class AnthropicMessage(Answer):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Json]
    stop_reason: str | None
    stop_sequence: str | None
    usage: AnthropicUsage


class AnthropicCount(Answer):
    input_tokens: int


class OllamaMessage(Answer):
    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[Json] | None = None


class _OllamaAnswer(Answer, kw_only=True):
    """Durations are nanoseconds; they and the counts come with the last line."""

    model: str
    created_at: str
    done: bool
    done_reason: str | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class OllamaChat(_OllamaAnswer, kw_only=True):
    message: OllamaMessage


class OllamaGenerated(_OllamaAnswer, kw_only=True):
    response: str
    thinking: str | None = None


class OllamaDetails(Answer):
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaTag(Answer):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(Answer):
    models: list[OllamaTag]


class OllamaRunning(Answer):
    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    expires_at: str
    context_length: int


class OllamaPs(Answer):
    models: list[OllamaRunning]


class OllamaShown(Answer):
    model_info: Json
    capabilities: list[str]
    parameters: str
    template: str
    details: OllamaDetails


class OllamaVersion(Answer):
    version: str


class OllamaPulled(Answer, omit_defaults=True):
    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None


class Description(Answer):
    name: str
    version: str
    status: Literal["running"]
    endpoints: dict[str, str]


class HealthAnswer(Answer):
    healthy: bool
    connected_clients: int
    active_models: int
    message: str


class Readiness(Answer):
    ready: bool
    reason: str | None


class StatusAnswer(Answer):
    total_clients: int
    active_clients: int
    available_models: list[str]
    clients: list[Json]


class Reassigned(Answer):
    success: bool
    message: str
    assignments: list[Json]


class QueryMember(Answer):
    node_id: str
    node: str
    model: str
    text: str
    seconds: float
    tokens: int


class QueryAnswer(Answer):
    request_id: str
    prompt: str
    strategy: str
    answer: str
    response: str
    agreement: float
    seconds: float
    members: list[QueryMember]
    missing: list[str]


class RouterProps(Answer):
    role: Literal["router"]
    models_autoload: bool


class TransferShown(Answer):
    """A model on its way to a PC's disk. `share` 0-1 and `left_s` are null while the size is unknown."""

    transfer_id: str
    kind: str
    state: str
    model: str
    node: str
    done_bytes: int
    total_bytes: int | None


class Transfers(Answer):
    transfers: list[TransferShown]


class WakeSent(Answer):
    node: str
    packets: int
    message: str


class Queue(Answer):
    waiting: int
    running: int
    limit: int
    models: list[Json]
    waiting_requests: list[Json]
    running_requests: list[Json]


class Explained(Answer):
    """Which node would take the request, how the others rank, and why those that are out are."""


class Backends(Answer):
    total: int
    healthy: int
    backends: list[Json]


class BackendChanged(Answer):
    success: bool
    message: str


class OpenAIResponse(Answer):
    id: str
    object: Literal["response"]
    status: str
    model: str
    output: list[Json]


class ResponseDeleted(Answer):
    id: str
    object: str
    deleted: bool
