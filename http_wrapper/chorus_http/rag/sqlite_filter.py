"""A `Filter` as SQL for SQLite's JSON functions."""

from __future__ import annotations

from typing import TypeAlias

from chorus_http.rag.documents import MetadataValue
from chorus_http.rag.filters import Condition, Filter

Parameter: TypeAlias = str | int | float


def where(chosen: Filter) -> tuple[str, list[Parameter]]:
    """A condition on the table `document`, and its parameters."""
    parts: list[str] = []
    parameters: list[Parameter] = []
    if chosen.documents:
        parts.append(f"document.id IN ({_marks(len(chosen.documents))})")
        parameters += chosen.documents
    for condition in chosen.conditions:
        for test, values in _tests(condition):
            parts.append(test)
            # json_each gives one row for a plain value, one for each element of an array, none for a missing field.
            parameters += [f'$."{condition.field}"', *values]
    return " AND ".join(parts) or "1", parameters


def _tests(condition: Condition) -> list[tuple[str, list[Parameter]]]:
    exists = "EXISTS (SELECT 1 FROM json_each(document.metadata, ?) AS field WHERE {})"
    tests: list[tuple[str, list[Parameter]]] = []
    if condition.any_of:
        test, values = _equals(condition.any_of)
        tests.append((exists.format(test), values))
    if condition.none_of:
        test, values = _equals(condition.none_of)
        tests.append((f"NOT {exists.format(test)}", values))
    for sign, bound in ((">=", condition.at_least), ("<=", condition.at_most)):
        if bound is not None:
            kinds = "('text')" if isinstance(bound, str) else "('integer', 'real')"
            tests.append((exists.format(f"field.type IN {kinds} AND field.value {sign} ?"), [bound]))
    return tests


def _equals(values: tuple[MetadataValue, ...]) -> tuple[str, list[Parameter]]:
    """JSON's true is no 1."""
    flags = [value for value in values if isinstance(value, bool)]
    others = [value for value in values if not isinstance(value, bool)]
    tests = [f"field.type = '{'true' if flag else 'false'}'" for flag in flags]
    if others:
        tests.append(f"(field.type NOT IN ('true', 'false') AND field.value IN ({_marks(len(others))}))")
    return f"({' OR '.join(tests)})", list(others)


def _marks(count: int) -> str:
    return ", ".join("?" * count)
