"""`x_chorus`, the member of a request that holds what only Chorus understands; every API takes it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from chorus_proto.dialects.fields import as_object, read_fields
from chorus_proto.dialects.strict_json import JsonValue
from chorus_proto.values import Priority, RoutingStrategy


class ChorusFields(msgspec.Struct):
    """`node`: run on this one only, by id or name. Times are seconds."""

    node: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    strategy: RoutingStrategy | None = None
    queue_within_s: Annotated[float, msgspec.Meta(ge=0, le=600)] | None = None
    within_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    ignore_end: bool | None = None
    priority: Literal["interactive", "batch"] | None = None
    """Durable is for work that is written down before it is accepted; callers cannot ask for it."""
    routing: bool | None = None
    """Show `_routing` in the answer."""

    @property
    def asked_priority(self) -> Priority | None:
        return None if self.priority is None else Priority(self.priority)


def read_chorus_fields(value: JsonValue) -> ChorusFields:
    """Raises InvalidRequest or UnknownParameter naming the member."""
    return read_fields(as_object({} if value is None else value, "x_chorus"), ChorusFields, refused={}, at="x_chorus")
