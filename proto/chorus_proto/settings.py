"""One loader for every process's settings: defaults < TOML file < environment `CHORUS_*` < flags.

A process declares one frozen dataclass whose fields are made by `setting`; everything else (flags, environment names,
`chorus config show`, refusals that name the key, where the value came from and what to write instead) follows from it.
In the file, top-level keys are shared by all processes and the tables [coordinator], [http] and [agent] narrow to one.
A class whose fields can contradict each other has a method `check`, called once all are known (see `Checked`).
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast, runtime_checkable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ENV_PREFIX = "CHORUS_"
SECTIONS = ("coordinator", "http", "agent")
HIDDEN = "***"

T = TypeVar("T", bound="DataclassInstance")
V = TypeVar("V")


class SettingsError(Exception):
    """A setting cannot be used; one line that names the key, where it came from and the fix. Exit code 2 at the CLI."""


@runtime_checkable
class Checked(Protocol):
    """Settings whose fields must agree with each other."""

    def check(self) -> None:
        """Raises SettingsError that names every setting of a contradiction; see `rising`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    help: str
    flag: str | None
    secret: bool
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One field of a settings class. `type` is the type of one value: str, int, float, bool, Path or a StrEnum."""

    name: str
    help: str
    default: object
    env: str
    flag: str
    type: type[object]
    optional: bool
    multiple: bool
    secret: bool
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]

    @property
    def type_name(self) -> str:
        """For people: `integer 1-65535`, `one of a, b`, `list of text`, `path or nothing`."""
        one = f"one of {', '.join(self.choices)}" if self.choices else _TYPE_NAMES[self.type]
        if self.minimum is not None and self.maximum is not None:
            one += f" {self.minimum:g}-{self.maximum:g}"
        elif self.minimum is not None:
            one += f" >= {self.minimum:g}"
        elif self.maximum is not None:
            one += f" <= {self.maximum:g}"
        if self.multiple:
            return f"list of {one}"
        return f"{one} or nothing" if self.optional else one

    def shown(self, value: object) -> str:
        """`value` as text for people; a secret that is set reads ***."""
        if value is None or value == ():
            return ""
        if self.secret:
            return HIDDEN
        if isinstance(value, tuple):
            return ", ".join(str(item) for item in cast("tuple[object, ...]", value))
        return str(value).lower() if isinstance(value, bool) else str(value)


_TYPE_NAMES: dict[type[object], str] = {str: "text", int: "integer", float: "number", bool: "true/false", Path: "path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[T]):
    """Settings in force, and where each came from: "default", "file PATH", "environment CHORUS_X" or "flag --x"."""

    values: T
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str, str]]:
        """(name, value with secrets hidden, origin) of each field, in the order of the class."""
        return [
            (one.name, one.shown(getattr(self.values, one.name)), self.origins[one.name])
            for one in describe(type(self.values))
        ]


def setting(
    default: V,
    help: str,
    *,
    flag: str | None = None,
    secret: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Iterable[str] = (),
) -> V:
    """A field of a settings class. `flag` replaces the flag made from the name; a secret stays out of `repr`."""
    rules = _Rules(
        help=help, flag=flag, secret=secret, minimum=minimum, maximum=maximum, choices=tuple(str(c) for c in choices)
    )
    return field(default=default, repr=not secret, metadata={_Rules: rules})


def describe(kind: type[DataclassInstance]) -> tuple[Described, ...]:
    """The fields of a settings class, in order. Raises TypeError for a field that `setting` did not make."""
    hints = typing.get_type_hints(kind)
    described: list[Described] = []
    for one in dataclasses.fields(kind):
        rules: object = one.metadata.get(_Rules)
        if not isinstance(rules, _Rules):
            raise TypeError(f"{kind.__name__}.{one.name} is not made by setting()")
        base, optional, multiple = _taken_apart(hints[one.name], where=f"{kind.__name__}.{one.name}")
        choices = tuple(member.value for member in base) if issubclass(base, StrEnum) else rules.choices
        described.append(
            Described(
                name=one.name,
                help=rules.help,
                default=one.default,
                env=ENV_PREFIX + one.name.upper(),
                flag=rules.flag or "--" + one.name.replace("_", "-"),
                type=base,
                optional=optional,
                multiple=multiple,
                secret=rules.secret,
                minimum=rules.minimum,
                maximum=rules.maximum,
                choices=choices,
            )
        )
    return tuple(described)


def rising(settings: DataclassInstance, *names: str, equal: bool = False) -> None:
    """Each of these numbers must be less than the next, or with `equal` at most the next. Raises SettingsError."""
    for low, high in itertools.pairwise(names):
        lower, upper = cast("float", getattr(settings, low)), cast("float", getattr(settings, high))
        if lower > upper or (lower == upper and not equal):
            relation = "at most" if equal else "less than"
            raise SettingsError(f"{low} = {lower:g} must be {relation} {high} = {upper:g}")


def load(
    kind: type[T],
    *,
    section: str,
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    family: Mapping[str, type[DataclassInstance]] | None = None,
) -> Loaded[T]:
    """The settings of one process.

    `family` maps the sections of one file to their settings classes, so that a key or flag of another process is known
    for what it is. In `flags` a value of None or () means that the flag was not given. Relative paths in the file start
    at the file's folder. Raises SettingsError, also for settings that contradict each other.
    """
    fields = {one.name: one for one in describe(kind)}
    relatives = {name: {one.name: one for one in describe(other)} for name, other in (family or {}).items()}
    relatives[section] = fields
    every = {name: one for relative in relatives.values() for name, one in relative.items()}

    values: dict[str, object] = {}
    origins = dict.fromkeys(fields, "default")

    def take(name: str, raw: object, origin: str, base: Path | None = None) -> None:
        values[name] = _converted(fields[name], raw, origin, base)
        origins[name] = origin

    if file is not None:
        for name, raw in _file_values(file, section, relatives).items():
            take(name, raw, f"file {file}", file.parent)
    warnings: list[str] = []
    known = {one.env for one in every.values()}
    for variable in sorted(name for name in environ if name.startswith(ENV_PREFIX)):
        name = variable.removeprefix(ENV_PREFIX).lower()
        if variable in known and name in fields:
            take(name, environ[variable], f"environment {variable}")
        elif variable not in known:
            warnings.append(f"environment variable {variable} is not a setting{_closest(variable, known)}")
    for name, raw in flags.items():
        if name not in every:
            raise TypeError(f"flag {name!r} belongs to no settings class")
        if name in fields and raw is not None and raw != ():
            take(name, raw, f"flag {fields[name].flag}")
    complete = dataclasses.replace(kind(), **values)
    if isinstance(complete, Checked):
        try:
            complete.check()
        except SettingsError as error:
            named = [f"{name}: {origin}" for name, origin in origins.items() if re.search(rf"\b{name}\b", str(error))]
            raise SettingsError(f"{error} ({', '.join(named)})" if named else str(error)) from None
    return Loaded(values=complete, origins=origins, warnings=tuple(warnings))


def _taken_apart(hint: object, *, where: str) -> tuple[type[object], bool, bool]:
    """A field's annotation as (type of one value, may be None, is a tuple)."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [argument for argument in arguments if argument is not type(None)]
        if len(rest) == 1 and len(arguments) == 2:
            base, _, multiple = _taken_apart(rest[0], where=where)
            return base, True, multiple
    elif typing.get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is ...:
        base, optional, multiple = _taken_apart(arguments[0], where=where)
        if not optional and not multiple and (base in (str, Path) or issubclass(base, StrEnum)):
            return base, False, True
    elif isinstance(hint, type) and (hint in _TYPE_NAMES or issubclass(hint, StrEnum)):
        return hint, False, False
    raise TypeError(f"{where}: settings cannot be of type {hint}")


def _file_values(file: Path, section: str, relatives: Mapping[str, Mapping[str, Described]]) -> dict[str, object]:
    """What `file` says for `section`, unconverted. Every key of every known table is checked, not only our own."""
    try:
        # utf-8-sig: Windows Notepad writes a byte order mark, which TOML does not allow.
        document = cast("dict[str, object]", tomllib.loads(file.read_bytes().decode("utf-8-sig")))
    except FileNotFoundError as error:
        raise SettingsError(
            f"the settings file {file} does not exist: create it, or name another by --config"
        ) from error
    except OSError as error:
        raise SettingsError(f"the settings file {file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"the settings file {file} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the settings file {file} is not TOML: {error}") from error

    every = {name for relative in relatives.values() for name in relative}
    tables = {*SECTIONS, *relatives}
    shared: dict[str, object] = {}
    own: dict[str, object] = {}
    for key, value in document.items():
        if not isinstance(value, dict):
            if key not in every:
                raise SettingsError(f"file {file}: unknown key {key!r}{_closest(key, every)}")
            shared[key] = value
            continue
        if key not in tables:
            raise SettingsError(f"file {file}: unknown table [{key}]{_closest(key, tables)}")
        table = cast("dict[str, object]", value)
        if key in relatives:
            for name in table:
                if name not in relatives[key]:
                    raise SettingsError(f"file {file}: unknown key {name!r} in [{key}]{_closest(name, relatives[key])}")
        if key == section:
            own = table
    return {name: raw for name, raw in {**shared, **own}.items() if name in relatives[section]}


def _closest(name: str, known: Iterable[str]) -> str:
    candidates = sorted(known)
    found = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if found:
        return f"; did you mean {found[0]!r}?"
    return f"; known: {', '.join(candidates)}" if len(candidates) <= 12 else ""


def _converted(one: Described, raw: object, origin: str, base: Path | None) -> object:
    """`raw` as the field's type. Raises SettingsError with the key, the origin and what would be right."""

    def refused(why: str) -> SettingsError:
        shown = HIDDEN if one.secret else repr(raw)
        return SettingsError(f"{one.name} = {shown} ({origin}): {why}; write {one.type_name}")

    if one.optional and raw == "":
        return None
    if one.multiple:
        items: list[object]
        if isinstance(raw, str):
            items = [item.strip() for item in raw.split(",") if item.strip()]
        elif isinstance(raw, (list, tuple)):
            items = list(cast("Iterable[object]", raw))
        else:
            raise refused("not a list")
        if not all(isinstance(item, (str, one.type)) for item in items):
            raise refused("not a list of text")
        if one.choices and (wrong := [item for item in items if item not in one.choices]):
            raise refused(f"{wrong[0]!r} is not known")
        try:
            return tuple(_one_value(one.type, item, base) for item in items)
        except ValueError as error:
            raise refused(str(error)) from None
    try:
        value = _one_value(one.type, raw, base)
    except ValueError as error:
        raise refused(str(error)) from None
    if one.choices and str(value) not in one.choices:
        raise refused("not known")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if one.minimum is not None and value < one.minimum:
            raise refused("too small")
        if one.maximum is not None and value > one.maximum:
            raise refused("too large")
    return value


_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def _one_value(kind: type[object], raw: object, base: Path | None) -> object:
    """Raises ValueError with the reason in words, without the value (it may be a secret)."""
    if kind is bool:
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, str) and raw.strip().lower() in _TRUE | _FALSE:
            return raw.strip().lower() in _TRUE
        raise ValueError("not true or false")
    if kind is int:
        if isinstance(raw, int) and not isinstance(raw, bool):
            return raw
        if isinstance(raw, str):
            try:
                return int(raw)
            except ValueError:
                raise ValueError("not an integer") from None
        raise ValueError("not an integer")
    if kind is float:
        if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
            raise ValueError("not a number")
        try:
            number = float(raw)
        except (ValueError, OverflowError):
            raise ValueError("not a number") from None
        if not math.isfinite(number):
            raise ValueError("not a finite number")
        return number
    if kind is Path:
        if not isinstance(raw, (str, Path)) or not str(raw) or "\0" in str(raw):
            raise ValueError("not a path")
        try:
            path = Path(raw).expanduser()
        except RuntimeError:
            raise ValueError("the home folder is unknown") from None
        return base / path if base is not None else path
    if not isinstance(raw, str):
        raise ValueError("not text")
    if issubclass(kind, StrEnum):
        try:
            return kind(raw.strip().lower())
        except ValueError:
            raise ValueError("not known") from None
    return raw
