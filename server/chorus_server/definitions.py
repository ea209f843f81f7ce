"""What a council is: who is asked, how long, and how one answer is made of theirs. `councils_file` is a TOML file:

    [tags]
    fast = ["attic-pc", "cellar-pc"]      # nodes, by name or id

    [council.fast3]                       # asked as the model council/fast3
    members = [{ tag = "fast" }, { model = "llama3.2:3b" }, { node = "attic-pc", model = "qwen3:8b" }]
    panel = 3                             # ask at most so many, the best first
    strategy = "vote"

`council/all` always exists: every PC with the model it holds. The file may define it anew.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec

from chorus_proto.catalogue import closest, normalised
from chorus_proto.errors import ModelNotFound
from chorus_proto.ids import COUNCIL_PREFIX, ModelName
from chorus_proto.settings import SettingsError
from chorus_proto.values import AggregateStrategy, CouncilSummary, Tier
from chorus_server.voting import CHOICES

_MOST_BYTES = 256 * 1024
MOST_MEMBERS = 1000
_ALL = ModelName(f"{COUNCIL_PREFIX}all")

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Selector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Replicas that fit all that is given. `tag`: one of the file's, or a tier (small, medium, large)."""

    node: _Name | None = None
    model: _Name | None = None
    tag: _Name | None = None

    def __str__(self) -> str:
        return " ".join(f"{name} {value}" for name, value in msgspec.structs.asdict(self).items() if value)


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One council, as the file has it. Defaults are of a vote among comparable members."""

    members: tuple[Selector, ...] = ()
    """Whoever fits one of them; empty: every node with the model that it holds."""
    strategy: AggregateStrategy = AggregateStrategy.VOTE
    panel: Annotated[int, msgspec.Meta(ge=1, le=MOST_MEMBERS)] | None = None
    """Ask at most so many, the best first; None: all."""
    quorum: Annotated[int, msgspec.Meta(ge=1, le=MOST_MEMBERS)] | None = None
    """So many answers end the wait; None: all that come in time."""
    samples: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """Answers wanted of each member."""
    temperature: Annotated[float, msgspec.Meta(gt=0, le=2)] = 0.7
    """Of the second answer of a member and those after it, at least."""
    within_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    """The members' time; judges and writers come after it. None: the caller's time is theirs."""
    tiers_apart: Annotated[int, msgspec.Meta(ge=0, le=2)] | None = 1
    """Models so many tiers below the best of the panel are not asked; -1 in the file: all are."""
    wait_factor: Annotated[float, msgspec.Meta(ge=1, le=100)] | None = 1.5
    """Once more than half have answered, the rest has this many times their median; 0 in the file: all its time."""
    late_within_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    """Whoever is not waited for may still say so long after the answer was told; it is shown and does not count."""
    early_stop: bool = True
    """Ask no more members than the outcome needs (`vote` only)."""
    yield_when_busy: bool = True
    """Ask fewer as the cluster fills up, down to the best one."""
    choices: Annotated[int, msgspec.Meta(ge=2, le=1000)] = CHOICES
    judge: _Name | None = None
    """The model that judges or writes; None: the best of the members."""
    layers: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1
    """`synthesise`: so often the members answer, from the second time on having read each other."""


EVERYBODY = Definition(tiers_apart=None, wait_factor=None, early_stop=False, yield_when_busy=False)
"""All PCs, whatever they hold and however long they take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Councils:
    """All councils by full name, and the tags: names or ids of nodes."""

    definitions: Mapping[ModelName, Definition]
    tags: Mapping[str, frozenset[str]]

    def find(self, name: str) -> Definition:
        """Raises ModelNotFound with the closest names."""
        found = self.definitions.get(normalised(name))
        if found is None:
            near = closest(name, self.definitions) or list(self.definitions)
            raise ModelNotFound(f"there is no {name!r}; councils here: {', '.join(near)}", param="model")
        return found

    def summaries(self) -> tuple[CouncilSummary, ...]:
        return tuple(
            CouncilSummary(name=name, strategy=one.strategy, members=_words(one))
            for name, one in self.definitions.items()
        )


def _words(definition: Definition) -> str:
    who = ", ".join(map(str, definition.members)) or "every PC"
    most = f"at most {definition.panel} of " if definition.panel else ""
    each = f", {definition.samples} answers each" if definition.samples > 1 else ""
    return f"{most}{who}{each}"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    council: dict[str, dict[str, object]] = {}
    tags: dict[str, tuple[_Name, ...]] = {}


def read_councils(path: Path | None) -> Councils:
    """The councils of that file and `council/all`. Raises SettingsError that names the file, the key and the fix."""
    definitions: dict[ModelName, Definition] = {_ALL: EVERYBODY}
    if path is None:
        return Councils(definitions=MappingProxyType(definitions), tags=MappingProxyType({}))
    try:
        file = msgspec.convert(_document(path), _File)
    except msgspec.ValidationError as error:
        raise SettingsError(f"councils_file {path}: {error}") from None
    for name, table in file.council.items():
        plain = name.strip().lower().removeprefix(COUNCIL_PREFIX)
        if not plain or not plain.isprintable() or len(plain) > 100 or any(c.isspace() for c in plain):
            raise SettingsError(
                f"councils_file {path}: {name[:100]!r} is no name of a council; write letters and digits"
            )
        definitions[ModelName(COUNCIL_PREFIX + plain)] = _definition(table, f"councils_file {path}: council.{plain}")
    tags = {tag.lower(): frozenset(node.lower() for node in nodes) for tag, nodes in file.tags.items()}
    for tag in {one.tag for made in definitions.values() for one in made.members if one.tag}:
        if tag.lower() not in tags and tag.lower() not in set(Tier):
            raise SettingsError(f"councils_file {path}: there is no tag {tag!r}; write it under [tags]")
    return Councils(definitions=MappingProxyType(definitions), tags=MappingProxyType(tags))


def _definition(table: Mapping[str, object], at: str) -> Definition:
    """Raises SettingsError."""
    read = dict(table)
    # TOML has no null.
    if read.get("tiers_apart") == -1:
        read["tiers_apart"] = None
    if read.get("wait_factor") == 0:
        read["wait_factor"] = None
    try:
        made = msgspec.convert(read, Definition)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{at}: {error}") from None
    if any(not str(one) for one in made.members):
        raise SettingsError(f"{at}: a member needs a node, a model or a tag")
    if made.panel is not None and made.quorum is not None and made.quorum > made.panel * made.samples:
        raise SettingsError(f"{at}: quorum {made.quorum} is more than the {made.panel * made.samples} that are asked")
    if made.layers > 1 and made.strategy is not AggregateStrategy.SYNTHESISE:
        raise SettingsError(f"{at}: layers go with the strategy synthesise")
    if made.strategy is AggregateStrategy.FIRST and made.quorum is None:
        made = msgspec.structs.replace(made, quorum=1)
    return made


def _document(path: Path) -> dict[str, object]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Asked before it is opened: opening a pipe waits for somebody to write into it.
            raise SettingsError(f"councils_file {path} is not a regular file; name a TOML file")
        with path.open("rb") as source:
            raw = source.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"councils_file {path} does not exist: create it, or remove the setting") from None
    except OSError as error:
        raise SettingsError(f"councils_file {path} cannot be read: {error.strerror or error}") from None
    if len(raw) > _MOST_BYTES:
        raise SettingsError(f"councils_file {path} is larger than {_MOST_BYTES} bytes; it is another file")
    try:
        # utf-8-sig: Windows Notepad writes a byte order mark, which TOML does not allow.
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"councils_file {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"councils_file {path} is not TOML: {error}") from None
