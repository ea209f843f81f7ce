"""What Chorus knows of models by name alone (`catalogue.toml`), and how model names compare."""

from __future__ import annotations

import difflib
import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import msgspec

from chorus_proto.errors import InvalidRequest
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelFile, ModelShape, Tier

MEDIUM_FROM_PARAMETERS = 2_500_000_000
LARGE_FROM_PARAMETERS = 7_000_000_000
"""The tiers are named after 1B, 3B and 8B models. The borders lie so that every model sold as 1B to 2B is small
(qwen3:1.7b has 2.03 billion), 3B and 4B are medium, and 7B counts with 8B: a PC just able to run 3B must not get it."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIER_ORDER = {Tier.SMALL: 0, Tier.MEDIUM: 1, Tier.LARGE: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One known model. `file` and `sha256` are those of its file in the client package when it is bundled.

    `quality` is a prior in 0-1.
    """

    name: ModelName
    file_bytes: int
    tier: Tier
    shape: ModelShape
    embedding: bool
    quality: float
    file: str | None = None
    sha256: str = ""


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file, as written there."""

    name: str
    file_bytes: int
    parameters: int
    architecture: str
    layers: int
    embedding_length: int
    heads: int
    kv_heads: int
    head_length: int
    vocabulary: int
    context_tokens: int
    quality: float
    active_parameters: int | None = None
    sliding_window_tokens: int | None = None
    sliding_layers: int | None = None
    tier: Tier | None = None
    file: str | None = None
    sha256: str = ""
    embedding: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: tuple[_Row, ...]


def normalised(name: str) -> ModelName:
    """The form in which names compare: lower case, without the tag that Ollama adds when none is given."""
    return ModelName(name.strip().lower().removesuffix(":latest"))


@cache
def entries() -> Mapping[ModelName, CatalogueEntry]:
    """All known models by normalised name. Raises InvalidRequest, naming the entry, if the file is wrong."""
    text = importlib.resources.files("chorus_proto").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return parsed(text)


def parsed(text: str) -> Mapping[ModelName, CatalogueEntry]:
    """Read a catalogue. Raises InvalidRequest with the entry and the field at fault."""
    try:
        rows = msgspec.convert(tomllib.loads(text), _File).model
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidRequest(f"The model catalogue is wrong: {error}") from error
    found: dict[ModelName, CatalogueEntry] = {}
    for row in rows:
        entry = _entry(row)
        if entry.name in found:
            raise InvalidRequest(f"The model catalogue has {row.name} twice.")
        found[entry.name] = entry
    return MappingProxyType(found)


def _entry(row: _Row) -> CatalogueEntry:
    positive = {
        "file_bytes": row.file_bytes,
        "parameters": row.parameters,
        "layers": row.layers,
        "embedding_length": row.embedding_length,
        "heads": row.heads,
        "head_length": row.head_length,
        "vocabulary": row.vocabulary,
        "context_tokens": row.context_tokens,
    }
    wrong = next((field for field, value in positive.items() if value <= 0), None)
    if not row.embedding and row.kv_heads <= 0:
        wrong = "kv_heads"
    if not 0 <= row.quality <= 1:
        wrong = "quality"
    if (row.sliding_window_tokens is None) != (row.sliding_layers is None):
        wrong = "sliding_layers"
    if row.active_parameters is not None and not 0 < row.active_parameters < row.parameters:
        wrong = "active_parameters"
    if (row.file is not None) != bool(row.sha256) or not _SHA256.fullmatch(row.sha256 or "0" * 64):
        wrong = "sha256"
    if wrong is not None:
        raise InvalidRequest(f"The model catalogue is wrong: {row.name}: {wrong} is out of range.")
    shape = ModelShape(
        architecture=row.architecture,
        layers=row.layers,
        embedding_length=row.embedding_length,
        heads=row.heads,
        kv_heads=row.kv_heads,
        key_length=row.head_length,
        value_length=row.head_length,
        vocabulary=row.vocabulary,
        trained_context_tokens=row.context_tokens,
        parameters=row.parameters,
        active_parameters=row.active_parameters,
        sliding_window_tokens=row.sliding_window_tokens,
        sliding_layers=row.sliding_layers,
    )
    return CatalogueEntry(
        name=normalised(row.name),
        file_bytes=row.file_bytes,
        tier=row.tier or tier_of_parameters(row.parameters),
        shape=shape,
        embedding=row.embedding,
        quality=row.quality,
        file=row.file,
        sha256=row.sha256,
    )


def entry(name: str) -> CatalogueEntry | None:
    """The known model of this name, or None."""
    return entries().get(normalised(name))


def bundled() -> tuple[CatalogueEntry, ...]:
    """The models whose files lie in the client package."""
    return tuple(entry for entry in entries().values() if entry.file is not None)


def closest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The names in `known` that somebody who wrote `name` may have meant, best first, at most `limit`."""
    wanted = normalised(name)
    by_form = {normalised(candidate): candidate for candidate in sorted(known)}
    alike = difflib.get_close_matches(wanted, by_form, n=limit, cutoff=0.5)
    containing = [form for form in by_form if wanted and (wanted in form or form in wanted) and form not in alike]
    return [by_form[ModelName(form)] for form in [*alike, *containing][:limit]]


def tier_of_parameters(parameters: int) -> Tier:
    if parameters >= LARGE_FROM_PARAMETERS:
        return Tier.LARGE
    return Tier.MEDIUM if parameters >= MEDIUM_FROM_PARAMETERS else Tier.SMALL


def shape_of(file: ModelFile) -> ModelShape | None:
    """The shape in the file's header, else the one known by name, else None."""
    known = entry(file.name)
    return file.shape or (known.shape if known is not None else None)


def tier_of(file: ModelFile) -> Tier:
    """The catalogue's word first (the demo models play larger ones), then the parameters; unknown models are small."""
    known = entry(file.name)
    if known is not None:
        return known.tier
    return tier_of_parameters(file.shape.parameters) if file.shape is not None else Tier.SMALL


def covers(allowed: Tier, tier: Tier) -> bool:
    """Whether a PC that may run `allowed` models may run a `tier` model."""
    return _TIER_ORDER[tier] <= _TIER_ORDER[allowed]
