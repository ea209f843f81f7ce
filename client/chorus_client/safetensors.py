"""Reads the headers of a SafeTensors model, which may come from anywhere, and believes none of it.

Format: huggingface/safetensors' README: eight bytes of length, JSON, then the tensors without gaps or overlaps. Large
models are split over files that `model.safetensors.index.json` lists. What a loader would choke on is refused here with
a sentence for people, before anything loads the file.
"""

from __future__ import annotations

import json
import math
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn, TypeAlias, cast

from chorus_proto.errors import LoadFailed

_Json: TypeAlias = "str | int | float | bool | list[_Json] | dict[str, _Json] | None"

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 8 << 20  # the largest model published so far has 1 MB in a file
_MAX_INDEX_BYTES = 32 << 20
_MAX_TENSORS = 32_768  # in one file
_MAX_ALL_TENSORS = 262_144
_MAX_SHARDS = 1024
_MAX_NAME_CHARACTERS = 512
_MAX_DIMENSIONS = 8
_MAX_METADATA_KEYS = 1024
_MAX_ELEMENTS = 1 << 48
_LONGEST_NUMBER = 20

# Bits of one element: `Dtype` in safetensors' src/tensor.rs.
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
"""No separators, no drive letters, no device names with a suffix that Windows would take for the device."""
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)\.")


def is_weights_name(name: str) -> bool:
    """Whether a file of weights may have this name: a plain one, on every system."""
    return _SHARD_NAME.fullmatch(name) is not None and _DEVICE.match(name) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One entry of a header. `size_bytes` is checked against type and shape."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsFiles:
    """The checked files of one model: paths, their bytes together, and all tensors by name."""

    paths: tuple[Path, ...]
    file_bytes: int
    tensors: Mapping[str, Tensor]


def read_header(path: Path) -> Mapping[str, Tensor]:
    """The tensors of one file. Raises LoadFailed, which says what is wrong with it, or why it cannot be read."""
    return _read_file(path)[0]


def read_folder(folder: Path) -> SafetensorsFiles:
    """The tensors of a model's folder, whether in one file or in several that an index lists. Raises LoadFailed."""
    index = folder / INDEX_FILE
    if not index.exists():
        tensors, file_bytes = _read_file(folder / SINGLE_FILE)
        return SafetensorsFiles(paths=(folder / SINGLE_FILE,), file_bytes=file_bytes, tensors=tensors)
    where = _read_index(index)
    found: dict[str, Tensor] = {}
    paths: list[Path] = []
    total_bytes = 0
    for shard in sorted(set(where.values())):
        path = folder / shard
        tensors, file_bytes = _read_file(path)
        for name, tensor in tensors.items():
            if where.get(name) != shard:
                raise LoadFailed(f"The model file {shard} holds {name[:80]!r}, which the index does not place there.")
            found[name] = tensor
        paths.append(path)
        total_bytes += file_bytes
    missing = next((name for name in where if name not in found), None)
    if missing is not None:
        raise LoadFailed(f"The index places {missing[:80]!r} into {where[missing]}, which does not hold it.")
    return SafetensorsFiles(paths=tuple(paths), file_bytes=total_bytes, tensors=MappingProxyType(found))


class _Damage(Exception):
    """What is wrong with the file, in words."""


def _read_file(path: Path) -> tuple[Mapping[str, Tensor], int]:
    """The tensors of a file, and its length."""
    try:
        # Asked first, because opening a pipe waits for somebody to write into it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _Damage("it is not a regular file")
        with path.open("rb") as source:
            file_bytes = path.stat().st_size
            head = source.read(8)
            if len(head) < 8:
                raise _Damage(f"it is only {len(head)} bytes long")
            length = _LENGTH.unpack(head)[0]
            if length > _MAX_HEADER_BYTES:
                raise _Damage(
                    f"its header claims {length} bytes (limit {_MAX_HEADER_BYTES}): it is another kind of file"
                )
            if 8 + length > file_bytes:
                raise _Damage(f"its header claims {length} bytes and the file has {file_bytes}: it is cut short")
            raw = source.read(length)
        return _tensors(raw, file_bytes - 8 - length), file_bytes
    except _Damage as damage:
        raise LoadFailed(f"The model file {path.name} cannot be used: {damage}") from None
    except OSError as error:
        raise LoadFailed(f"The model file {path.name} cannot be read: {error.strerror or error}") from error


def _tensors(raw: bytes, data_bytes: int) -> Mapping[str, Tensor]:
    if not raw.startswith(b"{"):
        raise _Damage("its header does not begin with {")
    # Each tensor opens one object and two lists; what has more is refused before anything is built of it.
    if raw.count(b"{") + raw.count(b"[") > 3 * _MAX_TENSORS + 2 or raw.count(b",") > 16 * _MAX_TENSORS:
        raise _Damage(f"its header holds more than {_MAX_TENSORS} tensors' worth of values")
    entries = _object(raw, "its header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or len(metadata) > _MAX_METADATA_KEYS:
        raise _Damage("its __metadata__ is not a small object")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise _Damage("its __metadata__ holds something other than text")
    if not 1 <= len(entries) <= _MAX_TENSORS:
        raise _Damage(f"it claims {len(entries)} tensors (1 to {_MAX_TENSORS} are possible)")
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        tensor, begin, end = _tensor(name, entry)
        tensors[name] = tensor
        spans.append((begin, end, name))
    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected:
            raise _Damage(f"the tensor {name[:80]!r} begins at {begin} and the one before it ends at {expected}")
        expected = end
    if expected != data_bytes:
        raise _Damage(
            f"its tensors take {expected} bytes and the file has {data_bytes} for them: it is cut or too long"
        )
    return MappingProxyType(tensors)


def _tensor(name: str, entry: _Json) -> tuple[Tensor, int, int]:
    """The checked entry, and the bytes it claims: begin and end."""
    shown = name[:80]
    if not name or len(name) > _MAX_NAME_CHARACTERS or not name.isprintable():
        raise _Damage(f"the tensor name {shown!r} is empty, too long or not printable")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _Damage(f"the tensor {shown!r} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], _numbers(entry["shape"]), _numbers(entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _Damage(f"the tensor {shown!r} has the type {dtype!r:.40}, which this version does not know")
    if shape is None or len(shape) > _MAX_DIMENSIONS or math.prod(shape) > _MAX_ELEMENTS:
        raise _Damage(f"the tensor {shown!r} has an impossible shape")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Damage(f"the tensor {shown!r} has impossible offsets")
    bits = math.prod(shape) * _BITS[dtype]
    size = offsets[1] - offsets[0]
    if bits != 8 * size:
        raise _Damage(f"the tensor {shown!r} takes {bits / 8:g} bytes by type and shape, {size} by its offsets")
    return Tensor(dtype=dtype, shape=shape, size_bytes=size), offsets[0], offsets[1]


def _numbers(value: _Json) -> tuple[int, ...] | None:
    """A list of whole numbers that are not negative, else None. A bool is no number."""
    if not isinstance(value, list):
        return None
    numbers = tuple(one for one in value if type(one) is int and 0 <= one <= _MAX_ELEMENTS)
    return numbers if len(numbers) == len(value) else None


def _read_index(path: Path) -> Mapping[str, str]:
    """Tensor name -> file name, each name a plain one in the same folder."""
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise _Damage(f"it is larger than {_MAX_INDEX_BYTES} bytes")
        raw = path.read_bytes()
        if raw.count(b"{") + raw.count(b"[") > 16 or raw.count(b",") > _MAX_ALL_TENSORS:
            raise _Damage(f"it lists more than {_MAX_ALL_TENSORS} tensors or is no flat list")
        where = _object(raw, "it").get("weight_map")
        if not isinstance(where, dict) or not where:
            raise _Damage("it has no weight_map")
        places: dict[str, str] = {}
        for name, shard in where.items():
            if not isinstance(shard, str) or not is_weights_name(shard):
                raise _Damage(f"it names the file {str(shard)[:80]!r}, which is not a plain .safetensors name")
            places[name] = shard
        if len(set(places.values())) > _MAX_SHARDS:
            raise _Damage(f"it names more than {_MAX_SHARDS} files")
        return places
    except _Damage as damage:
        raise LoadFailed(f"The model index {path.name} cannot be used: {damage}") from None
    except OSError as error:
        raise LoadFailed(f"The model index {path.name} cannot be read: {error.strerror or error}") from error


def _object(raw: bytes, what: str) -> dict[str, _Json]:
    """The JSON object in `raw`: UTF-8, no name twice, no NaN, no endless numbers."""
    try:
        value = cast(
            "_Json",
            json.loads(
                raw.decode(),
                object_pairs_hook=_without_twins,
                parse_int=_whole,
                parse_constant=_refuse_constant,
            ),
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise _Damage(f"{what} is not sound JSON: {reason}") from None
    if not isinstance(value, dict):
        raise _Damage(f"{what} is not a JSON object")
    return value


def _without_twins(pairs: list[tuple[str, _Json]]) -> dict[str, _Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Damage("a name stands twice in one object")
    return found


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise _Damage("it holds a number beyond 64 bits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise _Damage(f"{name} is not JSON")
