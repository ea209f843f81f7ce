"""The GGUF files on this PC: the bundled ones and those in the folders that the owner named."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from chorus_client.gguf import read_header
from chorus_client.model_shape import is_embedding, shape_of
from chorus_proto import catalogue
from chorus_proto.errors import LoadFailed, ModelNotFound
from chorus_proto.files import write_atomically
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

log = logging.getLogger(__name__)

_SUFFIX = ".gguf"
_DEEPEST = 4
"""Folders below a models folder that are searched; publisher/model/file is what download tools make."""
_MOST_FILES = 2000
_READ_BYTES = 1 << 20
_NOT_LANGUAGE_MODELS = frozenset({"clip", "diffusion", "wavtokenizer-dec"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    file: ModelFile
    path: Path
    modified_ns: int

    @property
    def key(self) -> str:
        """Changes when the file does."""
        return f"{self.path}|{self.file.file_bytes}|{self.modified_ns}"


def bundled_folder() -> Path | None:
    """Where the bundled models lie; None in an installation without them."""
    folder = Path(str(importlib.resources.files("chorus_client").joinpath("models")))
    return folder if folder.is_dir() else None


class Inventory:
    """The models that the llama.cpp engine can load here. `refresh` looks; `files` and `path_of` answer from memory.

    A bundled file has its catalogue name. Any other has its file name without the suffix, lower-cased, each run of
    characters other than letters, digits, `.`, `_`, `:` and `-` made one `-`: names inside files are written by others
    and repeat. Of two files with one name the first counts: bundled, then folder by folder, then by path.
    """

    def __init__(self, models_dirs: Sequence[Path], state_dir: Path) -> None:
        self._models_dirs = tuple(models_dirs)
        self._digests_path = state_dir / "digests.json"
        self._found: dict[ModelName, _Found] = {}
        self._refused: set[str] = set()

    def files(self) -> list[ModelFile]:
        """The models of the last look, by name. Digests that are not known yet are empty."""
        return [self._found[name].file for name in sorted(self._found)]

    def path_of(self, name: ModelName) -> Path:
        """Where the model's file lies. Raises ModelNotFound with the closest names."""
        found = self._found.get(catalogue.normalised(name))
        if found is None:
            close = catalogue.closest(name, self._found)
            hint = f" Closest: {', '.join(close)}." if close else ""
            raise ModelNotFound(f"No model file {name} on this PC.{hint}", param="model")
        return found.path

    async def refresh(self) -> None:
        """Look at all folders again. Reads headers only; damaged files are logged once and left out."""
        self._found = await asyncio.to_thread(self._look)

    async def digest(self) -> None:
        """Fill in the SHA-256 of each file, from the cache or by reading it in a thread; may take minutes."""
        known = await asyncio.to_thread(_kept_digests, self._digests_path)
        for name, found in list(self._found.items()):
            if found.file.digest:
                continue
            value = known.get(found.key)
            if value is None:
                try:
                    value = await asyncio.to_thread(_sha256, found.path)
                except OSError as error:
                    log.warning("no digest for %s: %s", found.path, error)
                    continue
                known[found.key] = value
                await asyncio.to_thread(_keep_digests, self._digests_path, known)
            if self._found.get(name) == found:
                self._found[name] = replace(found, file=replace(found.file, digest=value))

    def _look(self) -> dict[ModelName, _Found]:
        found: dict[ModelName, _Found] = {}
        digests = _kept_digests(self._digests_path)
        bundled_names = {entry.file: entry.name for entry in catalogue.bundled()}
        bundled = bundled_folder()
        for folder in ((bundled,) if bundled is not None else ()) + self._models_dirs:
            for path in _gguf_files(folder):
                name = bundled_names.get(path.name) if folder == bundled else None
                try:
                    one = _examined(path, name or _name_of(path))
                except (LoadFailed, OSError) as error:
                    self._log_once(path, str(error))
                    continue
                if one is None:
                    continue
                if one.file.name in found:
                    self._log_once(path, f"left out: {found[one.file.name].path} has the name {one.file.name} too")
                    continue
                found[one.file.name] = replace(one, file=replace(one.file, digest=digests.get(one.key, "")))
        return found

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
            if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
                continue
            count += 1
            if count > _MOST_FILES:
                log.warning("models folder %s has more than %d files; the rest is left out", folder, _MOST_FILES)
                return
            yield path


def _examined(path: Path, name: ModelName) -> _Found | None:
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
    return _Found(
        file=ModelFile(
            name=name,
            file_bytes=header.file_bytes,
            engine=EngineKind.LLAMA_SERVER,
            shape=shape_of(header),
            embedding=is_embedding(header),
        ),
        path=path,
        modified_ns=status.st_mtime_ns,
    )


def _name_of(path: Path) -> ModelName:
    return catalogue.normalised(re.sub(r"[^a-z0-9._:-]+", "-", path.stem.lower()).strip("-") or "model")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while piece := source.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _kept_digests(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        log.warning("digests in %s cannot be used and are computed anew: %s", path, error)
        return {}


def _keep_digests(path: Path, digests: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(digests))
    except OSError as error:
        log.warning("digests cannot be kept in %s: %s", path, error)
