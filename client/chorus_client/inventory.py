"""The GGUF files on this PC: the bundled ones and those in the folders that the owner named."""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from chorus_client.chat_template import template_of_header, traits
from chorus_client.engines.base import Report
from chorus_client.file_paths import leads_out
from chorus_client.gguf import read_header
from chorus_client.integrity import Integrity
from chorus_client.model_shape import is_embedding, shape_of
from chorus_client.transfer.model_store import NamedFile
from chorus_client.unchanged import Stamp, Unchanged, stamp_of
from chorus_proto import catalogue
from chorus_proto.errors import LoadFailed, ModelDamaged, ModelNotFound
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

log = logging.getLogger(__name__)

_SUFFIX = ".gguf"
_DEEPEST = 4
"""Folders below a models folder that are searched; publisher/model/file is what download tools make."""
_MOST_FILES = 2000
_NOT_LANGUAGE_MODELS = frozenset({"clip", "diffusion", "wavtokenizer-dec"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A model's file. `folder`: where it must lie; `expected`: its SHA-256 where it is known from elsewhere."""

    file: ModelFile
    path: Path
    folder: Path
    expected: str
    status: os.stat_result

    def is_as_found(self, status: os.stat_result) -> bool:
        return (status.st_size, status.st_mtime_ns) == (self.status.st_size, self.status.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A file that may be a model, and what is known of it from elsewhere."""

    path: Path
    name: ModelName
    folder: Path
    sha256: str
    fetched: bool = False


def bundled_folder() -> Path | None:
    """Where the bundled models lie; None in an installation without them."""
    folder = Path(str(importlib.resources.files("chorus_client").joinpath("models")))
    return folder if folder.is_dir() else None


class NamedFiles(Protocol):
    """A folder whose files are named, and known by their SHA-256, by something else than their own names."""

    @property
    def folder(self) -> Path: ...

    def entries(self) -> list[NamedFile]: ...


class Inventory:
    """The models that the llama.cpp engine can load here. `refresh` looks; `files` and `path_of` answer from memory.

    A bundled file has its catalogue name. Any other has its file name without the suffix, lower-cased, each run of
    characters other than letters, digits, `.`, `_`, `:` and `-` made one `-`: names inside files are written by others
    and repeat. Of two files with one name the first counts: bundled, then folder by folder, then by path, then what
    the `stores` hold.

    Before an engine gets a file, ask `checked` for it. A damaged one is in no list and is refused by name.
    """

    def __init__(
        self,
        models_dirs: Sequence[Path],
        state_dir: Path,
        *,
        integrity: Integrity | None = None,
        stores: Sequence[NamedFiles] = (),
    ) -> None:
        self._models_dirs = tuple(models_dirs)
        self._stores = tuple(stores)
        self._integrity = integrity or Integrity(state_dir)
        self._found: dict[ModelName, _Found] = {}
        self._damaged: dict[ModelName, str] = {}
        self._read = Unchanged[_Place, _Found | None]()
        self._undigested: dict[Path, Stamp] = {}
        """Files that could not be read through, as they were then: they are tried again when they changed."""
        self._looking = asyncio.Lock()
        self._refused: set[str] = set()

    def files(self) -> list[ModelFile]:
        """The models of the last look, by name. Digests that are not known yet are empty."""
        return [self._found[name].file for name in sorted(self._found)]

    def path_of(self, name: ModelName) -> Path:
        """Where the model's file lies. Raises ModelNotFound with the closest names, and ModelDamaged."""
        return self._one(name).path

    async def checked(self, name: ModelName, report: Report) -> Path:
        """Where the model's file lies, once it is known to be fit for an engine: see `Integrity.check`.

        Raises ModelNotFound and ModelDamaged (it is left out from then on), and LoadFailed.
        """
        found = self._one(name)
        await asyncio.to_thread(_check_place, found)
        if not await asyncio.to_thread(found.path.exists):
            self._found = {known: one for known, one in self._found.items() if one is not found}
            log.warning("model file %s is gone", found.path)
            raise ModelNotFound(f"The file of model {name} was deleted from this PC: {found.path}", param="model")
        try:
            await self._integrity.check(found.path, expected=found.expected, report=report)
        except ModelDamaged as error:
            self._leave_out(found, error)
            raise
        anew = await asyncio.to_thread(self._anew, found)
        if anew is not found and self._found.get(found.file.name) is found:
            log.info("model file %s was replaced", found.path)
            self._found[found.file.name] = anew
        return found.path

    def path_of_digest(self, sha256: str) -> tuple[Path, int] | None:
        """Where a file with this SHA-256 lies, and its size; None when there is none or its digest is not known yet."""
        for found in self._found.values():
            if found.file.digest == sha256:
                return found.path, found.file.file_bytes
        return None

    def _one(self, name: ModelName) -> _Found:
        model = catalogue.normalised(name)
        if model in self._damaged:
            raise ModelDamaged(self._damaged[model])
        found = self._found.get(model)
        if found is None:
            close = catalogue.closest(name, self._found)
            hint = f" Closest: {', '.join(close)}." if close else ""
            raise ModelNotFound(f"No model file {name} on this PC.{hint}", param="model")
        return found

    def _leave_out(self, found: _Found, error: ModelDamaged) -> None:
        self._damaged[found.file.name] = error.message
        if self._found.get(found.file.name) is found:
            del self._found[found.file.name]

    async def refresh(self) -> None:
        """Look at all folders again. Reads headers only, and of new or changed files; damaged files are logged once and
        left out."""
        async with self._looking:  # else the result of an older look could come last
            self._found, self._damaged = await asyncio.to_thread(self._look)
        there = {found.path for found in self._found.values()}
        self._undigested = {path: stamp for path, stamp in self._undigested.items() if path in there}

    async def digest(self) -> None:
        """Fill in the SHA-256 of each file, as it is remembered or by reading it; may take minutes."""
        for name, found in list(self._found.items()):
            if found.file.digest or self._undigested.get(found.path) == stamp_of(found.status):
                continue
            try:
                value = await self._integrity.digest(found.path, expected=found.expected)
            except ModelDamaged as error:
                self._leave_out(found, error)
                continue
            except LoadFailed as error:
                log.warning("no digest for %s: %s", found.path, error.message)
                self._undigested[found.path] = stamp_of(found.status)
                continue
            now = self._found.get(name)
            if now is not None and now.path == found.path and now.is_as_found(found.status):
                self._found[name] = replace(now, file=replace(now.file, digest=value))

    def _look(self) -> tuple[dict[ModelName, _Found], dict[ModelName, str]]:
        """What is there, and what is damaged."""
        found: dict[ModelName, _Found] = {}
        damaged: dict[ModelName, str] = {}
        places = list(self._places())
        self._read.forget_all_but(places)
        for place in places:
            path, name = place.path, place.name
            try:
                one = self._examined(place)
            except (LoadFailed, OSError) as error:
                self._log_once(path, str(error))
                continue
            if one is None:
                continue
            if name in found:
                self._log_once(path, f"left out: {found[name].path} has the name {name} too")
                continue
            damage = self._integrity.damage_of(path, one.status)
            if damage:
                self._log_once(path, damage)
                damaged.setdefault(name, f"The model {damage}: {path}")
                continue
            one = self._with_digest(one)
            found[name] = replace(one, file=replace(one.file, fetched=place.fetched))
        return found, {name: damage for name, damage in damaged.items() if name not in found}

    def _examined(self, place: _Place) -> _Found | None:
        """As `_examined`, which is not asked again about a file that stayed as it was."""
        return self._read.found(
            place,
            stamp_of(place.path.stat()),
            lambda: _examined(place.path, place.name, place.folder, place.sha256),
        )

    def _places(self) -> Iterator[_Place]:
        """Where model files lie, those that win over others of their name first."""
        entries = {entry.file: entry for entry in catalogue.bundled()}
        bundled = bundled_folder()
        for folder in ((bundled,) if bundled is not None else ()) + self._models_dirs:
            for path in _gguf_files(folder):
                entry = entries.get(path.name) if folder == bundled else None
                name = _name_of(path) if entry is None else entry.name
                yield _Place(path=path, name=name, folder=folder, sha256="" if entry is None else entry.sha256)
        for store in self._stores:
            for one in store.entries():
                yield _Place(path=one.path, name=one.name, folder=store.folder, sha256=one.sha256, fetched=one.fetched)

    def _with_digest(self, one: _Found) -> _Found:
        digest = self._integrity.digest_of(one.path, one.status)
        return replace(one, file=replace(one.file, digest=digest))

    def _anew(self, found: _Found) -> _Found:
        """`found` itself, or what its file became since. Raises LoadFailed."""
        try:
            if found.is_as_found(found.path.stat()):
                return found
            one = _examined(found.path, found.file.name, found.folder, found.expected)
        except OSError as error:
            raise LoadFailed(f"The model file {found.path} cannot be read: {error.strerror or error}") from error
        if one is None:
            raise LoadFailed(f"The model file {found.path} was replaced by one that is no language model")
        one = self._with_digest(one)
        return replace(one, file=replace(one.file, fetched=found.file.fetched))

    def _log_once(self, path: Path, reason: str) -> None:
        line = f"{path}: {reason}"
        if line not in self._refused:
            self._refused.add(line)
            log.warning("model file %s", line)


def _gguf_files(folder: Path) -> Iterator[Path]:
    """GGUF files in and below `folder`, sorted, without following links; what a link points to may lie anywhere."""
    count = 0
    root = folder.absolute()
    for place, folders, names in os.walk(root, followlinks=False):
        here = Path(place)
        depth = len(here.relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEEPEST else []
        for name in sorted(names):
            path = here / name
            if not name.lower().endswith(_SUFFIX) or name.startswith("."):
                continue
            if leads_out(path, root) or not os.path.isfile(path):  # noqa: PTH113 - is_file() raises for a broken mount
                continue
            count += 1
            if count > _MOST_FILES:
                log.warning("models folder %s has more than %d files; the rest is left out", folder, _MOST_FILES)
                return
            yield path


def _check_place(found: _Found) -> None:
    """Raises LoadFailed when the file became a link that leads out of its folder."""
    if leads_out(found.path, found.folder):
        raise LoadFailed(f"The model file {found.path} leads out of the models folder {found.folder}; copy it there")


def _examined(path: Path, name: ModelName, folder: Path, expected: str) -> _Found | None:
    """The model in `path`, or None for a file that is sound but no language model. Raises LoadFailed, OSError."""
    status = path.stat()
    header = read_header(path)
    split = header.metadata.get("split.count", 1)
    if type(split) is int and split > 1:
        raise LoadFailed(f"is one part of {split}; join them with `llama-gguf-split --merge`")
    if header.metadata.get("general.architecture") in _NOT_LANGUAGE_MODELS:
        return None
    if header.metadata.get("general.type", "model") != "model":
        return None
    shape = shape_of(header)
    told = traits(template_of_header(header), name=name, architecture=shape.architecture)
    return _Found(
        file=ModelFile(
            name=name,
            file_bytes=header.file_bytes,
            engine=EngineKind.LLAMA_SERVER,
            shape=shape,
            embedding=is_embedding(header),
            thinking=told.thinking,
            thinking_optional=told.thinking_optional,
            tools=told.tools,
        ),
        path=path,
        folder=folder,
        expected=expected,
        status=status,
    )


def _name_of(path: Path) -> ModelName:
    return catalogue.normalised(re.sub(r"[^a-z0-9._:-]+", "-", path.stem.lower()).strip("-") or "model")
