"""The Hugging Face model folders on this PC, in the folders that the owner named, and those that came from other nodes.

A model's identity is the SHA-256 of what `sha256sum *.safetensors` prints for its weights, by name: equal weights are
one model, whatever else lies beside them. What a copy for another node is known by is the SHA-256 of its archive.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec

from chorus_client import safetensors
from chorus_client.chat_template import template_of_folder, traits
from chorus_client.config_shape import CONFIG_FILE
from chorus_client.file_paths import leads_out, text_of
from chorus_client.folder_archive import Digests, FolderArchive, archive_of, identity
from chorus_client.model_server.folder import ModelFolder, check_folder
from chorus_client.transfer.model_store import NamedFile
from chorus_client.unchanged import Unchanged, stamp_of_folder
from chorus_proto import catalogue
from chorus_proto.errors import LoadFailed, ModelDamaged, ModelNotFound
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
    archive: FolderArchive | None
    unsent: str
    """Why the folder is not sent to other nodes, when it has no archive."""
    archive_key: str
    """Changes when any file of the archive does."""

    def with_digests(self, known: Mapping[str, str]) -> _Found:
        """With what is known of it by these keys."""
        copy_digest = known.get(self.archive_key, "") if self.archive is not None else ""
        copy_bytes = self.archive.total_bytes if self.archive is not None and copy_digest else 0
        digest = known.get(self.key, "")
        return replace(self, file=replace(self.file, digest=digest, copy_digest=copy_digest, copy_bytes=copy_bytes))

    @property
    def is_known(self) -> bool:
        return bool(self.file.digest) and (bool(self.file.copy_digest) or self.archive is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A folder that may be a model. `root`: what its files must not lead out of."""

    path: Path
    name: ModelName
    root: Path
    fetched: bool = False


class FetchedFolders(Protocol):
    """The folders that came over the network; `transfer.model_store.ModelStore`."""

    @property
    def folder(self) -> Path: ...

    def folders(self) -> list[NamedFile]: ...


class HfFolders:
    """The models that the transformers engine can load here (`ModelFiles`).

    `refresh` looks; `files` and `path_of` answer from memory. A model has its folder's name, in the hub's cache its
    repository's: lower-cased, each run of characters other than letters, digits, `.`, `_`, `:` and `-` made one `-`.
    Of two folders with one name the first counts: folder by folder, then by path, then what is in the `store`.
    """

    def __init__(self, models_dirs: Sequence[Path], state_dir: Path, *, store: FetchedFolders | None = None) -> None:
        self._models_dirs = tuple(models_dirs)
        self._store = store
        self._digests_path = state_dir / "folder_digests.json"
        self._found: dict[ModelName, _Found] = {}
        self._read = Unchanged[_Place, _Found]()
        self._undigested: set[tuple[str, str]] = set()
        """Folders that could not be read through, as they were then: they are tried again when they changed."""
        self._looking = asyncio.Lock()
        self._refused: set[str] = set()
        self._remembering = threading.Lock()

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
        """Look at all folders again. Reads headers only, and of new or changed folders; what cannot be used is logged
        once and left out."""
        async with self._looking:  # else the result of an older look could come last
            self._found = await asyncio.to_thread(self._look)
        self._undigested &= {(found.key, found.archive_key) for found in self._found.values()}

    async def digest(self) -> None:
        """Fill in the digests, from the cache or by reading the folders in a thread; may take minutes."""
        for name, found in list(self._found.items()):
            as_it_was = (found.key, found.archive_key)
            if found.is_known or as_it_was in self._undigested:
                continue
            try:
                known = await asyncio.to_thread(self._remembered, found)
            except (OSError, ModelDamaged) as error:
                log.warning("no digest for %s: %s", found.folder.path, error)
                self._undigested.add(as_it_was)
                continue
            if self._found.get(name) == found:
                self._found[name] = found.with_digests(known)

    def archive_of_digest(self, sha256: str) -> FolderArchive | None:
        """The archive with this SHA-256 of a folder of the last look."""
        return next((one.archive for one in self._found.values() if one.file.copy_digest == sha256 != ""), None)

    async def witnessed(self, path: Path, digests: Digests) -> None:
        """Remember the digests of a folder whose files this agent has just written, so that it is not read again."""
        try:
            one = await asyncio.to_thread(_examined, _Place(path=path, name=_name_of(path), root=path.parent))
        except (LoadFailed, OSError) as error:
            log.warning("model folder %s: %s", path, error)
            return
        await asyncio.to_thread(self._remember, {one.key: digests.weights, one.archive_key: digests.archive})

    def _remembered(self, found: _Found) -> dict[str, str]:
        """What is known of it by its keys, read if need be. Raises OSError and ModelDamaged."""
        known = _kept(self._digests_path)
        if found.with_digests(known).is_known:
            return known
        if found.archive is None:
            return self._remember({found.key: digest_of(found.folder.weights)})
        digests = found.archive.digests()
        return self._remember({found.key: digests.weights, found.archive_key: digests.archive})

    def _remember(self, digests: Mapping[str, str]) -> dict[str, str]:
        """All that is known, these among it."""
        with self._remembering:
            known = _kept(self._digests_path) | dict(digests)
            _keep(self._digests_path, known)
        return known

    def _look(self) -> dict[ModelName, _Found]:
        found: dict[ModelName, _Found] = {}
        known = _kept(self._digests_path)
        places = list(self._places())
        self._read.forget_all_but(places)
        for place in places:
            path, name = place.path, place.name
            try:
                one = self._examined(place)
            except (LoadFailed, OSError) as error:
                self._log_once(path, str(error))
                continue
            if name in found:
                self._log_once(path, f"left out: {found[name].folder.path} has the name {name} too")
                continue
            if one.unsent:
                self._log_once(path, f"is not sent to other nodes: {one.unsent}")
            found[name] = one.with_digests(known)
        return found

    def _examined(self, place: _Place) -> _Found:
        """As `_examined`, which is not asked again about a folder that stayed as it was."""
        return self._read.found(place, stamp_of_folder(place.path), lambda: _examined(place))

    def _places(self) -> Iterator[_Place]:
        """Where models lie, those that win over others of their name first."""
        for root in self._models_dirs:
            for path in _model_folders(root):
                yield _Place(path=path, name=_name_of(path), root=root)
        if self._store is not None:
            for one in self._store.folders():
                name = catalogue.normalised(one.name)
                yield _Place(path=one.path, name=name, root=self._store.folder, fetched=one.fetched)

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


def _examined(place: _Place) -> _Found:
    """The model there. Raises LoadFailed, OSError."""
    path, name, root = place.path, place.name, place.root
    folder = check_folder(path)
    if folder.shape is None:
        raise LoadFailed(f"left out: how much memory a {folder.model_type[:40]!r} model takes is not known here")
    stamps: list[str] = []
    for weights in folder.weights:
        if leads_out(weights, root):
            raise LoadFailed(f"{weights.name} is a link that leads out of {root}")
        status = weights.stat()
        stamps.append(f"{weights.name}|{status.st_size}|{status.st_mtime_ns}")
    archive, unsent = None, ""
    try:
        archive = archive_of(folder, root)
    except LoadFailed as error:
        unsent = error.message
    told = traits(template_of_folder(path), name=name, architecture=folder.model_type)
    return _Found(
        file=ModelFile(
            name=name,
            file_bytes=folder.file_bytes,
            engine=EngineKind.TRANSFORMERS,
            shape=folder.shape,
            thinking=told.thinking,
            thinking_optional=told.thinking_optional,
            fetched=place.fetched,
        ),
        folder=folder,
        key="|".join([text_of(path), *stamps]),
        archive=archive,
        unsent=unsent,
        archive_key="" if archive is None else _archive_key(path, archive),
    )


def _archive_key(path: Path, archive: FolderArchive) -> str:
    stamps = [f"{one.name}|{one.size_bytes}|{one.mtime_ns}" for one in archive.members]
    return "|".join(["archive", text_of(path), *stamps])


def _name_of(path: Path) -> ModelName:
    hub = next((found for part in reversed(path.parts) if (found := _HUB_FOLDER.fullmatch(part))), None)
    name = hub["name"] if hub else path.name
    return catalogue.normalised(re.sub(r"[^a-z0-9._:-]+", "-", name.lower()).strip("-") or "model")


def digest_of(weights: Sequence[Path]) -> str:
    """The identity of a model with these files. Reads them all. Raises OSError."""
    digests: dict[str, str] = {}
    for path in weights:
        digest = hashlib.sha256()
        with path.open("rb") as source:
            while piece := source.read(_READ_BYTES):
                digest.update(piece)
        digests[path.name] = digest.hexdigest()
    return identity(digests)


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
    except (OSError, ValueError) as error:  # ValueError: text in it that is not UTF-8
        log.warning("digests cannot be kept in %s: %s", path, error)
