"""The tool calls of one answer, put together from their pieces."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from chorus_proto.generation import FunctionCall, ToolCall, ToolCallPart


class CallsMade:
    """`take` the pieces as they come; `made` gives the calls in the order of their numbers."""

    __slots__ = ("_arguments", "_ids", "_names")

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    def take(self, parts: Iterable[ToolCallPart]) -> None:
        for part in parts:
            self._ids[part.index] = self._ids.get(part.index) or part.id
            self._names[part.index] = self._names.get(part.index) or part.name
            self._arguments.setdefault(part.index, []).append(part.arguments)

    def made(self) -> list[ToolCall]:
        return [
            ToolCall(
                id=self._ids[index] or f"call_{index}",
                function=FunctionCall(name=self._names[index], arguments="".join(self._arguments[index])),
            )
            for index in sorted(self._arguments)
        ]


def arguments_of(call: ToolCall) -> dict[str, object]:
    """As an object, for APIs that have no text here. What the model wrote wrong is shown under the name `_raw`."""
    try:
        return msgspec.json.decode(call.function.arguments or "{}", type=dict[str, object])
    except msgspec.DecodeError:
        return {"_raw": call.function.arguments}
