"""Changes single values in the text of a JSON object and leaves every other byte as its owner wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from chorus_proto.dialects.strict_json import JsonValue

Route: TypeAlias = tuple[str | int, ...]
"""Where a value stands: names of objects and indexes of arrays, from the top."""

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    members: int | None = None
    """Of an object, how many."""


def with_values(text: str, changes: Mapping[Route, JsonValue]) -> str:
    """`text`, valid JSON, with each changed value in place. A member that is not there is added at the end of its
    object, which must be there. Raises KeyError otherwise."""
    for route, value in changes.items():
        spans: dict[Route, _Span] = {}
        _walk(text, _skip(text, 0), (), spans)
        written = json.dumps(value, ensure_ascii=False)
        found = spans.get(route)
        if found is not None:
            text = text[: found.start] + written + text[found.end :]
        else:
            text = _with_member(text, spans[route[:-1]], str(route[-1]), written)
    return text


def _with_member(text: str, parent: _Span, name: str, written: str) -> str:
    """As the members before it are written: on a line of its own, or on theirs."""
    inside = text[parent.start + 1 : parent.end - 1]
    lead = _SPACE.match(inside)
    between = lead.group() if lead is not None else ""
    end = parent.start + 1 + len(inside.rstrip())
    member = f"{json.dumps(name, ensure_ascii=False)}: {written}"
    if not parent.members:
        return text[: parent.start + 1] + member + text[parent.end - 1 :]
    return f"{text[:end]},{between or ' '}{member}{text[end:]}"


def _walk(text: str, at: int, route: Route, spans: dict[Route, _Span]) -> int:
    """Note the span of the value that begins at `at` and of all in it; where it ends."""
    opening = text[at]
    if opening not in "{[":
        _, end = _DECODER.raw_decode(text, at)
        spans[route] = _Span(at, end)
        return end
    position, count = _skip(text, at + 1), 0
    while text[position] not in "}]":
        step: str | int = count
        if opening == "{":
            name, position = _DECODER.raw_decode(text, position)
            step = str(name)
            position = _skip(text, _skip(text, position) + 1)
        position = _skip(text, _walk(text, position, (*route, step), spans))
        count += 1
        if text[position] == ",":
            position = _skip(text, position + 1)
    spans[route] = _Span(at, position + 1, count if opening == "{" else None)
    return position + 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
