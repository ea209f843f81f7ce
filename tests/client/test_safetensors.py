from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chorus_client.safetensors import INDEX_FILE, SINGLE_FILE, Tensor, read_folder, read_header
from chorus_proto.errors import LoadFailed
from tests.support.patience import granted_s

DEMO = Path(__file__).parents[1] / "data" / "demo-tiny-hf"

A = '"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
B = '"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}'


def encoded(header: str | bytes, data_bytes: int) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + bytes(data_bytes)


SOUND = encoded("{" + A + "," + B + "}", 32)


def written(folder: Path, content: bytes, name: str = SINGLE_FILE) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(LoadFailed) as caught:
        read_header(written(folder, content))
    return caught.value.message


def one(entry: str, data_bytes: int = 24) -> bytes:
    return encoded('{"a":' + entry + "}", data_bytes)


def test_a_sound_file_gives_its_tensors(tmp_path: Path) -> None:
    assert dict(read_header(written(tmp_path, SOUND))) == {
        "a": Tensor(dtype="F32", shape=(2, 3), size_bytes=24),
        "b": Tensor(dtype="BF16", shape=(4,), size_bytes=8),
    }


def test_the_demo_model_is_sound() -> None:
    files = read_folder(DEMO)
    assert files.file_bytes == (DEMO / SINGLE_FILE).stat().st_size
    assert sum(tensor.elements for tensor in files.tensors.values()) == 918_656


def test_order_metadata_padding_scalars_and_empty_tensors_are_allowed(tmp_path: Path) -> None:
    empty = '"e":{"dtype":"I64","shape":[0,7],"data_offsets":[32,32]}'
    scalar = '"s":{"dtype":"F64","shape":[],"data_offsets":[32,40]}'
    header = '{"__metadata__":{"format":"pt"},' + ",".join((B, scalar, A, empty)) + "}   "
    tensors = read_header(written(tmp_path, encoded(header, 40)))
    assert set(tensors) == {"a", "b", "e", "s"}
    assert tensors["s"].elements == 1


def test_types_smaller_than_a_byte_must_fill_whole_bytes(tmp_path: Path) -> None:
    packed = one('{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}', 3)
    assert read_header(written(tmp_path, packed))["a"].size_bytes == 3
    assert "3.5 bytes" in refusal(tmp_path, one('{"dtype":"F4","shape":[7],"data_offsets":[0,4]}', 4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "only 0 bytes"),
        (b"\1\0\0", "only 3 bytes"),
        (struct.pack("<Q", (1 << 64) - 1), "another kind of file"),
        (struct.pack("<Q", 100 << 20), "limit"),
        (struct.pack("<Q", 100) + b"{}", "cut short"),
        (encoded("[]", 0), "does not begin with {"),
        (encoded(" {}", 0), "does not begin with {"),
        (encoded("", 0), "does not begin with {"),
        (encoded("{}", 0), "0 tensors"),
        (encoded("{" + A, 24), "not sound JSON"),
        (encoded("{" + A + "} x", 24), "not sound JSON"),
        (encoded(b"{\xff\xfe}", 0), "not sound JSON"),
        (encoded('{"a":' + "[" * 90_000 + "}", 0), "nested too deeply"),
        (encoded('{"a":' + "[" * 200_000, 0), "tensors' worth"),
        (encoded("{" + A + "," + A + "}", 24), "stands twice"),
        (encoded('{"a":NaN}', 0), "NaN is not JSON"),
        (encoded('{"a":' + "9" * 5000 + "}", 0), "beyond 64 bits"),
        (encoded("{" + A + ',"__metadata__":[]}', 24), "__metadata__"),
        (encoded("{" + A + ',"__metadata__":{"x":1}}', 24), "other than text"),
        (encoded('{"' + "n" * 600 + A[2:] + "}", 24), "too long"),
        (encoded('{"\\u0000' + A[2:] + "}", 24), "not printable"),
    ],
)
def test_a_damaged_header_is_refused_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("[]", "exactly dtype, shape and data_offsets"),
        ('{"dtype":"F32","shape":[6]}', "exactly"),
        ('{"dtype":"F32","shape":[6],"data_offsets":[0,24],"x":1}', "exactly"),
        ('{"dtype":"F33","shape":[6],"data_offsets":[0,24]}', "F33"),
        ('{"dtype":7,"shape":[6],"data_offsets":[0,24]}', "type 7"),
        ('{"dtype":"F32","shape":[6.0],"data_offsets":[0,24]}', "shape"),
        ('{"dtype":"F32","shape":[-6],"data_offsets":[0,24]}', "shape"),
        ('{"dtype":"U8","shape":[true],"data_offsets":[0,1]}', "shape"),
        ('{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,6],"data_offsets":[0,24]}', "shape"),
        ('{"dtype":"F32","shape":[281474976710656,281474976710656],"data_offsets":[0,24]}', "shape"),
        ('{"dtype":"F32","shape":[6],"data_offsets":[0]}', "offsets"),
        ('{"dtype":"F32","shape":[6],"data_offsets":[24,0]}', "offsets"),
        ('{"dtype":"F32","shape":[6],"data_offsets":[0,20]}', "24 bytes by type and shape, 20 by its offsets"),
        ('{"dtype":"F32","shape":[6],"data_offsets":[4,28]}', "begins at 4"),
        ('{"dtype":"F32","shape":[60],"data_offsets":[0,240]}', "cut or too long"),
    ],
)
def test_an_impossible_tensor_is_refused(tmp_path: Path, entry: str, words: str) -> None:
    assert words in refusal(tmp_path, one(entry))


def test_tensors_that_overlap_or_leave_a_gap_are_refused(tmp_path: Path) -> None:
    for begin in (20, 28):
        moved = B.replace("24,32", f"{begin},{begin + 8}")
        assert f"begins at {begin}" in refusal(tmp_path, encoded("{" + A + "," + moved + "}", begin + 8))


def test_bytes_behind_the_last_tensor_are_refused(tmp_path: Path) -> None:
    assert "too long" in refusal(tmp_path, SOUND + b"\0")


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    for length in range(len(SOUND)):
        refusal(tmp_path, SOUND[:length])


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(LoadFailed, match="cannot be"):
            read_header(path)


def sharded(folder: Path, weight_map: object) -> Path:
    written(folder, encoded("{" + A + "}", 24), "model-00001-of-00002.safetensors")
    moved = B.replace("24,32", "0,8")
    written(folder, encoded("{" + moved + "}", 8), "model-00002-of-00002.safetensors")
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
    return folder


WHOLE = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def test_a_model_in_several_files_is_read_as_one(tmp_path: Path) -> None:
    files = read_folder(sharded(tmp_path, WHOLE))
    assert set(files.tensors) == {"a", "b"}
    assert [path.name for path in files.paths] == sorted(WHOLE.values())
    assert files.file_bytes == sum((tmp_path / name).stat().st_size for name in WHOLE.values())


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({}, "no weight_map"),
        ([], "no weight_map"),
        ({**WHOLE, "c": WHOLE["a"]}, "does not hold it"),
        ({"a": WHOLE["a"], "b": WHOLE["a"]}, "does not hold it"),
        ({"b": WHOLE["b"], "x": WHOLE["a"]}, "does not place there"),
        ({**WHOLE, "c": "model-00003-of-00003.safetensors"}, "cannot be read"),
        ({**WHOLE, "c": 1}, "plain .safetensors name"),
    ],
)
def test_an_index_that_does_not_match_its_files_is_refused(tmp_path: Path, weight_map: object, words: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        read_folder(sharded(tmp_path, weight_map))
    assert words in caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "C:model.safetensors",
        "a\\b.safetensors",
        "a/b.safetensors",
        "con.safetensors",
        "COM1.x.safetensors",
        ".safetensors",
        "model.bin",
        "model.safetensors ",
        "model.safetensors\n",
        "m\0.safetensors",
        "x:ads.safetensors",
    ],
)
def test_an_index_that_points_anywhere_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadFailed, match=r"plain \.safetensors name"):
        read_folder(sharded(tmp_path, {**WHOLE, "c": name}))


def test_a_broken_index_is_refused(tmp_path: Path) -> None:
    for raw in (b"", b"[]", b'{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}', b"[" * 100_000):
        (tmp_path / INDEX_FILE).write_bytes(raw)
        with pytest.raises(LoadFailed, match="index"):
            read_folder(tmp_path)


def test_a_hostile_header_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    many = "{" + ",".join(f'"layers.{index}.weight":{entry}' for index in range(32_768)) + "}"
    lists = '{"a":[' + ",".join(["[]"] * 98_000) + "]}"
    numbers = '{"a":[' + ",".join(["7000"] * 500_000) + "]}"
    for header, sound in ((many, True), (lists, False), (numbers, False)):
        path = written(tmp_path, encoded(header, 0))
        started = time.perf_counter()
        tracemalloc.start()
        try:
            assert len(read_header(path)) == 32_768
            assert sound
        except LoadFailed:
            assert not sound
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert time.perf_counter() - started < granted_s(3)  # tracing included; half a second without
        assert peak < 50 << 20


def survives(path: Path) -> bool:
    """Reading must end in tensors or in LoadFailed."""
    try:
        read_header(path)
    except LoadFailed:
        return False
    return True


def test_flipped_bits_anywhere_in_the_header_never_do_more_than_refuse(tmp_path: Path) -> None:
    rng = random.Random(7)
    refused = 0
    for _ in range(1500):
        content = bytearray(SOUND)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(SOUND) - 32)] ^= 1 << rng.randrange(8)
        refused += not survives(written(tmp_path, bytes(content)))
    assert refused > 1000


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=300), shift=st.integers(-20, 20))
def test_any_bytes_after_a_plausible_start_never_do_more_than_refuse(tmp_path: Path, tail: bytes, shift: int) -> None:
    header = b"{" + A.encode() + tail
    survives(written(tmp_path, struct.pack("<Q", max(0, len(header) + shift)) + header))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dtype=_VALUES | st.just("F32"), shape=_VALUES, offsets=_VALUES | st.just([0, 24]), metadata=_VALUES)
def test_any_json_in_the_place_of_a_tensor_never_does_more_than_refuse(
    tmp_path: Path, dtype: object, shape: object, offsets: object, metadata: object
) -> None:
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}, "__metadata__": metadata}
    survives(written(tmp_path, encoded(json.dumps(header), 24)))
