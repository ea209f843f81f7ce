"""What the PC's owner set for single models: the TOML file that the setting `models_file` names.

    [model."qwen3:8b"]
    context_tokens = 8192       # of each slot
    slots = 2
    gpu_layers = 20             # short for n-gpu-layers under params
    keep_alive_s = 600
    pin = true
    preload = true
    params = { cache-type-k = "q8_0", ubatch-size = 256 }

`params` are those of `engine_parameters`, for the llama_server engine only. Everything unknown or out of range is
refused before anything starts.
"""

from __future__ import annotations

import difflib
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import cast

from chorus_client.engine_parameters import RawParameter, check_together, checked
from chorus_proto.catalogue import normalised
from chorus_proto.ids import ModelName
from chorus_proto.settings import SettingsError

_MOST_BYTES = 256 * 1024
_MOST_MODELS = 1024
_LONGEST_NAME = 256
_MOST_CONTEXT_TOKENS = 1 << 24
_MOST_SLOTS = 256
_LONGEST_KEEP_ALIVE_S = 366 * 86_400

GPU_LAYERS = "n-gpu-layers"

_SET_BY_CHORUS = {
    "ctx-size": "write context_tokens beside params, for one slot",
    "parallel": "write slots beside params",
    "embedding": "the model's file says it; remove it",
    "jinja": "Chorus needs the model's own chat template; remove it",
    "reasoning-format": "Chorus takes thoughts out of the text itself; remove it",
    "cache-ram": "no prediction of memory could hold with it; remove it",
}
"""Parameters that are allowed for a server of the owner's own and not for a model of the pool."""


def _no_params() -> Mapping[str, RawParameter]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """One model's. `slots` and `context_tokens` (of each slot) are 0, `keep_alive_s` is None where nothing is said.

    `pin`: it is never evicted. `preload`: it is loaded when the agent starts. `params`: checked engine parameters.
    """

    context_tokens: int = 0
    slots: int = 0
    keep_alive_s: float | None = None
    pin: bool = False
    preload: bool = False
    params: Mapping[str, RawParameter] = field(default_factory=_no_params)


_KEYS = ("context_tokens", "slots", "gpu_layers", "keep_alive_s", "pin", "preload", "params")


def read_model_options(path: Path | None) -> Mapping[ModelName, ModelOptions]:
    """The options by normalised model name; none without a file. Raises SettingsError that names file, key and fix."""
    if path is None:
        return MappingProxyType({})
    document = _document(path)
    for key in document:
        if key != "model":
            raise SettingsError(f"file {path}: unknown key {key!r}; write tables [model.NAME]")
    tables = document.get("model", {})
    if not isinstance(tables, dict):
        raise SettingsError(f"file {path}: model must be tables; write [model.NAME]")
    models = cast("dict[str, object]", tables)
    if len(models) > _MOST_MODELS:
        raise SettingsError(f"file {path}: it has {len(models)} models; at most {_MOST_MODELS} are read")
    found: dict[ModelName, ModelOptions] = {}
    written: dict[ModelName, str] = {}
    for name, table in models.items():
        model = normalised(name)
        if not model or len(model) > _LONGEST_NAME or not model.isprintable():
            raise SettingsError(f"file {path}: model {name[:80]!r}: a name has 1 to {_LONGEST_NAME} printable letters")
        if model in found:
            raise SettingsError(f"file {path}: {written[model]!r} and {name!r} are the same model; keep one of them")
        found[model] = _options(table, f"file {path}: model.{name!r}")
        written[model] = name
    return MappingProxyType(found)


def _document(path: Path) -> dict[str, object]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Asked before it is opened: opening a pipe waits for somebody to write into it.
            raise SettingsError(f"models_file {path} is not a regular file; name a TOML file")
        with path.open("rb") as source:
            raw = source.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"models_file {path} does not exist: create it, or remove the setting") from None
    except OSError as error:
        raise SettingsError(f"models_file {path} cannot be read: {error.strerror or error}") from None
    if len(raw) > _MOST_BYTES:
        raise SettingsError(f"models_file {path} is larger than {_MOST_BYTES} bytes; it is another file")
    try:
        # utf-8-sig: Windows Notepad writes a byte order mark, which TOML does not allow.
        return cast("dict[str, object]", tomllib.loads(raw.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise SettingsError(f"models_file {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # ValueError: tomllib's own error, and numbers too long for Python
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SettingsError(f"models_file {path} is not TOML: {reason}") from None


def _options(table: object, where: str) -> ModelOptions:
    if not isinstance(table, dict):
        raise SettingsError(f"{where}: write a table of {', '.join(_KEYS)}")
    given = cast("dict[str, object]", table)
    for key in given:
        if key not in _KEYS:
            raise SettingsError(f"{where}: unknown key {key!r}{_closest(key, _KEYS)}")
    keep_alive_s = given.get("keep_alive_s")
    return ModelOptions(
        context_tokens=_whole(given, "context_tokens", where, most=_MOST_CONTEXT_TOKENS),
        slots=_whole(given, "slots", where, most=_MOST_SLOTS),
        keep_alive_s=None if keep_alive_s is None else _seconds(keep_alive_s, f"{where}.keep_alive_s"),
        pin=_truth(given, "pin", where),
        preload=_truth(given, "preload", where),
        params=MappingProxyType(_params(given, where)),
    )


def _params(given: Mapping[str, object], where: str) -> dict[str, RawParameter]:
    raw = given.get("params", {})
    if not isinstance(raw, dict):
        raise SettingsError(f"{where}.params = {raw!r}: write {{ name = value, ... }}")
    key = f"{where}.params"
    params: dict[str, RawParameter] = {}
    for name, value in cast("dict[str, object]", raw).items():
        if name in _SET_BY_CHORUS:
            raise SettingsError(f"{key}.{name}: {_SET_BY_CHORUS[name]}")
        params[name] = checked(name, value, key=key)
    if "gpu_layers" in given:
        if GPU_LAYERS in params:
            raise SettingsError(f"{where}: gpu_layers and params.{GPU_LAYERS} are the same; keep one of them")
        params[GPU_LAYERS] = checked(GPU_LAYERS, given["gpu_layers"], key=f"{where}.gpu_layers")
    check_together(params, key=key)
    return params


def _whole(given: Mapping[str, object], key: str, where: str, *, most: int) -> int:
    """0 when it is not there."""
    value = given.get(key)
    if value is None:
        return 0
    if type(value) is not int or not 1 <= value <= most:
        raise SettingsError(f"{where}.{key} = {value!r}: write a whole number from 1 to {most}")
    return value


def _seconds(value: object, key: str) -> float:
    # The comparison is false for NaN too.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST_KEEP_ALIVE_S:
        raise SettingsError(f"{key} = {value!r}: write seconds from 0 to {_LONGEST_KEEP_ALIVE_S}, or pin = true")
    return float(value)


def _truth(given: Mapping[str, object], key: str, where: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise SettingsError(f"{where}.{key} = {value!r}: write true or false")
    return value


def _closest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(names)}"
