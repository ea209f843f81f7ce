"""Turns a Hugging Face `config.json` and the tensors beside it into what sizing and placement need to know.

The numbers that decide over memory are believed only as far as the tensors bear them out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chorus_client.safetensors import SafetensorsFiles, Tensor, read_folder
from chorus_proto.dialects.strict_json import JsonObject, JsonValue, load_object
from chorus_proto.errors import InvalidJson, LoadFailed
from chorus_proto.values import ModelShape

CONFIG_FILE = "config.json"

_MAX_CONFIG_BYTES = 1 << 20
_LIMIT = 1 << 32
"""Counts in a shape are smaller: so much the messages of common.proto hold."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,6})\.")
_EMBEDDING = re.compile(r"(?:^|\.)embed_tokens\.weight$")
_KEYS_PROJECTION = re.compile(r"(?:^|\.)layers\.0\.self_attn\.k_proj\.weight$")
_FLOATING = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """A `model_type` of transformers: its name here, and the defaults that its configuration class fills in."""

    architecture: str
    head_length: int | None = None
    full_layer_every: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    vocabulary: int | None = None
    context_tokens: int | None = None


_GEMMA3 = _Family(
    architecture="gemma3",
    head_length=256,
    full_layer_every=6,
    heads=8,
    kv_heads=4,
    vocabulary=262_208,
    context_tokens=131_072,
)

_FAMILIES = {
    "llama": _Family(architecture="llama"),
    "mistral": _Family(architecture="llama"),
    "mistral3": _Family(architecture="llama"),
    "qwen2": _Family(architecture="qwen2"),
    "qwen3": _Family(architecture="qwen3", head_length=128),
    "qwen3_moe": _Family(architecture="qwen3moe"),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gpt_oss": _Family(architecture="gpt-oss", head_length=64, full_layer_every=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsModel:
    """A model folder that passed every check. `file_bytes` counts its weights' files only."""

    shape: ModelShape
    files: SafetensorsFiles

    @property
    def file_bytes(self) -> int:
        return self.files.file_bytes


def knows(model_type: str) -> bool:
    """Whether the shape of this `model_type` can be read here."""
    return model_type in _FAMILIES


def read_model(folder: Path) -> SafetensorsModel:
    """Check a model folder: configuration, weights, and that they belong together. Raises LoadFailed."""
    config = _read_config(folder / CONFIG_FILE)
    files = read_folder(folder)
    return SafetensorsModel(shape=shape_of(config, files.tensors), files=files)


def _read_config(path: Path) -> JsonObject:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise LoadFailed(f"{CONFIG_FILE} is larger than {_MAX_CONFIG_BYTES} bytes.")
        return load_object(path.read_bytes())
    except OSError as error:
        raise LoadFailed(f"{CONFIG_FILE} cannot be read: {error.strerror or error}") from error
    except InvalidJson as error:
        raise LoadFailed(f"{CONFIG_FILE} cannot be used: {error.message}") from None


def shape_of(config: JsonObject, tensors: Mapping[str, Tensor]) -> ModelShape:
    """The model's shape. Raises LoadFailed for unknown kinds, missing numbers and numbers that the tensors deny."""
    if "auto_map" in config:
        raise LoadFailed("The model needs program code of its own, which is never run here.")
    model_type = config.get("model_type")
    family = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = ", ".join(sorted(_FAMILIES))
        raise LoadFailed(f"The model type {str(model_type)[:40]!r} is not known here; {known} are.")
    text = config.get("text_config")
    numbers = text if isinstance(text, dict) else config
    layers = _number(numbers, "num_hidden_layers")
    embedding_length = _number(numbers, "hidden_size")
    heads = _number(numbers, "num_attention_heads", family.heads)
    head_length = _number(numbers, "head_dim", family.head_length or max(1, embedding_length // heads))
    kv_heads = _number(numbers, "num_key_value_heads", family.kv_heads or heads)
    vocabulary = _number(numbers, "vocab_size", family.vocabulary)
    vocabulary = _checked(tensors, layers, embedding_length, kv_heads * head_length, vocabulary)
    window, sliding_layers = _window(numbers, family, layers)
    parameters = sum(_parameters(name, tensor) for name, tensor in tensors.items())
    return ModelShape(
        architecture=family.architecture,
        layers=layers,
        embedding_length=embedding_length,
        heads=heads,
        kv_heads=kv_heads,
        key_length=head_length,
        value_length=head_length,
        vocabulary=vocabulary,
        trained_context_tokens=_number(numbers, "max_position_embeddings", family.context_tokens),
        parameters=parameters,
        active_parameters=_active(numbers, tensors, parameters),
        sliding_window_tokens=window,
        sliding_layers=sliding_layers,
    )


def _number(config: JsonObject, key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise LoadFailed(f"{key} is missing in {CONFIG_FILE}.")
    if type(value) is not int or not 0 < value < _LIMIT:
        raise LoadFailed(f"{key} is {value!r:.40} in {CONFIG_FILE}, not a positive whole number below {_LIMIT}.")
    return value


def _checked(
    tensors: Mapping[str, Tensor], layers: int, embedding_length: int, keys_length: int, vocabulary: int
) -> int:
    """Hold the configuration against the tensors; returns the rows of the token table."""
    present = {int(match[1]) for name in tensors if "vision" not in name and (match := _LAYER.search(name))}
    if layers > len(tensors) or present != set(range(layers)):
        raise LoadFailed(f"{CONFIG_FILE} says {layers} layers and the weights hold {len(present)}.")
    table = next((tensor for name, tensor in tensors.items() if _EMBEDDING.search(name)), None)
    if table is None or len(table.shape) != 2 or table.shape[1] != embedding_length:
        raise LoadFailed(f"The weights hold no token table of width {embedding_length}, as {CONFIG_FILE} says.")
    keys = next((tensor for name, tensor in tensors.items() if _KEYS_PROJECTION.search(name)), None)
    if keys is not None and keys.dtype in _FLOATING and keys.shape[:1] != (keys_length,):
        raise LoadFailed(
            f"The keys of a token are {keys.shape[:1]} long in the weights, {keys_length} by {CONFIG_FILE}."
        )
    # Files are padded to round numbers of rows now and then; fewer rows than tokens cannot be.
    if table.shape[0] < vocabulary - 64:
        raise LoadFailed(f"{CONFIG_FILE} says {vocabulary} tokens and the weights hold {table.shape[0]}.")
    return table.shape[0]


def _window(config: JsonObject, family: _Family, layers: int) -> tuple[int | None, int | None]:
    """The sliding window in tokens and how many layers use it; (None, None) when all layers see everything."""
    window = config.get("sliding_window")
    if type(window) is not int or not 0 < window < _LIMIT:
        return None, None
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        sliding = sum(kind == "sliding_attention" for kind in kinds)
        return (window, sliding) if sliding else (None, None)
    if family.full_layer_every is None:
        # Whoever loads it may not honour the window: memory is then over-estimated, never under-estimated.
        return None, None
    every = config.get("sliding_window_pattern", family.full_layer_every)
    if type(every) is not int or every < 1:
        return None, None
    return window, layers - layers // every


def _parameters(name: str, tensor: Tensor) -> int:
    """gpt-oss packs two 4-bit parameters into a byte, and their common scales are none."""
    if name.endswith("_blocks") and tensor.dtype == "U8":
        return 2 * tensor.elements
    return 0 if name.endswith("_scales") and tensor.dtype == "U8" else tensor.elements


def _active(config: JsonObject, tensors: Mapping[str, Tensor], parameters: int) -> int | None:
    """Parameters that one token touches in a mixture of experts; None for a dense model."""
    experts: JsonValue = config.get("num_experts", config.get("num_local_experts"))
    used = config.get("num_experts_per_tok")
    if type(experts) is not int or type(used) is not int or not 0 < used < experts:
        return None
    in_experts = sum(_parameters(name, tensor) for name, tensor in tensors.items() if ".experts." in name)
    return parameters - in_experts + in_experts * used // experts
