"""A file that stands in for the hardware probe, so that one PC can play several unequal ones."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import tomllib
from pathlib import Path
from typing import TypeAlias, cast

import msgspec

from chorus_client.hardware.fingerprint import fingerprint
from chorus_proto.errors import InvalidRequest
from chorus_proto.values import Gpu, Hardware

_LARGEST_FILE_BYTES = 1 << 20

Table: TypeAlias = dict[str, object]


def read_hardware_file(path: Path) -> Hardware:
    """Read `path`: TOML, or JSON when it ends in .json. The fields are `Hardware`'s, `gpus` a list of tables.

    All are optional; system and architecture default to this PC's. Raises InvalidRequest with the file and the field.
    """
    table = dict(_table(path))
    table.setdefault("os", platform.system() or "unknown")
    table.setdefault("arch", platform.machine() or "unknown")
    _refuse_unknown_and_negative(path, "", table, {field.name for field in dataclasses.fields(Hardware)})
    gpus = table.get("gpus", [])
    if isinstance(gpus, list):
        for index, gpu in enumerate(cast("list[object]", gpus)):
            if isinstance(gpu, dict):
                known = {field.name for field in dataclasses.fields(Gpu)}
                _refuse_unknown_and_negative(path, f"gpus[{index}].", cast("Table", gpu), known)
    try:
        hardware = msgspec.convert(table, Hardware)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Hardware file {path}: {error}", param="hardware") from error
    if hardware.fingerprint:
        return hardware
    return dataclasses.replace(hardware, fingerprint=fingerprint(hardware))


def _table(path: Path) -> Table:
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise InvalidRequest(f"Hardware file {path} is larger than 1 MiB.", param="hardware")
        text = path.read_text(encoding="utf-8")
        loaded: object = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InvalidRequest(f"Hardware file {path}: {error.strerror or error}", param="hardware") from error
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidRequest(f"Hardware file {path} cannot be parsed: {error}", param="hardware") from error
    if not isinstance(loaded, dict):
        raise InvalidRequest(f"Hardware file {path} holds no table of fields.", param="hardware")
    return cast("Table", loaded)


def _refuse_unknown_and_negative(path: Path, prefix: str, table: Table, known: set[str]) -> None:
    for field, value in table.items():
        if field not in known:
            fields = ", ".join(sorted(known))
            raise InvalidRequest(
                f"Hardware file {path}: unknown field {prefix}{field}. Known: {fields}.", param="hardware"
            )
        if isinstance(value, (int, float)) and (not math.isfinite(value) or value < 0):
            raise InvalidRequest(
                f"Hardware file {path}: {prefix}{field} is {value}, not a number of 0 or more.", param="hardware"
            )
