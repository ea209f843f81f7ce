"""A model file while it comes: hidden, hashed as it grows, and good for going on after a break or a restart."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
from filelock import FileLock, Timeout

from chorus_proto.errors import InsufficientStorage, TransferFailed
from chorus_proto.files import write_atomically

FreeBytes = Callable[[Path], int]
"""Bytes that are free on the disk of a folder. Raises OSError."""

T = TypeVar("T")

SYNC_EVERY_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_STEP_BYTES = 32 << 20
# EFBIG is what a process limit or a FAT32 disk says.
_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


class PartNote(msgspec.Struct, frozen=True, kw_only=True):
    """Beside the part: what it is a part of. `validator`: the server's ETag or time of change.

    `synced_bytes` have reached the disk for certain; what comes after may be zeros after a power cut.
    """

    source: str = ""
    validator: str = ""
    synced_bytes: int = 0


class PartFile:
    """One writer. `open` first, `finish` before the rename. All raise InsufficientStorage and TransferFailed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self.note = PartNote()
        self._note_path = path.with_name(path.name + ".json")
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._keep_bytes = 0
        self._unsynced_bytes = 0

    @contextmanager
    def reserved(self) -> Generator[None]:
        """Nobody else writes this part while the block runs, also no other agent of this PC. Raises TransferFailed."""
        lock = FileLock(self.path.with_name(self.path.name + ".lock"), timeout=0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise TransferFailed(
                f"another agent of this PC is already fetching this file into {self.path.parent}"
            ) from None
        except OSError as error:
            raise disk_error(error, self.path.parent) from error
        try:
            yield
        finally:
            self.close()
            lock.release()

    async def open(self, *, keep_bytes: Callable[[int, PartNote], int]) -> None:
        """Go on with what is there. `keep_bytes(size, note)` says how many of its first bytes are to be kept."""
        await self._in_thread(partial(self._open, keep_bytes))
        while await self._in_thread(self._hash_kept):
            pass

    def _open(self, keep_bytes: Callable[[int, PartNote], int]) -> None:
        self.note = _read_note(self._note_path)
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        size = self._file.seek(0, os.SEEK_END)
        self._keep_bytes = max(0, min(size, keep_bytes(size, self.note)))
        self._file.truncate(self._keep_bytes)
        self._file.seek(0)
        self._hash, self.size_bytes = hashlib.sha256(), 0

    def _hash_kept(self) -> bool:
        """One step; True while there is more."""
        file = self._opened()
        stop = min(self._keep_bytes, self.size_bytes + _STEP_BYTES)
        while self.size_bytes < stop and (block := file.read(min(_READ_BYTES, stop - self.size_bytes))):
            self._hash.update(block)
            self.size_bytes += len(block)
        return self.size_bytes < self._keep_bytes

    async def append(self, content: bytes | bytearray) -> None:
        """Write and hash."""
        await self._in_thread(partial(self._append, content))

    def _append(self, content: bytes | bytearray) -> None:
        file = self._opened()
        file.write(content)
        self._hash.update(content)
        self.size_bytes += len(content)
        self._unsynced_bytes += len(content)
        if self._unsynced_bytes >= SYNC_EVERY_BYTES:
            self._sync()

    def _sync(self) -> None:
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())
        self._unsynced_bytes = 0
        self._write_note(msgspec.structs.replace(self.note, synced_bytes=self.size_bytes))

    async def describe(self, *, source: str, validator: str) -> None:
        """Note what this is a part of, for a later try."""
        note = PartNote(source=source, validator=validator)
        await self._in_thread(partial(self._write_note, note))

    def _write_note(self, note: PartNote) -> None:
        self.note = note
        write_atomically(self._note_path, msgspec.json.encode(note))

    async def restart(self) -> None:
        """Throw away what is there."""
        await self._in_thread(self._restart)

    def _restart(self) -> None:
        file = self._opened()
        file.seek(0)
        file.truncate(0)
        self._hash, self.size_bytes, self._unsynced_bytes = hashlib.sha256(), 0, 0

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._hash.hexdigest()

    async def finish(self) -> None:
        """Everything is on the disk, and the file is closed."""
        await self._in_thread(self._sync)
        self.close()

    async def keep(self) -> None:
        """It broke off: what is there stays for the next try."""
        with contextlib.suppress(InsufficientStorage, TransferFailed):
            if self._file is not None:
                await self._in_thread(self._sync)
        self.close()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def delete(self) -> None:
        """It is of no use to anybody. Whatever cannot be deleted stays."""
        self.close()
        for path in (self.path, self._note_path):
            with contextlib.suppress(OSError):
                path.unlink()

    def forget_note(self) -> None:
        """The part has become the file."""
        with contextlib.suppress(OSError):
            self._note_path.unlink()

    def _opened(self) -> BinaryIO:
        assert self._file is not None, "open comes first"
        return self._file

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await _to_its_end(work)
        except OSError as error:
            raise disk_error(error, self.path.parent) from error


async def _to_its_end(work: Callable[[], T]) -> T:
    """A cancelled wait must not leave a thread behind that writes to a file which is being closed."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()
        raise


def disk_error(error: OSError, folder: Path) -> InsufficientStorage | TransferFailed:
    """What a failed write means."""
    if error.errno in _FULL:
        return InsufficientStorage(f"the disk of {folder} is full ({error.strerror})")
    return TransferFailed(f"{folder} cannot be written: {error.strerror or error}")


def _read_note(path: Path) -> PartNote:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PartNote)
    except (OSError, msgspec.DecodeError):
        return PartNote()
