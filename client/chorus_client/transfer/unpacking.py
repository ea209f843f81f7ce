"""The archive of a model folder, which came from another node, made a folder again, and nothing in it believed.

Only the one form that `folder_archive` writes is accepted: a header that differs in one bit from what would be written
for its name and size is refused. So there are no links, paths, holes, long names or compressed parts to guard against.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from chorus_client import safetensors
from chorus_client.folder_archive import (
    BLOCK_BYTES,
    END,
    MOST_SMALL_BYTES,
    Digests,
    archive_of,
    header,
    identity,
    is_member_name,
    padding_bytes,
)
from chorus_client.model_server.folder import check_folder
from chorus_client.transfer.part_file import disk_error
from chorus_proto.errors import LoadFailed, TransferFailed

_COPY_BYTES = 1 << 20
_MOST_FILES = 1100
"""More than an index may name, and the few beside."""
_TELL_EVERY_S = 1.0


class Unpacking:
    """Of one archive, whose SHA-256 is known, into a folder that is not there yet."""

    def __init__(self, archive: Path, into: Path, sha256: str) -> None:
        self._archive = archive
        self._into = into
        self._sha256 = sha256
        self._stopped = threading.Event()

    async def run(self, tell: Callable[[], None]) -> Digests:
        """Unpack and check; `tell` is called about once a second meanwhile. What failed leaves its files to the caller.

        Raises LoadFailed for what is no archive of a model that can be loaded, InsufficientStorage, TransferFailed.
        """
        task = asyncio.ensure_future(asyncio.to_thread(self._all))
        try:
            while not task.done():
                await asyncio.wait((task,), timeout=_TELL_EVERY_S)
                tell()
            return task.result()
        except OSError as error:
            raise disk_error(error, self._into) from error
        finally:
            # The thread must not go on writing into a folder that is being thrown away.
            self._stopped.set()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()

    def _all(self) -> Digests:
        weights: dict[str, str] = {}
        last, count = "", 0
        self._into.mkdir()
        with self._archive.open("rb") as source:
            left = os.fstat(source.fileno()).st_size
            while (block := source.read(BLOCK_BYTES)) != END[:BLOCK_BYTES]:
                name, size_bytes = _member(block)
                left -= BLOCK_BYTES + size_bytes + padding_bytes(size_bytes)
                if name <= last or left < len(END):
                    raise _no_archive(f"{name} is out of order, or longer than the archive")
                count += 1
                if count > _MOST_FILES:
                    raise _no_archive(f"it holds more than {_MOST_FILES} files")
                is_weights, last = safetensors.is_weights_name(name), name
                if not is_weights and size_bytes > MOST_SMALL_BYTES:
                    raise _no_archive(f"{name} has {size_bytes} bytes")
                digest = self._copy(source, name, size_bytes)
                if is_weights:
                    weights[name] = digest
            if block + source.read(BLOCK_BYTES + 1) != END:
                raise _no_archive("it does not end where it should")
        self._check()
        return Digests(weights=identity(weights), archive=self._sha256)

    def _copy(self, source: BinaryIO, name: str, size_bytes: int) -> str:
        """The next file, written; its SHA-256."""
        digest, left = hashlib.sha256(), size_bytes
        with (self._into / name).open("xb") as target:
            while left:
                if self._stopped.is_set():
                    raise TransferFailed("unpacking was stopped")
                content = source.read(min(_COPY_BYTES, left))
                if not content:
                    raise _no_archive(f"{name} is cut short")
                digest.update(content)
                target.write(content)
                left -= len(content)
            target.flush()
            os.fsync(target.fileno())
        if any(source.read(padding_bytes(size_bytes))):
            raise _no_archive(f"{name} is followed by something else than zeros")
        return digest.hexdigest()

    def _check(self) -> None:
        """Whether it is a model, all of it, and nothing else."""
        folder = check_folder(self._into)
        if folder.shape is None:
            raise LoadFailed(f"how much memory a {folder.model_type[:40]!r} model takes is not known here")
        needed = {member.name for member in archive_of(folder, self._into).members}
        if surplus := {path.name for path in self._into.iterdir()} - needed:
            raise _no_archive(f"it holds {min(surplus)}, which the model does not need")


def _member(block: bytes) -> tuple[str, int]:
    """Name and size of the file that follows. Raises LoadFailed for any other block than ours."""
    try:
        name = block[:100].rstrip(b"\0").decode("ascii")
        raw = block[124:136]
        size_bytes = int.from_bytes(raw[1:], "big") if raw[:1] == b"\x80" else int(raw[:11], 8)
        sound = is_member_name(name) and 0 <= size_bytes < 1 << 60 and header(name, size_bytes) == block
    except ValueError:
        sound, name, size_bytes = False, "", 0
    if not sound:
        raise _no_archive("a file in it has another header than ours, or a name that no model's file has")
    return name, size_bytes


def _no_archive(why: str) -> LoadFailed:
    return LoadFailed(f"it is no archive of a model folder: {why}")
