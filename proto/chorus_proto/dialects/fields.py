"""Turns a JSON object into a typed struct, or into the error that names the field, the way OpenAI's API words it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar, cast

import msgspec

from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.errors import InvalidRequest, UnknownParameter, UnsupportedParameter

S = TypeVar("S", bound=msgspec.Struct)

if TYPE_CHECKING:
    Unchecked: TypeAlias = JsonValue
else:
    # msgspec takes no recursive alias; whoever declares a field so checks it by hand.
    Unchecked = object

_ERROR = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")

ModelText = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
TopP = Annotated[float, msgspec.Meta(gt=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
TokenLimit = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A field that the caller's API has and Chorus cannot honour, with the values that ask for nothing."""

    harmless: tuple[JsonValue, ...]
    fix: str = ""

    def allows(self, value: JsonValue) -> bool:
        # `type` as well, because True == 1 and False == 0.
        return any(type(value) is type(nothing) and value == nothing for nothing in self.harmless)


def read_fields(body: JsonObject, kind: type[S], *, refused: Mapping[str, Refused], at: str = "") -> S:
    """`body` as a `kind`; `at` is the path of `body` inside the request, e.g. `messages[2]`.

    Raises InvalidRequest, UnknownParameter or UnsupportedParameter with `param` set.
    """
    known = kind.__struct_fields__
    taken: JsonObject = {}
    for name, value in body.items():
        if name in known:
            taken[name] = value
        elif name in refused:
            if not refused[name].allows(value):
                path = join_path(at, name)
                raise UnsupportedParameter(f"'{path}' is not supported here. {refused[name].fix}".rstrip(), param=path)
        else:
            raise unknown_field(name, (*known, *refused), at=at)
    try:
        return msgspec.convert(taken, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), at) from None


def unknown_field(name: str, known: Collection[str], *, at: str = "") -> UnknownParameter:
    shown = name if len(name) <= 64 else f"{name[:64]}..."
    closest = difflib.get_close_matches(name[:64], known, n=1)
    hint = f" Did you mean '{join_path(at, closest[0])}'?" if closest else ""
    path = join_path(at, shown)
    return UnknownParameter(f"Unrecognized request argument supplied: {path}.{hint}", param=path)


def join_path(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def as_object(value: JsonValue, at: str) -> JsonObject:
    if isinstance(value, dict):
        return value
    raise InvalidRequest(f"Invalid '{at}': expected an object.", param=at)


def _invalid(problem: str, at: str) -> InvalidRequest:
    match = _ERROR.match(problem)
    what, path = (match["what"], match["path"] or "") if match else (problem, "")
    full = join_path(at, path) if path else at
    if missing := _MISSING.search(what):
        name = join_path(full, cast("str", missing["name"]))
        return InvalidRequest(f"Missing required parameter: '{name}'.", param=name)
    words = what.replace("`", "")
    words = words[:1].lower() + words[1:]
    return InvalidRequest(f"Invalid '{full}': {words}.", param=full or None)


def refuse_documents(rag: JsonValue) -> None:
    """For a body that still has its `rag` where the wrapper has no documents. Raises UnsupportedParameter."""
    if rag not in (None, False):
        raise UnsupportedParameter("'rag' needs the packages for documents: chorus-llm[rag].", param="rag")
