"""A sound GGUF file with other metadata: another chat template, other token numbers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from tests.support.gguf_writer import ARRAY, STRING, Gguf

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ALIGNMENT = 32


def retold(source: Path, target: Path, changes: Mapping[str, object]) -> Path:
    """`source` with these keys replaced or added, as `target`; the tensors stay as they are."""
    raw = source.read_bytes()
    _, version, tensors, keys = struct.unpack_from("<4sIQQ", raw)
    at = 24
    kept: list[bytes] = []
    for _ in range(keys):
        began = at
        name, at = _text(raw, at)
        (type_id,) = struct.unpack_from("<I", raw, at)
        at = _after(raw, at + 4, type_id)
        if name not in changes:
            kept.append(raw[began:at])
    infos_at = at
    for _ in range(tensors):
        _, at = _text(raw, at)
        (dimensions,) = struct.unpack_from("<I", raw, at)
        at += 4 + 8 * dimensions + 4 + 8
    added = Gguf(keys=list(changes.items())).header()[0]
    new_keys = added[24 : _keys_end(added, len(changes))]
    head = struct.pack("<4sIQQ", b"GGUF", version, tensors, len(kept) + len(changes))
    head += b"".join(kept) + new_keys + raw[infos_at:at]
    target.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + raw[at + -at % _ALIGNMENT :])
    return target


def texts_of(source: Path, key: str) -> list[str]:
    """An array of strings among the metadata."""
    raw = source.read_bytes()
    at = raw.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
    type_id, element, count = struct.unpack_from("<IIQ", raw, at)
    assert (type_id, element) == (ARRAY, STRING)
    at += 16
    texts: list[str] = []
    for _ in range(count):
        text, at = _text(raw, at)
        texts.append(text)
    return texts


def _keys_end(header: bytes, keys: int) -> int:
    at = 24
    for _ in range(keys):
        _, at = _text(header, at)
        at = _after(header, at + 4, struct.unpack_from("<I", header, at)[0])
    return at


def _text(raw: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", raw, at)
    return raw[at + 8 : at + 8 + length].decode(), at + 8 + length


def _after(raw: bytes, at: int, type_id: int) -> int:
    if type_id == STRING:
        return _text(raw, at)[1]
    if type_id != ARRAY:
        return at + _SIZES[type_id]
    element, count = struct.unpack_from("<IQ", raw, at)
    at += 12
    if element in _SIZES:
        return at + _SIZES[element] * count
    for _ in range(count):
        at = _after(raw, at, element)
    return at
