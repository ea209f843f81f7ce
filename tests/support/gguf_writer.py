"""Writes small GGUF files, sound or damaged in one place, for the tests of those who read them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

F32, Q8_0 = 0, 8
U8, U32, F32_VALUE, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10


@dataclass(frozen=True)
class Array:
    """An array value: its element type and its elements, already encoded where they are bytes."""

    type_id: int
    elements: Sequence[int | float | bool | str]


@dataclass(frozen=True)
class Raw:
    """A value written as it is, type number included."""

    content: bytes


@dataclass
class Gguf:
    """A file in the making; `tensors` are (name, dimensions, type, bytes of data)."""

    keys: list[tuple[str, object]] = field(default_factory=list[tuple[str, object]])
    tensors: list[tuple[str, Sequence[int], int, int]] = field(
        default_factory=list[tuple[str, Sequence[int], int, int]]
    )
    version: int = 3
    alignment: int = 32

    def encoded(self) -> bytes:
        head, data_bytes = self.header()
        return head + bytes(data_bytes)

    def header(self) -> tuple[bytes, int]:
        """Everything before the tensors' contents, and how many bytes those take."""
        parts = [struct.pack("<4sIQQ", b"GGUF", self.version, len(self.tensors), len(self.keys))]
        parts += [_text(key) + _value(value) for key, value in self.keys]
        offset = 0
        for name, dimensions, type_id, size in self.tensors:
            parts.append(_text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions))
            parts.append(struct.pack("<IQ", type_id, offset))
            offset += size + -size % self.alignment
        head = b"".join(parts)
        return head + bytes(-len(head) % self.alignment), offset


def llama(metadata: Mapping[str, object] | None = None, *, vocabulary: int = 64) -> Gguf:
    """A llama of two layers, four heads and two KV heads; `metadata` replaces or adds keys, None removes one."""
    keys: dict[str, object] = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.tokens": Array(STRING, [f"t{index}" for index in range(vocabulary)]),
    }
    keys.update(metadata or {})
    return Gguf(
        keys=[(key, value) for key, value in keys.items() if value is not None],
        tensors=[
            ("token_embd.weight", (64, vocabulary), Q8_0, 64 * vocabulary // 32 * 34),
            ("output_norm.weight", (64,), F32, 256),
            ("blk.0.ffn_up.weight", (64, 128), F32, 64 * 128 * 4),
        ],
    )


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    if isinstance(value, Raw):
        return value.content
    if isinstance(value, bool):
        return struct.pack("<IB", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32_VALUE, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    assert isinstance(value, Array)
    head = struct.pack("<IIQ", ARRAY, value.type_id, len(value.elements))
    if value.type_id == STRING:
        return head + b"".join(_text(str(element)) for element in value.elements)
    letter = {U8: "B", U32: "I", F32_VALUE: "f", BOOL: "B", U64: "Q"}[value.type_id]
    return head + struct.pack(f"<{len(value.elements)}{letter}", *value.elements)
