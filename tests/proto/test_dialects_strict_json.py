"""Mirrors chorus_proto/dialects/strict_json.py."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_proto.dialects.strict_json import MAX_DEPTH, MAX_NODES, load_object
from chorus_proto.errors import InvalidJson


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "line 1"),
        (b"{}{}", "line 1"),
        (b"[1]", "an array"),
        (b"null", "null"),
        (b'"x"', "a string"),
        (b"true", "a boolean"),
        (b"3", "a number"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "encoding"),
        ("{}".encode("utf-16-le"), "encoding"),
        ("{}".encode("utf-16-be"), "encoding"),
        (b'{"a":"\xff"}', "UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        (rb'{"a":"\ud800"}', "surrogate"),
        (rb'{"\udfff":1}', "surrogate"),
        (b'{"a":1,"a":1}', "twice"),
        (b'{"b":[{"a":1,"a":2}]}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":1e999}', "float"),
        (b'{"a":9007199254740993}', "2^53"),
        (b'{"a":[9007199254740993]}', "2^53"),
        (b'{"a":99999999999999999999}', "64 bits"),
        (b'{"a":' + b"9" * 100_000 + b"}", "64 bits"),
        (b'{"a":0.' + b"1" * 100_000 + b"}", "float"),
        (rb'{"a\u0000b":1}', "NUL"),
        (b'{"a":"\x00"}', "line 1"),
    ],
)
def test_what_readers_would_disagree_on_is_refused_with_the_reason(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidJson, match=says.replace("^", r"\^")):
        load_object(raw)


def test_a_surrogate_pair_and_an_escaped_backslash_before_one_are_text() -> None:
    assert load_object(rb'{"a":"\ud83d\ude00","b":"\\ud800"}') == {"a": "😀", "b": "\\ud800"}


def test_64_bits_are_allowed_only_under_the_names_that_take_them() -> None:
    raw = b'{"seed":9223372036854775807}'
    assert load_object(raw, int64_names=("seed",)) == {"seed": 2**63 - 1}
    with pytest.raises(InvalidJson):
        load_object(b'{"seed":9223372036854775807,"n":9223372036854775807}', int64_names=("seed",))
    with pytest.raises(InvalidJson):
        load_object(raw)


def test_a_duplicate_name_is_the_errors_param() -> None:
    with pytest.raises(InvalidJson) as caught:
        load_object(b'{"model":"a","model":"b"}')
    assert caught.value.param == "model"


def test_the_deepest_allowed_nesting_passes_and_one_more_does_not() -> None:
    inner = MAX_DEPTH - 1
    assert load_object(b'{"a":' + b"[" * inner + b"]" * inner + b"}")
    with pytest.raises(InvalidJson, match="deeper"):
        load_object(b'{"a":' + b"[" * (inner + 1) + b"]" * (inner + 1) + b"}")


def test_brackets_and_commas_inside_strings_do_not_count() -> None:
    text = '[{,"\\' * MAX_NODES
    assert load_object(json.dumps({"a": text}).encode()) == {"a": text}


def test_too_many_values_are_refused() -> None:
    assert load_object(json.dumps({"a": [0] * (MAX_NODES - 10)}).encode())
    with pytest.raises(InvalidJson, match="more than"):
        load_object(json.dumps({"a": [0] * MAX_NODES}).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 5_000_000,
        b"{" * 5_000_000,
        b'{"a":"' + b'\\"' * 2_500_000,
        b'""' * 2_500_000,
        b'{"a":"' + b"[,{" * 1_500_000 + b'"}',
        b'{"a":[' + b"0," * 2_500_000 + b"0]}",
        b"]" * 5_000_000,
    ],
    ids=["arrays", "objects", "open string", "strings", "long string", "numbers", "closed"],
)
def test_a_hostile_body_is_judged_in_a_moment(raw: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(InvalidJson):
        load_object(raw)
    assert time.process_time() - started < 1.0


@given(st.dictionaries(st.text().filter(lambda t: "\0" not in t), st.text() | st.integers(-(2**53), 2**53) | st.none()))
def test_ordinary_json_is_read_as_written(value: dict[str, str | int | None]) -> None:
    for ascii_only in (True, False):
        assert load_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_an_object_or_invalid_json(raw: bytes) -> None:
    try:
        value = load_object(raw)
    except InvalidJson:
        return
    assert value == json.loads(raw)
