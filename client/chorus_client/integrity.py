"""Model files are looked at again before an engine gets them: the header each time, the SHA-256 now and then.

A file whose size and time of change are what they were must have the digest that it had; one that has another is
damaged (a flipped bit, a bad disk) and is refused until it changes. A file that changed is a new file, unless its
digest is known from elsewhere, as the bundled ones' is from the catalogue.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from chorus_client import gguf, safetensors
from chorus_client.engines.base import LoadProgress, Report
from chorus_client.file_paths import text_of
from chorus_proto.clock import Clock, SystemClock
from chorus_proto.errors import LoadFailed, ModelDamaged
from chorus_proto.files import write_atomically

log = logging.getLogger(__name__)

FILE_NAME = "digests.json"
VERIFY_EVERY_S = 168 * 3600.0

_READ_BYTES = 1 << 20
_STEP_BYTES = 32 << 20
"""Read in one visit to a thread: a cancelled check ends after it."""
_MOST_FILES = 4096
_SHOWN_DIGITS = 12

_HEADERS: dict[str, Callable[[Path], object]] = {
    ".gguf": gguf.read_header,
    ".safetensors": safetensors.read_header,
}
"""What is loaded at all: formats of numbers only. Pickled ones (.bin, .pt, .pkl) run code when they are read."""


_BLOB = re.compile(r"sha256-[0-9a-f]{64}")


class _Known(msgspec.Struct, kw_only=True, frozen=True):
    """A file as it was when its digest was computed. `damaged`: the other digest that was found last."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    sha256: str
    verified_unix_s: float
    damaged: str = ""

    def is_of(self, status: os.stat_result) -> bool:
        return (self.size_bytes, self.modified_ns) == (status.st_size, status.st_mtime_ns)

    def is_untouched(self, status: os.stat_result) -> bool:
        """Also not by somebody who set the time of change back. On Windows st_ctime is the time of creation."""
        return self.is_of(status) and self.changed_ns == status.st_ctime_ns


class _File(msgspec.Struct, frozen=True):
    files: dict[str, _Known]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hashed:
    sha256: str
    status: os.stat_result


def _unheard(_progress: LoadProgress) -> None:
    pass


class Integrity:
    """What is known of the model files of this PC; `state_dir` keeps it. Used on one event loop.

    `verify_every_s`: a digest older than this is computed again before a load; 0 for each load.
    """

    def __init__(self, state_dir: Path, *, clock: Clock | None = None, verify_every_s: float = VERIFY_EVERY_S) -> None:
        self._path = state_dir / FILE_NAME
        self._clock = clock or SystemClock()
        self._verify_every_s = verify_every_s
        self._known = _kept(self._path)
        self._writing = asyncio.Lock()

    def digest_of(self, path: Path, status: os.stat_result) -> str:
        """The SHA-256 of the file that `status` describes; empty while it is unknown or was wrong."""
        known = self._known_of(path, status)
        return known.sha256 if known is not None and not known.damaged else ""

    def damage_of(self, path: Path, status: os.stat_result) -> str:
        """Why the file is refused until it changes; empty when nothing is known against it."""
        known = self._known_of(path, status)
        if known is None or not known.damaged or not known.is_untouched(status):
            return ""
        return _damage(known.damaged, known.sha256)

    def _known_of(self, path: Path, status: os.stat_result) -> _Known | None:
        """None for a file that is not the one that was known under this path."""
        known = self._known.get(text_of(path))
        return known if known is not None and known.is_of(status) else None

    async def check(self, path: Path, *, expected: str = "", report: Report = _unheard) -> None:
        """Refuse a file that must not reach an engine. `expected`: its SHA-256 where it is known from elsewhere.

        A file of unknown digest is not read through here, there is nothing to compare with: `digest` does it beside
        the work. Raises ModelDamaged, and LoadFailed for a file that cannot be read or is no model file.
        """
        await check_header(path)
        status = await asyncio.to_thread(_status, path)
        known = self._known_of(path, status)
        if known is None and not expected:
            return
        right = expected or (known.sha256 if known is not None else "")
        if known is None or known.sha256 != right or not self._is_fresh(known, status):
            await self._verify(path, right, report)
        elif known.damaged:
            raise ModelDamaged(f"The model {_damage(known.damaged, known.sha256)}: {path}")

    async def digest(self, path: Path, *, expected: str = "") -> str:
        """The SHA-256, read through the file when it is unknown, which may take minutes.

        Raises ModelDamaged and LoadFailed as `check` does.
        """
        status = await asyncio.to_thread(_status, path)
        known = self._known_of(path, status)
        right = expected or (known.sha256 if known is not None else "")
        if known is None or known.sha256 != right or (known.damaged and not known.is_untouched(status)):
            return await self._verify(path, right, _unheard)
        if known.damaged:
            raise ModelDamaged(f"The model {_damage(known.damaged, known.sha256)}: {path}")
        return known.sha256

    async def witnessed(self, path: Path, sha256: str) -> None:
        """The file has this digest: it was computed while the file was written. Raises LoadFailed."""
        status = await asyncio.to_thread(_status, path)
        await self._remember(
            path,
            _Known(
                size_bytes=status.st_size,
                modified_ns=status.st_mtime_ns,
                changed_ns=status.st_ctime_ns,
                sha256=sha256,
                verified_unix_s=self._clock.unix_s(),
            ),
        )

    def _is_fresh(self, known: _Known, status: os.stat_result) -> bool:
        """Whether what is known may be believed without reading the file again."""
        if not known.is_untouched(status):
            return False
        age_s = self._clock.unix_s() - known.verified_unix_s
        # Below zero the clock was set back, and nobody knows how old it is.
        return bool(known.damaged) or 0 <= age_s < self._verify_every_s

    async def _verify(self, path: Path, right: str, report: Report) -> str:
        """Read the file through, compare with `right` where there is one, remember and return the digest."""
        hashed = await _sha256(path, report)
        good = not right or hashed.sha256 == right
        await self._remember(
            path,
            _Known(
                size_bytes=hashed.status.st_size,
                modified_ns=hashed.status.st_mtime_ns,
                changed_ns=hashed.status.st_ctime_ns,
                sha256=right or hashed.sha256,
                verified_unix_s=self._clock.unix_s(),
                damaged="" if good else hashed.sha256,
            ),
        )
        if not good:
            log.error("model %s: %s", _damage(hashed.sha256, right), path)
            raise ModelDamaged(f"The model {_damage(hashed.sha256, right)}: {path}")
        return hashed.sha256

    async def _remember(self, path: Path, known: _Known) -> None:
        # A new mapping each time: a look at the folders may be reading the old one in its thread.
        key = text_of(path)
        files = {name: one for name, one in self._known.items() if name != key} | {key: known}
        self._known = dict(list(files.items())[-_MOST_FILES:])
        async with self._writing:
            await asyncio.to_thread(_keep, self._path, self._known)


async def check_header(path: Path) -> None:
    """Refuse a file that was cut or changed since it was found. Raises ModelDamaged, and LoadFailed as `check` does."""
    # Ollama's store names its files by their digest; those that the inventory took are GGUF files.
    read = gguf.read_header if _BLOB.fullmatch(path.name) else _HEADERS.get(path.suffix.lower())
    if read is None:
        raise LoadFailed(f"The file {path.name} is not loaded: models are {' and '.join(_HEADERS)} files")
    try:
        await asyncio.to_thread(read, path)
    except LoadFailed as error:
        if isinstance(error.__cause__, OSError):  # it cannot be read, which says nothing about what is in it
            raise
        raise ModelDamaged(f"file damaged: {error.message}") from None


def _damage(found: str, right: str) -> str:
    return f"file damaged (sha256 {found[:_SHOWN_DIGITS]}... instead of {right[:_SHOWN_DIGITS]}...)"


def _status(path: Path) -> os.stat_result:
    """Raises LoadFailed."""
    try:
        return path.stat()
    except OSError as error:
        raise LoadFailed(f"The model file {path} cannot be read: {error.strerror or error}") from error


async def _sha256(path: Path, report: Report) -> _Hashed:
    """Read in steps, so that it can be told and given up. Raises LoadFailed, also when the file changes meanwhile."""
    detail = f"checking sha256 of {path.name}"
    report(LoadProgress(share=0.0, detail=detail))
    opening = _Opening(path)
    try:
        try:
            source = await asyncio.to_thread(opening.open)
            before = os.fstat(source.fileno())
            digest = hashlib.sha256()
            done_bytes = 0
            while step_bytes := await asyncio.to_thread(_step, source, digest.update):
                done_bytes += step_bytes
                if done_bytes > before.st_size:
                    break  # it grows, maybe for ever: a download on its way
                report(LoadProgress(share=min(1.0, done_bytes / max(1, before.st_size)), detail=detail))
            after = os.fstat(source.fileno())
        finally:
            opening.close()
    except OSError as error:
        raise LoadFailed(f"The model file {path} cannot be read: {error.strerror or error}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise LoadFailed(f"The model file {path} was written to while it was checked; try again when it is complete")
    return _Hashed(sha256=digest.hexdigest(), status=after)


class _Opening:
    """A file that a thread opens. Who gives up meanwhile closes it, whichever comes first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._over = False
        self._lock = threading.Lock()

    def open(self) -> BinaryIO:
        """May block as long as the disk likes. Raises OSError."""
        file = self._path.open("rb")
        with self._lock:
            self._file = file
            if self._over:
                file.close()
        return file

    def close(self) -> None:
        with self._lock:
            self._over = True
            if self._file is not None:
                self._file.close()


def _step(source: BinaryIO, take: Callable[[bytes], None]) -> int:
    """Bytes read; 0 at the end."""
    done_bytes = 0
    while done_bytes < _STEP_BYTES and (piece := source.read(_READ_BYTES)):
        take(piece)
        done_bytes += len(piece)
    return done_bytes


def _kept(path: Path) -> dict[str, _Known]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).files
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        log.warning("digests in %s cannot be used and are computed anew: %s", path, error)
        return {}


def _keep(path: Path, known: dict[str, _Known]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(_File(files=known)))
    except (OSError, ValueError) as error:  # ValueError: text in it that is not UTF-8
        log.warning("digests cannot be kept in %s: %s", path, error)
