"""The Hugging Face model folders on this PC, in the folders that the owner named.

A model's identity is the SHA-256 of what `sha256sum *.safetensors` prints for its weights, by name: equal weights are
one model, whatever else lies beside them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from chorus_client import safetensors
from chorus_client.chat_template import template_of_folder, traits
from chorus_client.config_shape import CONFIG_FILE
from chorus_client.model_server.folder import ModelFolder, check_folder
from chorus_proto import catalogue
from chorus_proto.errors import LoadFailed, ModelNotFound
from chorus_proto.files import write_atomically
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

log = logging.getLogger(__name__)

_DEEPEST = 5
"""Folders below a models folder that are searched; hub/models--org--name/snapshots/revision is the hub's own cache."""
_MOST_FOLDERS = 2000
_READ_BYTES = 1 << 20
_HUB_FOLDER = re.compile(r"models--.+?--(?P<name>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    file: ModelFile
    folder: ModelFolder
    key: str
    """Changes when a weights file does."""


class HfFolders:
    """The models that the transformers engine can load here (`ModelFiles`).

    `refresh` looks; `files` and `path_of` answer from memory. A model has its folder's name, in the hub's cache its
    repository's: lower-cased, each run of characters other than letters, digits, `.`, `_`, `:` and `-` made one `-`.
    Of two folders with one name the first counts: folder by folder, then by path.
    """

    def __init__(self, models_dirs: Sequence[Path], state_dir: Path) -> None:
        self._models_dirs = tuple(models_dirs)
        self._digests_path = state_dir / "folder_digests.json"
        self._found: dict[ModelName, _Found] = {}
        self._refused: set[str] = set()

    def files(self) -> list[ModelFile]:
        """The models of the last look, by name. Digests that are not known yet are empty."""
        return [self._found[name].file for name in sorted(self._found)]

    def path_of(self, name: ModelName) -> Path:
        """The model's folder. Raises ModelNotFound with the closest names."""
        found = self._found.get(catalogue.normalised(name))
        if found is None:
            close = catalogue.closest(name, self._found)
            hint = f" Closest: {', '.join(close)}." if close else ""
            raise ModelNotFound(f"No model folder {name} on this PC.{hint}", param="model")
        return found.folder.path

    async def refresh(self) -> None:
        """Look at all folders again. Reads headers only; what cannot be used is logged once and left out."""
        self._found = await asyncio.to_thread(self._look)

    async def digest(self) -> None:
        """Fill in the identities, from the cache or by reading the weights in a thread; may take minutes."""
        known = await asyncio.to_thread(_kept, self._digests_path)
        for name, found in list(self._found.items()):
            if found.file.digest:
                continue
            value = known.get(found.key)
            if value is None:
                try:
                    value = await asyncio.to_thread(digest_of, found.folder.weights)
                except OSError as error:
                    log.warning("no digest for %s: %s", found.folder.path, error)
                    continue
                known[found.key] = value
                await asyncio.to_thread(_keep, self._digests_path, known)
            if self._found.get(name) == found:
                self._found[name] = replace(found, file=replace(found.file, digest=value))

    def _look(self) -> dict[ModelName, _Found]:
        found: dict[ModelName, _Found] = {}
        digests = _kept(self._digests_path)
        for root in self._models_dirs:
            for path in _model_folders(root):
                name = _name_of(path)
                try:
                    one = _examined(path, name, root)
                except (LoadFailed, OSError) as error:
                    self._log_once(path, str(error))
                    continue
                if name in found:
                    self._log_once(path, f"left out: {found[name].folder.path} has the name {name} too")
                    continue
                found[name] = replace(one, file=replace(one.file, digest=digests.get(one.key, "")))
        return found

    def _log_once(self, path: Path, reason: str) -> None:
        line = f"{path}: {reason}"
        if line not in self._refused:
            self._refused.add(line)
            log.warning("model folder %s", line)


def _model_folders(root: Path) -> Iterator[Path]:
    """Folders in and below `root` that hold a configuration and safetensors, sorted, without following links."""
    count = 0
    start = root.absolute()
    for place, folders, names in os.walk(start, followlinks=False):
        here = Path(place)
        depth = len(here.relative_to(start).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEEPEST else []
        if CONFIG_FILE in names and (safetensors.SINGLE_FILE in names or safetensors.INDEX_FILE in names):
            folders[:] = []
            count += 1
            if count > _MOST_FOLDERS:
                log.warning("models folder %s has more than %d models; the rest is left out", root, _MOST_FOLDERS)
                return
            yield here


def _examined(path: Path, name: ModelName, root: Path) -> _Found:
    """The model in `path`. Raises LoadFailed, OSError."""
    folder = check_folder(path)
    if folder.shape is None:
        raise LoadFailed(f"left out: how much memory a {folder.model_type[:40]!r} model takes is not known here")
    stamps: list[str] = []
    for weights in folder.weights:
        if not weights.resolve().is_relative_to(root.resolve()):
            raise LoadFailed(f"{weights.name} is a link that leads out of {root}")
        status = weights.stat()
        stamps.append(f"{weights.name}|{status.st_size}|{status.st_mtime_ns}")
    told = traits(template_of_folder(path), name=name, architecture=folder.model_type)
    return _Found(
        file=ModelFile(
            name=name,
            file_bytes=folder.file_bytes,
            engine=EngineKind.TRANSFORMERS,
            shape=folder.shape,
            thinking=told.thinking,
            thinking_optional=told.thinking_optional,
        ),
        folder=folder,
        key="|".join([str(path), *stamps]),
    )


def _name_of(path: Path) -> ModelName:
    hub = next((found for part in reversed(path.parts) if (found := _HUB_FOLDER.fullmatch(part))), None)
    name = hub["name"] if hub else path.name
    return catalogue.normalised(re.sub(r"[^a-z0-9._:-]+", "-", name.lower()).strip("-") or "model")


def digest_of(weights: Sequence[Path]) -> str:
    """The identity of a model with these files. Reads them all. Raises OSError."""
    lines: list[str] = []
    for path in sorted(weights, key=lambda one: one.name):
        digest = hashlib.sha256()
        with path.open("rb") as source:
            while piece := source.read(_READ_BYTES):
                digest.update(piece)
        lines.append(f"{digest.hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _kept(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        log.warning("digests in %s cannot be used and are computed anew: %s", path, error)
        return {}


def _keep(path: Path, digests: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(digests))
    except OSError as error:
        log.warning("digests cannot be kept in %s: %s", path, error)
