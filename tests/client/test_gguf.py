from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chorus_client.gguf import GgufHeader, LongValue, read_header
from chorus_client.inventory import bundled_folder
from chorus_client.model_shape import shape_of
from chorus_proto.errors import LoadFailed
from tests.support.gguf_writer import ARRAY, BOOL, STRING, U32, Array, Gguf, Raw, llama
from tests.support.patience import granted_s


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return path


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(LoadFailed) as caught:
        read_header(written(folder, content))
    return caught.value.message


def tensor_offsets(content: bytes, name: bytes) -> int:
    """Where the number of dimensions of the named tensor stands."""
    return content.index(name) + len(name)


def test_a_sound_file_gives_its_numbers_texts_and_tensors(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, llama({"llama.x": 1.5, "llama.flag": True}).encoded()))
    assert header.metadata["llama.block_count"] == 2
    assert header.metadata["llama.x"] == 1.5
    assert header.metadata["llama.flag"] is True
    assert header.metadata["tokenizer.ggml.tokens"] == LongValue(64)
    assert header.tensors[0].name == "token_embd.weight"
    assert header.tensors[0].size_bytes == 64 * 64 // 32 * 34
    assert header.data_start_bytes % 32 == 0


@pytest.mark.parametrize("name", ["demo-tiny", "demo-small", "demo-medium", "all-minilm-l6-v2"])
def test_the_bundled_models_are_sound(name: str) -> None:
    folder = bundled_folder()
    assert folder is not None
    header = read_header(folder / f"{name}-q8_0.gguf")
    last = header.tensors[-1]
    assert header.data_start_bytes + last.offset_bytes + last.size_bytes <= header.file_bytes


def test_short_arrays_are_kept_and_long_ones_only_counted(tmp_path: Path) -> None:
    keys = {
        "llama.short": Array(U32, [1, 2, 3]),
        "llama.long": Array(U32, range(5000)),
        "llama.flags": Array(BOOL, [1, 0]),
    }
    header = read_header(written(tmp_path, llama(keys).encoded()))
    assert header.metadata["llama.short"] == (1, 2, 3)
    assert header.metadata["llama.long"] == LongValue(5000)
    assert header.metadata["llama.flags"] == (True, False)


def test_strings_across_the_buffers_edge_are_counted_right(tmp_path: Path) -> None:
    tokens = Array(STRING, ["x" * (index % 97) for index in range(60_000)])
    header = read_header(written(tmp_path, llama({"tokenizer.ggml.tokens": tokens, "llama.after": 7}).encoded()))
    assert header.metadata["tokenizer.ggml.tokens"] == LongValue(60_000)
    assert header.metadata["llama.after"] == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "magic"),
        (b"GGML" + bytes(64), "does not begin with GGUF"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 1, 0), "version 1"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 1, 0), "big-endian"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 63, 0), "tensors"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 0), "0 tensors"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1, 1 << 63), "keys"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 1, 1, (1 << 64) - 1), "bytes long"),
    ],
)
def test_a_damaged_beginning_is_refused_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (struct.pack("<IQ", STRING, (1 << 64) - 1), "wants"),
        (struct.pack("<IIQ", ARRAY, ARRAY, 1), "array of arrays"),
        (struct.pack("<IIQ", ARRAY, STRING, 1 << 62), "strings"),
        (struct.pack("<IIQ", ARRAY, U32, 1 << 62), "wants"),
        (struct.pack("<IIQ", ARRAY, 77, 1 << 20), "unknown type 77"),
        (struct.pack("<I", 13), "unknown type 13"),
        (struct.pack("<IB", BOOL, 2), "neither true nor false"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(tmp_path: Path, value: bytes, words: str) -> None:
    message = refusal(tmp_path, llama({"llama.bad": Raw(value)}).encoded())
    assert words in message
    assert "llama.bad" in message


@pytest.mark.parametrize("alignment", [0, 3, 1 << 20])
def test_an_alignment_that_is_no_power_of_two_is_refused(tmp_path: Path, alignment: int) -> None:
    assert "general.alignment" in refusal(tmp_path, llama({"general.alignment": alignment}).encoded())


def test_keys_and_tensors_that_come_twice_are_refused(tmp_path: Path) -> None:
    twice = llama()
    twice.keys.append(("llama.block_count", 3))
    assert "llama.block_count" in refusal(tmp_path, twice.encoded())
    twice = llama()
    twice.tensors.append(twice.tensors[0])
    assert "token_embd.weight' is there twice" in refusal(tmp_path, twice.encoded())


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (("x", (0,), 0, 0), "dimensions"),
        (("x", (1 << 40, 1 << 40), 0, 0), "dimensions"),
        (("x", (33,), 8, 34), "dimensions"),
        (("x", (1, 1, 1, 1, 1), 0, 4), "5 dimensions"),
        (("x", (), 0, 4), "0 dimensions"),
        (("x", (1,), 5, 4), "type 5"),
        (("x" * 64, (1,), 0, 4), "64 bytes long"),
    ],
)
def test_an_impossible_tensor_is_refused(
    tmp_path: Path, tensor: tuple[str, tuple[int, ...], int, int], words: str
) -> None:
    file = llama()
    file.tensors.append(tensor)
    assert words in refusal(tmp_path, file.encoded())


def test_tensors_that_overlap_or_lie_past_the_end_are_refused(tmp_path: Path) -> None:
    content = bytearray(llama().encoded())
    offset_at = tensor_offsets(bytes(content), b"output_norm.weight") + 4 + 8 + 4
    for offset in (0, 1 << 62):
        struct.pack_into("<Q", content, offset_at, offset)
        assert "output_norm.weight" in refusal(tmp_path, bytes(content))


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    small = Gguf(
        keys=[("general.architecture", "llama"), ("a", Array(STRING, ["x", "yz"]))], tensors=[("t", (8,), 0, 32)]
    )
    content = small.encoded()
    read_header(written(tmp_path, content))
    for length in range(len(content)):
        refusal(tmp_path, content[:length])


def test_a_hostile_header_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    hostile: dict[str, object] = {f"llama.{index}": Array(U32, [1] * 512) for index in range(900)}
    hostile["tokenizer.ggml.tokens"] = Raw(struct.pack("<IIQ", ARRAY, STRING, 2_000_000) + bytes(8 * 2_000_000))
    path = written(tmp_path, llama(hostile).encoded())
    started = time.perf_counter()
    read_header(path)
    assert time.perf_counter() - started < granted_s(2)  # a second on a PC that does nothing else
    tracemalloc.start()
    read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(LoadFailed, match="cannot be"):
            read_header(path)


def survives(path: Path) -> GgufHeader | None:
    """Reading must end in a header or in LoadFailed, and so must the shape."""
    try:
        header = read_header(path)
        shape_of(header)
    except LoadFailed:
        return None
    return header


def test_flipped_bits_anywhere_in_the_header_never_do_more_than_refuse(tmp_path: Path) -> None:
    sound = llama().encoded()
    header_bytes = read_header(written(tmp_path, sound)).data_start_bytes
    rng = random.Random(7)
    refused = 0
    for _ in range(1500):
        content = bytearray(sound)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(header_bytes)] ^= 1 << rng.randrange(8)
        refused += survives(written(tmp_path, bytes(content))) is None
    assert refused > 300


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=300), tensors=st.integers(0, 3), keys=st.integers(0, 3))
def test_any_bytes_after_a_plausible_start_never_do_more_than_refuse(
    tmp_path: Path, tail: bytes, tensors: int, keys: int
) -> None:
    survives(written(tmp_path, struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys) + tail))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX: named pipes")
def test_a_pipe_is_refused_without_waiting_for_somebody_to_write(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(LoadFailed, match="regular file"):
        read_header(tmp_path / "pipe.gguf")
