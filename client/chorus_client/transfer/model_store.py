"""The folder of the models that came over the network, files and folders, and under which names they are known.

File names are made here, from a cleaned model name and the digest: nothing that a remote said becomes a path. The
index beside them holds what a file cannot say of itself; without it the files are still found, under their own names.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chorus_client.gguf import read_header
from chorus_client.transfer.part_file import FreeBytes, PartFile, disk_error
from chorus_proto.errors import InsufficientStorage, LoadFailed
from chorus_proto.files import write_atomically
from chorus_proto.ids import ModelName
from chorus_proto.model_source import file_stem

log = logging.getLogger(__name__)

INDEX_FILE = "models.json"
SPARE_BYTES = 1 << 30
PARTS_KEPT_S = 14 * 24 * 3600.0

_SAFE_FILE = re.compile(r"[a-z0-9][a-z0-9._-]*\.gguf")
_SAFE_FOLDER = re.compile(r"[a-z0-9][a-z0-9._-]*-[0-9a-f]{12}")
_PART = ".part"


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    sha256: str
    source: str = ""


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    models: dict[str, _Entry] = {}
    folders: dict[str, _Entry] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A model whose name and SHA-256, of a folder its archive's, are known from elsewhere than where it lies."""

    name: ModelName
    path: Path
    sha256: str
    fetched: bool = False
    """By this PC's agent, so that it may delete it."""


def free_bytes(folder: Path) -> int:
    """On the disk that holds the folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


class ModelStore:
    """One folder. `spare_bytes`: free space that a download leaves on its disk."""

    def __init__(self, folder: Path, *, spare_bytes: int = SPARE_BYTES, free: FreeBytes = free_bytes) -> None:
        self.folder = folder
        self._spare_bytes = spare_bytes
        self._free = free

    def entries(self) -> list[NamedFile]:
        """The files of the index that are there, by model name."""
        index = self._index()
        return [
            NamedFile(name=ModelName(name), path=self.folder / entry.file, sha256=entry.sha256, fetched=True)
            for name, entry in sorted(index.models.items())
            if _SAFE_FILE.fullmatch(entry.file) and (self.folder / entry.file).is_file()
        ]

    def folders(self) -> list[NamedFile]:
        """The model folders of the index that are there, by model name."""
        index = self._index()
        return [
            NamedFile(name=ModelName(name), path=self.folder / entry.file, sha256=entry.sha256, fetched=True)
            for name, entry in sorted(index.folders.items())
            if _SAFE_FOLDER.fullmatch(entry.file) and (self.folder / entry.file).is_dir()
        ]

    def part(self, key: str) -> PartFile:
        """The part of the file with this digest, or, while that is unknown, from this address."""
        named = hashlib.sha256(key.encode()).hexdigest()[:32]
        return PartFile(self.folder / f".{named}{_PART}")

    def require_room(self, need_bytes: int) -> None:
        """Raises InsufficientStorage with need and free, and what is to stay free."""
        try:
            free = self._free(self.folder)
        except OSError as error:
            raise disk_error(error, self.folder) from error
        if need_bytes + self._spare_bytes > free:
            raise InsufficientStorage(
                f"the model needs {need_bytes / 1e9:.2f} GB and {self._spare_bytes / 1e9:.2f} GB must stay free, but "
                f"{free / 1e9:.2f} GB are free in {self.folder}"
            )

    def take(self, part: PartFile, name: ModelName, sha256: str, source: str) -> Path:
        """Make a finished part a model of this PC. Raises LoadFailed (it is none), InsufficientStorage, TransferFailed.

        The file is looked at before it gets its name, and has it before the index tells of it.
        """
        check_model(part.path)
        path = self.folder / f"{file_stem(name)}-{sha256[:12]}.gguf"
        try:
            part.path.replace(path)
            part.forget_note()
            self._write({name: _Entry(file=path.name, sha256=sha256, source=source)}, {})
        except OSError as error:
            raise disk_error(error, self.folder) from error
        return path

    @contextmanager
    def unpacking(self, part: PartFile) -> Generator[Path]:
        """Where a part may be unpacked to; what lies there at the end is deleted. Raises TransferFailed."""
        path = part.path.with_name(f"{part.path.name}.unpacked")
        try:
            if path.exists():
                shutil.rmtree(path)
        except OSError as error:
            raise disk_error(error, self.folder) from error
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def take_folder(self, unpacked: Path, part: PartFile, name: ModelName, sha256: str, source: str) -> Path:
        """Make a folder that was unpacked and checked a model of this PC. Raises InsufficientStorage, TransferFailed.

        It has its name before the index tells of it, and its part goes last.
        """
        path = self.folder / f"{file_stem(name)}-{sha256[:12]}"
        try:
            if path.exists():
                self._discard(path)
            unpacked.rename(path)
            self._write({}, {name: _Entry(file=path.name, sha256=sha256, source=source)})
        except OSError as error:
            raise disk_error(error, self.folder) from error
        part.delete()
        return path

    def remove(self, name: ModelName) -> bool:
        """Delete the file or folder of this model; False when none of that name came over the network. Raises OSError.

        It goes first: what is in the index without a file is nobody's model, but not the other way round.
        """
        paths = [one.path for one in (*self.entries(), *self.folders()) if one.name == name]
        for path in paths:
            if path.is_dir():
                self._discard(path)
            else:
                path.unlink(missing_ok=True)
        if paths:
            self._write({}, {})
        return bool(paths)

    def _discard(self, folder: Path) -> None:
        """Delete it, out of sight first: half a folder is nobody's model. Raises OSError for one that is in use."""
        hidden = self.folder / f".{folder.name}.{secrets.token_hex(4)}{_PART}"
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)  # what stays of it is swept as old parts are

    def _write(self, models: dict[str, _Entry], folders: dict[str, _Entry]) -> None:
        """The index with these, without those that are gone. Raises OSError."""
        index, files, kept = self._index(), {one.name for one in self.entries()}, {one.name for one in self.folders()}
        written = _Index(
            models={name: one for name, one in index.models.items() if name in files} | models,
            folders={name: one for name, one in index.folders.items() if name in kept} | folders,
        )
        write_atomically(self.folder / INDEX_FILE, msgspec.json.encode(written))

    def _index(self) -> _Index:
        path = self.folder / INDEX_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Index)
        except FileNotFoundError:
            return _Index()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be used, models keep their files' names: %s", path, error)
            return _Index()

    def sweep_parts(self, *, now_s: float | None = None) -> None:
        """Delete parts that nobody has gone on with for two weeks."""
        now_s = time.time() if now_s is None else now_s
        for path in self.folder.glob(f".*{_PART}*"):
            with contextlib.suppress(OSError):
                if now_s - path.stat().st_mtime > PARTS_KEPT_S:
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()


def check_model(path: Path) -> None:
    """Raises LoadFailed for a file that no engine could load, whatever its name."""
    header = read_header(path)
    split = header.metadata.get("split.count", 1)
    if type(split) is int and split > 1:
        raise LoadFailed(f"it is one part of {split}; join them with `llama-gguf-split --merge`")
