"""Reads the header of a GGUF file, which may come from anywhere, and believes none of it.

Format: ggml's docs/gguf.md, versions 2 and 3, little-endian. Whatever llama.cpp would refuse or die of is refused here
with a sentence for people, before an engine is started on it. Numbers and short texts are kept, long arrays (the
vocabulary) are walked over and only counted: a header of any size costs about a second and a few megabytes at most.
"""

from __future__ import annotations

import math
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypeAlias, cast

from chorus_proto.errors import LoadFailed

_BUFFER_BYTES = 1 << 20
_MAX_KEYS = 1024
_MAX_KEY_BYTES = 1024
_MAX_TENSORS = 16_384
_MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME with its closing zero is 64
_MAX_DIMENSIONS = 4
_MAX_STRINGS = 1 << 21  # in all arrays together; the largest vocabularies with their merges have 0.8 million
_MAX_ELEMENTS = 1 << 48
_KEPT_STRING_BYTES = 1024
_LONG_STRINGS = {"tokenizer.chat_template": 1 << 18}
"""Keys whose text may be longer; the largest chat templates have about 20 KB."""
_KEPT_ELEMENTS = 512
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 16

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]

# Tensor type -> (elements, bytes) of one block: GGML_QUANT_SIZES in llama.cpp's gguf-py/gguf/constants.py.
_BLOCKS = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 36),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}


@dataclass(frozen=True, slots=True)
class LongValue:
    """Stands for a text or an array too long to keep: its length in bytes or in elements."""

    length: int


Scalar: TypeAlias = int | float | bool
Value: TypeAlias = Scalar | str | tuple[Scalar, ...] | LongValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One row of the tensor table. `offset_bytes` counts from the start of the tensor data."""

    name: str
    dimensions: tuple[int, ...]
    type_id: int
    offset_bytes: int
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.dimensions)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    version: int
    file_bytes: int
    data_start_bytes: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of `path`.

    Raises LoadFailed, which says what is wrong with the file and where, or why it cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Before it is opened: opening a pipe would wait for somebody to write.
            raise _Damage("it is not a regular file")
        with path.open("rb") as source:
            return _read(_Reader(source, status.st_size))
    except _Damage as damage:
        raise LoadFailed(f"The model file {path.name} cannot be used: {damage}") from None
    except OSError as error:
        raise LoadFailed(f"The model file {path.name} cannot be read: {error.strerror or error}") from error


class _Damage(Exception):
    """What is wrong with the file, in words."""


class _Reader:
    """A cursor over the file that never reads past its end and holds one buffer of it."""

    def __init__(self, source: BinaryIO, file_bytes: int) -> None:
        self._source = source
        self.file_bytes = file_bytes
        self._buffer = b""
        self._at = 0
        self._buffer_start = 0
        self._strings_left = _MAX_STRINGS

    @property
    def position(self) -> int:
        return self._buffer_start + self._at

    def _require(self, count: int, what: str) -> None:
        left = self.file_bytes - self.position
        if count > left:
            raise _Damage(f"{what} at byte {self.position} wants {count} bytes and the file has {left} left")

    def take(self, count: int, what: str) -> bytes:
        self._require(count, what)
        if self._at + count > len(self._buffer):
            start = self.position
            self._source.seek(start)
            self._buffer, self._buffer_start, self._at = self._source.read(max(count, _BUFFER_BYTES)), start, 0
            if len(self._buffer) < count:
                raise _Damage("it became shorter while it was read")
        self._at += count
        return self._buffer[self._at - count : self._at]

    def skip(self, count: int, what: str) -> None:
        self._require(count, what)
        if self._at + count <= len(self._buffer):
            self._at += count
        else:
            self._buffer, self._buffer_start, self._at = b"", self.position + count, 0

    def u32(self, what: str) -> int:
        return _U32.unpack(self.take(4, what))[0]

    def u64(self, what: str) -> int:
        return _U64.unpack(self.take(8, what))[0]

    def text(self, limit: int, what: str) -> str:
        length = self.u64(what)
        if length > limit:
            raise _Damage(f"{what} at byte {self.position} is {length} bytes long (limit {limit})")
        raw = self.take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _Damage(f"{what} at byte {self.position - length} is not UTF-8") from None

    def skip_strings(self, count: int, what: str) -> None:
        self._strings_left -= count
        if self._strings_left < 0:
            raise _Damage(f"{what} takes the header over {_MAX_STRINGS} strings")
        self._require(8 * count, what)
        unpack = _U64.unpack_from
        while count:
            # The loop over a vocabulary: everything in local names, one unpack for each string.
            buffer, at, end = self._buffer, self._at, len(self._buffer)
            while count and at + 8 <= end:
                following = at + 8 + unpack(buffer, at)[0]
                if following > end:
                    break
                at = following
                count -= 1
            self._at = at
            if count:
                self.skip(self.u64(what), what)
                count -= 1


def _read(reader: _Reader) -> GgufHeader:
    if reader.take(4, "the magic") != b"GGUF":
        raise _Damage("it does not begin with GGUF, so it is another kind of file or damaged")
    version = reader.u32("the version")
    if version in (0x02000000, 0x03000000):
        raise _Damage("it is big-endian, which the engines here cannot load")
    if version not in (2, 3):
        raise _Damage(f"GGUF version {version} is not known here (2 and 3 are)")
    tensor_count = reader.u64("the tensor count")
    key_count = reader.u64("the key count")
    if not 1 <= tensor_count <= _MAX_TENSORS:
        raise _Damage(f"it claims {tensor_count} tensors (1 to {_MAX_TENSORS} are possible)")
    if key_count > _MAX_KEYS:
        raise _Damage(f"it claims {key_count} keys (limit {_MAX_KEYS})")
    metadata: dict[str, Value] = {}
    for _ in range(key_count):
        key = reader.text(_MAX_KEY_BYTES, "a key")
        if not key or key in metadata:
            raise _Damage(f"the key {key!r} is empty or there twice")
        kept_bytes = _LONG_STRINGS.get(key, _KEPT_STRING_BYTES)
        metadata[key] = _value(reader, f"the value of {key!r}", kept_bytes=kept_bytes)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise _Damage(f"general.alignment is {alignment!r}, not a power of two up to {_MAX_ALIGNMENT}")
    tensors = _tensors(reader, tensor_count, alignment)
    data_start = _padded(reader.position, alignment)
    end = data_start + max(tensor.offset_bytes + tensor.size_bytes for tensor in tensors)
    if end > reader.file_bytes:
        raise _Damage(f"its tensors end at byte {end} and the file has {reader.file_bytes}: it is cut short")
    return GgufHeader(
        version=version,
        file_bytes=reader.file_bytes,
        data_start_bytes=data_start,
        metadata=MappingProxyType(metadata),
        tensors=tensors,
    )


def _value(reader: _Reader, what: str, *, kept_bytes: int) -> Value:
    type_id = reader.u32(what)
    if type_id == _STRING:
        length = reader.u64(what)
        if length > kept_bytes:
            reader.skip(length, what)
            return LongValue(length)
        return reader.take(length, what).decode(errors="replace")
    if type_id == _ARRAY:
        return _array(reader, what)
    return _scalars(reader, type_id, 1, what)[0]


def _array(reader: _Reader, what: str) -> Value:
    type_id = reader.u32(what)
    count = reader.u64(what)
    if type_id == _ARRAY:
        raise _Damage(f"{what} is an array of arrays, which no model needs")
    if type_id == _STRING:
        reader.skip_strings(count, what)
        return LongValue(count)
    if count > _KEPT_ELEMENTS:
        if type_id not in _SCALARS:
            raise _Damage(f"{what} has the unknown type {type_id}")
        reader.skip(count * _SCALARS[type_id].size, what)
        return LongValue(count)
    return _scalars(reader, type_id, count, what)


def _scalars(reader: _Reader, type_id: int, count: int, what: str) -> tuple[Scalar, ...]:
    layout = _SCALARS.get(type_id)
    if layout is None:
        raise _Damage(f"{what} has the unknown type {type_id}")
    raw = reader.take(count * layout.size, what)
    numbers = cast("list[int | float]", [number for (number,) in layout.iter_unpack(raw)])
    if type_id == _BOOL:
        if any(number > 1 for number in numbers):
            raise _Damage(f"{what} is neither true nor false")
        return tuple(number == 1 for number in numbers)
    return tuple(numbers)


def _tensors(reader: _Reader, count: int, alignment: int) -> tuple[Tensor, ...]:
    """The tensor table. As in llama.cpp's gguf.cpp each tensor must begin where the one before it ends, aligned."""
    tensors: list[Tensor] = []
    names: set[str] = set()
    expected_offset = 0
    for _ in range(count):
        name = reader.text(_MAX_TENSOR_NAME_BYTES, "a tensor's name")
        if name in names:
            raise _Damage(f"the tensor {name!r} is there twice")
        names.add(name)
        rank = reader.u32(f"the rank of {name!r}")
        if not 1 <= rank <= _MAX_DIMENSIONS:
            raise _Damage(f"the tensor {name!r} has {rank} dimensions (1 to {_MAX_DIMENSIONS} are possible)")
        dimensions = tuple(reader.u64(f"a dimension of {name!r}") for _ in range(rank))
        type_id = reader.u32(f"the type of {name!r}")
        offset = reader.u64(f"the offset of {name!r}")
        if type_id not in _BLOCKS:
            raise _Damage(f"the tensor {name!r} has the type {type_id}, which this version does not know")
        block_elements, block_bytes = _BLOCKS[type_id]
        elements = math.prod(dimensions)
        if not 0 < elements <= _MAX_ELEMENTS or dimensions[0] % block_elements:
            raise _Damage(f"the tensor {name!r} has the impossible dimensions {dimensions}")
        if offset != expected_offset:
            raise _Damage(f"the tensor {name!r} lies at {offset} and the one before it ends at {expected_offset}")
        size = elements // block_elements * block_bytes
        expected_offset = _padded(offset + size, alignment)
        tensors.append(
            Tensor(name=name, dimensions=dimensions, type_id=type_id, offset_bytes=offset, size_bytes=size),
        )
    return tuple(tensors)


def _padded(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment
