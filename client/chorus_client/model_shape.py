"""Turns a checked GGUF header into what sizing and placement need to know of the model."""

from __future__ import annotations

import math

from chorus_client.gguf import GgufHeader, LongValue
from chorus_proto.errors import LoadFailed
from chorus_proto.values import ModelShape

_ENCODERS = frozenset(
    {"bert", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "eurobert"},
)
"""Architectures that only embed and keep no KV cache (llama.cpp's llama-arch.cpp)."""

_FULL_LAYER_EVERY = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "cohere2": 4,
    "exaone4": 4,
}
"""One layer in so many sees the whole context, the others a window (`set_swa_pattern` in llama.cpp's llama-model.cpp).

A window in an architecture that is not here is not believed: memory is then over-estimated, never under-estimated.
"""

_POOLING_RANK = 4
"""`LLAMA_POOLING_TYPE_RANK` of llama.h."""

_LIMIT = 1 << 32
"""Counts in a shape are smaller: so much the messages of common.proto hold."""


def is_embedding(header: GgufHeader) -> bool:
    """Whether the model makes embeddings: an encoder, or one whose header names a pooling type other than none."""
    architecture = _architecture(header)
    pooling = header.metadata.get(f"{architecture}.pooling_type", 0)
    return architecture in _ENCODERS or (type(pooling) is int and pooling > 0)


def is_reranker(header: GgufHeader) -> bool:
    """Whether the model reads a query and a document together, and tells how well they fit."""
    return header.metadata.get(f"{_architecture(header)}.pooling_type") == _POOLING_RANK


def shape_of(header: GgufHeader) -> ModelShape:
    """The model's shape. Raises LoadFailed when the header lacks a number that every language model has.

    Where heads differ from layer to layer, `heads` is the largest and `kv_heads` the mean rounded up, so that
    `layers * kv_heads` is never less than the true sum. An encoder keeps no cache, so its `kv_heads` is 0.
    """
    architecture = _architecture(header)
    layers = _number(header, f"{architecture}.block_count")
    embedding_length = _number(header, f"{architecture}.embedding_length")
    heads_by_layer = _numbers(header, f"{architecture}.attention.head_count", (1,))
    kv_heads_by_layer = _numbers(header, f"{architecture}.attention.head_count_kv", heads_by_layer)
    heads = max(heads_by_layer)
    if heads == 0:
        raise LoadFailed(f"{architecture}.attention.head_count is 0 in the model file's header.")
    kv_heads = 0 if architecture in _ENCODERS else math.ceil(sum(kv_heads_by_layer) / len(kv_heads_by_layer))
    head_length = embedding_length // heads
    parameters = sum(tensor.elements for tensor in header.tensors)
    window, sliding_layers = _window(header, architecture, layers)
    return ModelShape(
        architecture=architecture,
        layers=layers,
        embedding_length=embedding_length,
        heads=heads,
        kv_heads=kv_heads,
        key_length=_number(header, f"{architecture}.attention.key_length", head_length),
        value_length=_number(header, f"{architecture}.attention.value_length", head_length),
        vocabulary=_vocabulary(header, architecture),
        trained_context_tokens=_number(header, f"{architecture}.context_length"),
        parameters=parameters,
        active_parameters=_active_parameters(header, architecture, parameters),
        sliding_window_tokens=window,
        sliding_layers=sliding_layers,
    )


def _architecture(header: GgufHeader) -> str:
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise LoadFailed("general.architecture is missing in the model file's header.")
    return architecture


def _number(header: GgufHeader, key: str, default: int | None = None) -> int:
    value = header.metadata.get(key, default)
    if value is None:
        raise LoadFailed(f"{key} is missing in the model file's header.")
    if type(value) is not int or not 0 < value < _LIMIT:
        raise LoadFailed(f"{key} is {value!r} in the model file's header, not a positive whole number below {_LIMIT}.")
    return value


def _numbers(header: GgufHeader, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """One number for all layers, or one for each; 0 is a layer without attention."""
    value = header.metadata.get(key, default)
    found = value if isinstance(value, tuple) else (value,)
    numbers = tuple(number for number in found if type(number) is int and 0 <= number < _LIMIT)
    if not numbers or len(numbers) != len(found):
        raise LoadFailed(f"{key} in the model file's header is not made of whole numbers.")
    return numbers


def _vocabulary(header: GgufHeader, architecture: str) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, LongValue) and tokens.length:
        return tokens.length
    table = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    in_table = table.dimensions[1] if table is not None and len(table.dimensions) > 1 else None
    return _number(header, f"{architecture}.vocab_size", in_table)


def _window(header: GgufHeader, architecture: str, layers: int) -> tuple[int | None, int | None]:
    """The sliding window in tokens and how many layers use it; (None, None) when all layers see everything."""
    window = header.metadata.get(f"{architecture}.attention.sliding_window")
    if type(window) is not int or not 0 < window < _LIMIT:
        return None, None
    pattern = header.metadata.get(f"{architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) == layers:
        return window, sum(1 for slides in pattern if slides)
    every = pattern if type(pattern) is int else _FULL_LAYER_EVERY.get(architecture)
    if every is None or every < 1:
        return None, None
    return window, layers - layers // every


def _active_parameters(header: GgufHeader, architecture: str, parameters: int) -> int | None:
    """Parameters that one token touches in a mixture of experts; None for a dense model."""
    experts = header.metadata.get(f"{architecture}.expert_count", 0)
    used = header.metadata.get(f"{architecture}.expert_used_count", 0)
    if type(experts) is not int or type(used) is not int or not 0 < used < experts:
        return None
    in_experts = sum(tensor.elements for tensor in header.tensors if "_exps." in tensor.name)
    return parameters - in_experts + in_experts * used // experts
