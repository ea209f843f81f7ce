"""Looks a Hugging Face model folder over before anything loads it: what is hostile or missing stops here, in words."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from chorus_client import config_shape, safetensors
from chorus_proto.dialects.strict_json import JsonObject, load_object
from chorus_proto.errors import InvalidJson, LoadFailed
from chorus_proto.values import ModelShape

TOKENIZER_FILE = "tokenizer.json"
_TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_ADAPTER_FILE = "adapter_config.json"
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_MOST_CONFIG_BYTES = 1 << 20
_MOST_TOKENIZER_BYTES = 256 << 20


class ModelType(StrEnum):
    """What `--model-type` takes; generic is whatever the folder's own configuration says."""

    GEMMA3 = "gemma3"
    GPT_OSS = "gpt-oss"
    LLAMA = "llama"
    MISTRAL = "mistral"
    GENERIC = "generic"


_CONFIGURED_AS = {
    ModelType.GEMMA3: ("gemma3", "gemma3_text"),
    ModelType.GPT_OSS: ("gpt_oss",),
    ModelType.LLAMA: ("llama",),
    ModelType.MISTRAL: ("mistral", "mistral3"),
}
"""`model_type` in config.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A folder that passed every check."""

    path: Path
    model_type: str
    """As its config.json says."""
    weights: tuple[Path, ...]
    file_bytes: int
    """Of the weights."""
    trained_context_tokens: int | None
    shape: ModelShape | None = None
    """None for a model type that is not known here."""


def check_folder(path: Path, wanted: ModelType = ModelType.GENERIC) -> ModelFolder:
    """The folder's facts. Raises LoadFailed, whose words name the file at fault.

    Reads headers and configuration only. Weights in pickle files and folders that need program code of their own are
    refused: both would run what somebody else wrote.
    """
    if "\0" in str(path):
        raise LoadFailed("The model path holds a NUL character.")
    if not path.is_dir():
        raise LoadFailed(f"{path} is not a folder; --model-path names the folder that holds config.json.")
    config = _json(path, config_shape.CONFIG_FILE)
    if "auto_map" in config:
        raise LoadFailed("The model needs program code of its own (auto_map in config.json), which is never run here.")
    if (path / _ADAPTER_FILE).exists():
        raise LoadFailed(f"{_ADAPTER_FILE} makes this an adapter of another model; merge it into its base first.")
    _refuse_pickles(path)
    _check_tokenizer(path)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise LoadFailed("model_type is missing in config.json.")
    if wanted is not ModelType.GENERIC and model_type not in _CONFIGURED_AS[wanted]:
        raise LoadFailed(
            f"--model-type {wanted} was asked for, but config.json says {model_type[:40]!r}; use --model-type generic."
        )
    if config_shape.knows(model_type):
        model = config_shape.read_model(path)
        return ModelFolder(
            path=path,
            model_type=model_type,
            weights=model.files.paths,
            file_bytes=model.file_bytes,
            trained_context_tokens=model.shape.trained_context_tokens,
            shape=model.shape,
        )
    longest = config.get("max_position_embeddings")
    files = safetensors.read_folder(path)
    return ModelFolder(
        path=path,
        model_type=model_type,
        weights=files.paths,
        file_bytes=files.file_bytes,
        trained_context_tokens=longest if type(longest) is int and longest > 0 else None,
    )


def _refuse_pickles(path: Path) -> None:
    if (path / safetensors.SINGLE_FILE).exists() or (path / safetensors.INDEX_FILE).exists():
        return  # weights of both kinds: the pickles are never opened
    pickles = sorted(one.name for one in path.iterdir() if one.suffix.lower() in _PICKLE_SUFFIXES)
    if pickles:
        raise LoadFailed(
            f"The folder holds its weights in {pickles[0][:80]}, a pickle file, which can run any program code; "
            "only .safetensors files are loaded."
        )


def _check_tokenizer(path: Path) -> None:
    tokenizer = path / TOKENIZER_FILE
    try:
        status = tokenizer.stat()
    except OSError as error:
        raise LoadFailed(
            f"{TOKENIZER_FILE} is missing or cannot be read ({error.strerror}); the model cannot turn text into "
            "tokens without it. Download it from where the model came from."
        ) from None
    if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _MOST_TOKENIZER_BYTES:
        raise LoadFailed(f"{TOKENIZER_FILE} is empty, too large or not a regular file.")
    if (path / _TOKENIZER_CONFIG_FILE).exists() and "auto_map" in _json(path, _TOKENIZER_CONFIG_FILE):
        raise LoadFailed("The tokenizer needs program code of its own (auto_map), which is never run here.")


def _json(path: Path, name: str) -> JsonObject:
    try:
        status = (path / name).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_CONFIG_BYTES:
            raise LoadFailed(f"{name} is larger than {_MOST_CONFIG_BYTES} bytes or not a regular file.")
        return load_object((path / name).read_bytes())
    except OSError as error:
        raise LoadFailed(f"{name} cannot be read: {error.strerror or error}.") from error
    except InvalidJson as error:
        raise LoadFailed(f"{name} cannot be used: {error.message}") from None
