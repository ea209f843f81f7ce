"""The one door for JSON that a stranger sent.

Python's `json` takes duplicate keys, NaN, lone surrogates and any depth; what those do depends on who reads them next,
so they stop here. RFC 8259 leaves duplicate names undefined and RFC 7493 (I-JSON) forbids them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from typing import NoReturn, TypeAlias, cast

from chorus_proto.errors import InvalidJson

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

MAX_DEPTH = 64
MAX_NODES = 10_000
MAX_SAFE_INT = 2**53
MAX_INT64 = 2**63 - 1
MIN_INT64 = -(2**63)

# Possessive, so that a string of 10 MiB is one step and leaves nothing to backtrack to.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_LONGEST_INT = 20
_LONGEST_FLOAT = 400


def load_object(raw: bytes, *, int64_names: Collection[str] = (), most_nodes: int = MAX_NODES) -> JsonObject:
    """The JSON object in `raw`, of at most so many values.

    Integers lie within ±2^53, except those right under a name of `int64_names`, which may use 64 bits.
    Raises InvalidJson, whose message says what is wrong and where.
    """
    text = _text(raw)
    _check_size(raw, most_nodes)
    reader = _Reader()
    try:
        value = cast(
            "JsonValue",
            json.loads(
                text,
                object_pairs_hook=reader.object,
                parse_int=reader.integer,
                parse_float=_finite,
                parse_constant=_refuse_constant,
            ),
        )
    except json.JSONDecodeError as error:
        raise InvalidJson(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    if not isinstance(value, dict):
        raise InvalidJson(f"The body must be a JSON object, not {_kind(value)}.")
    if reader.wide_ints > sum(1 for name in int64_names if _is_wide(value.get(name))):
        raise InvalidJson("The body holds an integer beyond ±2^53, which JSON readers do not agree on.")
    if _SURROGATE_ESCAPE.search(text):
        _check_surrogates(value)
    return value


def _text(raw: bytes) -> str:
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) or raw[:1] == b"\0" or raw[1:2] == b"\0":
        raise InvalidJson("The body must be UTF-8 without a byte order mark; this looks like another encoding.")
    if not raw.strip():
        raise InvalidJson("The body is empty; send a JSON object.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not valid UTF-8 at byte {error.start}.") from None


def _check_size(raw: bytes, most_nodes: int) -> None:
    """Refuse depth and number of values before anything is built. The cheap counts settle nearly every body."""
    opened = raw.count(b"[") + raw.count(b"{")
    if opened <= MAX_DEPTH and opened + raw.count(b",") < most_nodes:
        return
    depth = nodes = strings = 0
    for token in _structure(raw):
        if token == b"{" or token == b"[":
            depth += 1
            nodes += 1
        elif token == b",":
            nodes += 1
        elif token == b"}" or token == b"]":
            depth -= 1
        else:
            strings += 1
        if depth > MAX_DEPTH:
            raise InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels.")
        if nodes >= most_nodes:
            raise InvalidJson(f"The body holds more than {most_nodes} values.")
        if depth < 0 or strings > 2 * most_nodes + 2:
            return  # not JSON; the parser says where


def _structure(raw: bytes) -> Iterator[bytes]:
    for match in _TOKEN.finditer(raw):
        start = match.start()
        yield raw[start : start + 1]


class _Reader:
    """The parser's hooks; remembers how many integers left the range that every JSON reader keeps exact."""

    def __init__(self) -> None:
        self.wide_ints = 0

    def object(self, pairs: list[tuple[str, JsonValue]]) -> JsonObject:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    raise InvalidJson(f"The name {name[:64]!r} stands twice in one object.", param=_param(name))
                seen.add(name)
        for name in found:
            if "\0" in name:
                raise InvalidJson("A name holds a NUL character.")
        return found

    def integer(self, digits: str) -> int:
        if len(digits) > _LONGEST_INT:
            raise InvalidJson("The body holds an integer beyond 64 bits.")
        value = int(digits)
        if not MIN_INT64 <= value <= MAX_INT64:
            raise InvalidJson("The body holds an integer beyond 64 bits.")
        if _is_wide(value):
            self.wide_ints += 1
        return value


def _is_wide(value: JsonValue) -> bool:
    return type(value) is int and abs(value) > MAX_SAFE_INT


def _finite(digits: str) -> float:
    if len(digits) > _LONGEST_FLOAT or not math.isfinite(value := float(digits)):
        raise InvalidJson("The body holds a number that no 64-bit float can hold.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJson(f"{name} is not JSON; send null or leave the field out.")


def _check_surrogates(value: JsonValue) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidJson(r"The body escapes half of a surrogate pair (\ud800-\udfff).") from None


def _param(name: str) -> str | None:
    return name if len(name) <= 64 and name.isprintable() else None


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "a number"
