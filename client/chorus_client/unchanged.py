"""What was found out of files by reading them, kept for as long as they stay as they were."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from chorus_proto.errors import LoadFailed

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")

Stamp = tuple[object, ...]
"""Another one when a file became another one, or was written to."""


def stamp_of(status: os.stat_result) -> Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def stamp_of_folder(folder: Path) -> Stamp:
    """Of the files in it, those that links lead to; not of the folders in it. Raises OSError."""
    stamps: list[Stamp] = []
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):  # a link that leads nowhere
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                stamps.append((path.name, *stamp_of(status)))
    return tuple(stamps)


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str


class Unchanged(Generic[Key, Found]):
    """For one look at a time."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[Stamp, Found | _Refused]] = {}

    def found(self, key: Key, stamp: Stamp, read: Callable[[], Found]) -> Found:
        """What `read` returned, or the LoadFailed that it raised, while the stamp is the same. Other errors are not
        kept, nor is a LoadFailed that only says that the disk did not give the file away."""
        known = self._known.get(key)
        if known is None or known[0] != stamp:
            known = self._known[key] = (stamp, _read(read))
        found = known[1]
        if isinstance(found, _Refused):
            raise LoadFailed(found.reason)
        return found

    def forget_all_but(self, keys: Iterable[Key]) -> None:
        """What is there no more need not be known."""
        kept = set(keys)
        self._known = {key: known for key, known in self._known.items() if key in kept}


def _read(read: Callable[[], Found]) -> Found | _Refused:
    try:
        return read()
    except LoadFailed as error:
        if isinstance(error.__cause__, OSError):
            raise
        return _Refused(error.message)
