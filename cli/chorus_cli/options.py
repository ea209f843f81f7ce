"""Command-line options made from the settings classes, so that no option is written twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chorus_cli.settings import FAMILY
from chorus_proto.settings import Described, Loaded, describe, load

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

F = TypeVar("F", bound=Callable[..., Any])  # Any: click's decorators take a function of any parameters
T = TypeVar("T", bound="DataclassInstance")

FILE = click.Path(dir_okay=False, path_type=Path)


def described(*kinds: type[DataclassInstance]) -> dict[str, Described]:
    """The fields of several settings classes by name; the first class that has a name describes it."""
    found: dict[str, Described] = {}
    for kind in kinds:
        for one in describe(kind):
            found.setdefault(one.name, one)
    return found


def settings_options(
    *kinds: type[DataclassInstance],
    only: Collection[str] = (),
    leave_out: Collection[str] = (),
    config: bool = True,
) -> Callable[[F], F]:
    """Give a command one option for each field of these classes, and `--config` (once: a second use leaves it out).

    Secrets get none: a command line is public, so they come from the environment or the file.

    Values stay text: the settings loader converts them, so that a flag, a variable and a file key are refused alike.
    """

    def decorate(function: F) -> F:
        for name, one in reversed(described(*kinds).items()):
            if name not in leave_out and not one.secret and (not only or name in only):
                function = _option(one)(function)
        if not config:
            return function
        return click.option("--config", type=FILE, metavar="FILE", help="TOML file with settings.")(function)

    return decorate


def ready_file_option(function: F) -> F:
    """`--ready-file`: how a script learns that, and where, the process answers."""
    return click.option(
        "--ready-file", type=FILE, metavar="FILE", help="Write addresses and pid here, as JSON, once all answers."
    )(function)


def _option(one: Described) -> Callable[[F], F]:
    shown = one.shown(one.default)
    text = f"{one.help[:1].upper()}{one.help[1:]}." + (f" [default: {shown}]" if shown else "")
    if one.type is bool:
        return click.option(
            f"{one.flag}/--no-{one.flag.removeprefix('--')}", one.name, is_flag=True, default=None, help=text
        )
    if one.multiple:
        text += " Several: with commas, or the option again."
    metavar = "|".join(one.choices) if one.choices else one.type_name.split(" ")[0].upper()
    return click.option(one.flag, one.name, multiple=one.multiple, default=None, metavar=metavar, help=text)


def effective(kind: type[T], section: str, *, config: Path | None, flags: Mapping[str, object], warn: bool = True) -> T:
    """The settings of one class in force. Raises SettingsError; odd environment variables are named on stderr."""
    loaded = effective_with_origins(kind, section, config=config, flags=flags)
    if warn:
        for line in loaded.warnings:
            print(f"chorus: warning: {line}", file=sys.stderr)
    return loaded.values


def effective_with_origins(
    kind: type[T], section: str, *, config: Path | None, flags: Mapping[str, object]
) -> Loaded[T]:
    """Raises SettingsError."""
    given = {name: _listed(value) for name, value in flags.items()}
    return load(kind, section=section, file=config, environ=os.environ, flags=given, family=FAMILY)


def _listed(value: object) -> object:
    """`--engines a,b` and `--engines a --engines b` mean the same."""
    return ",".join(str(item) for item in value) if isinstance(value, tuple) and value else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # click's values are untyped


def as_flags(kind: type[DataclassInstance], flags: Mapping[str, object], *, leave_out: Collection[str]) -> list[str]:
    """The flags given to this command that `kind` knows, as a command line for a child process."""
    line: list[str] = []
    for one in describe(kind):
        value = flags.get(one.name)
        if value is None or value == () or one.name in leave_out:
            continue
        if isinstance(value, bool):
            line.append(one.flag if value else f"--no-{one.flag.removeprefix('--')}")
        else:
            # One word: a value may begin with a dash.
            line.append(f"{one.flag}={_listed(value)}")
    return line
