"""Files that outlive a process: written whole or not at all, in a folder proved writable, used by one process."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from chorus_proto.settings import SettingsError


def write_atomically(path: Path, raw: bytes) -> None:
    """Make `raw` the content of `path`, readable by its owner only: a reader or a power cut sees the old or the new.

    Raises OSError; then the old content stands and nothing is left beside it.
    """
    # mkstemp makes the draft with mode 0600, under a name that no other process or thread has.
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(number)  # else the name may reach the disk before the content does
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def state_folder(path: Path) -> Path:
    """Make the folder, for its owner only, and prove that it can be written. Raises SettingsError."""
    folder = path.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(
            f"the state folder {folder} cannot be written ({error.strerror}); choose another with --state-dir"
        ) from None
    return folder


@contextmanager
def only_one(path: Path, refusal: str) -> Generator[None]:
    """Hold the lock file `path` while the block runs; the system lets go of it when the process dies.

    Raises SettingsError with `refusal` when another process, or another block of this one, holds it.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SettingsError(refusal) from None
    try:
        yield
    finally:
        lock.release()
