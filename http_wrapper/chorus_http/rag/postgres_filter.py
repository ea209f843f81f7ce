"""A `Filter` as SQL for PostgreSQL's jsonb."""

from __future__ import annotations

from typing import LiteralString, TypeAlias

import msgspec

from chorus_http.rag.documents import MetadataValue
from chorus_http.rag.filters import Filter

Parameter: TypeAlias = str | int | float | list[str]

# One row for a plain value, one for each element of an array, one that equals nothing for a missing field.
_EXISTS: LiteralString = """EXISTS (SELECT 1 FROM jsonb_array_elements(
    CASE jsonb_typeof(document.metadata -> %s) WHEN 'array' THEN document.metadata -> %s
    ELSE jsonb_build_array(document.metadata -> %s) END) AS field WHERE """
_EQUALS: LiteralString = _EXISTS + "field = ANY (%s::jsonb[]))"


def where(chosen: Filter) -> tuple[LiteralString, list[Parameter]]:
    """A condition on the table `document`, and its parameters."""
    parts: list[LiteralString] = []
    parameters: list[Parameter] = []
    if chosen.documents:
        parts.append("document.id = ANY (%s)")
        parameters.append([str(one) for one in chosen.documents])
    for condition in chosen.conditions:
        name = [condition.field] * 3
        if condition.any_of:
            parts.append(_EQUALS)
            parameters += [*name, _json(condition.any_of)]
        if condition.none_of:
            parts.append("NOT " + _EQUALS)
            parameters += [*name, _json(condition.none_of)]
        if condition.at_least is not None:
            parts.append(_EXISTS + (_TEXT_FROM if isinstance(condition.at_least, str) else _NUMBER_FROM))
            parameters += [*name, condition.at_least]
        if condition.at_most is not None:
            parts.append(_EXISTS + (_TEXT_TO if isinstance(condition.at_most, str) else _NUMBER_TO))
            parameters += [*name, condition.at_most]
    return " AND ".join(parts) or "true", parameters


# CASE, because AND promises no order, and a text that is no number must not be made one.
_NUMBER: LiteralString = "CASE WHEN jsonb_typeof(field) = 'number' THEN (field #>> '{}')::numeric "
_TEXT: LiteralString = """CASE WHEN jsonb_typeof(field) = 'string' THEN (field #>> '{}') COLLATE "C" """
_NUMBER_FROM: LiteralString = _NUMBER + ">= %s ELSE false END)"
_NUMBER_TO: LiteralString = _NUMBER + "<= %s ELSE false END)"
_TEXT_FROM: LiteralString = _TEXT + ">= %s ELSE false END)"
_TEXT_TO: LiteralString = _TEXT + "<= %s ELSE false END)"


def _json(values: tuple[MetadataValue, ...]) -> list[str]:
    return [msgspec.json.encode(value).decode() for value in values]
