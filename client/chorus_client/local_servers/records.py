"""What Chorus remembers of the servers it started: one file each, so that another shell can find and stop them.

A process is known by its id and the time it was created: ids are used again. While a server is kept running, its keeper
also holds a lock, so that two starts at once cannot give two servers.
"""

from __future__ import annotations

import contextlib
import logging
from enum import StrEnum
from pathlib import Path

import msgspec
import psutil
from filelock import FileLock, Timeout

from chorus_proto.files import write_atomically

log = logging.getLogger(__name__)

_SAME_TIME_S = 1.0
"""psutil computes creation times from the boot time, which some systems correct by fractions of a second."""


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    """Given up; `detail` says why."""


class Identity(msgspec.Struct, frozen=True):
    """A process that cannot be taken for another one."""

    pid: int
    created_unix_s: float

    @staticmethod
    def of(pid: int) -> Identity | None:
        """None when there is no such process."""
        try:
            return Identity(pid=pid, created_unix_s=psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created_unix_s) < _SAME_TIME_S
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One server that Chorus started. `keeper` is the process that keeps it running, `engine` the server itself."""

    name: str
    config: str
    host: str
    port: int
    keeper: Identity
    in_agent: bool
    """The keeper is the agent: the server ends with it and is stopped there."""
    phase: Phase
    engine: Identity | None = None
    restarts: int = 0
    started_unix_s: float = 0.0
    detail: str = ""

    @property
    def alive(self) -> bool:
        return self.phase is not Phase.FAILED and self.keeper.process() is not None


class Records:
    """The records in STATE/run/servers; files there are for this user only."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir.expanduser() / "run" / "servers"

    def of(self, config: Path, name: str) -> ServerRecord | None:
        """The record of one server of one configuration file; the file may have got another port for it since."""
        wanted = str(config.resolve())
        found = [one for one in self.all() if one.name == name and one.config == wanted]
        return next((one for one in found if one.alive), found[0] if found else None)

    def all(self) -> list[ServerRecord]:
        found = [self._read(path) for path in sorted(self._folder.glob("*.json"))]
        return [one for one in found if one is not None]

    def _read(self, path: Path) -> ServerRecord | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=ServerRecord)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be used: %s", path, error)
            return None

    def write(self, record: ServerRecord) -> None:
        """Raises OSError."""
        write_atomically(self._path(record.port), msgspec.json.encode(record))

    def forget(self, record: ServerRecord) -> None:
        """Remove it, unless another process has written its own meanwhile."""
        kept = self._read(self._path(record.port))
        if kept is not None and kept.keeper == record.keeper:
            with contextlib.suppress(OSError):
                self._path(record.port).unlink()

    def lock(self, port: int) -> FileLock | None:
        """The right to keep a server on `port`, held until released or until the process ends; None when taken.

        Raises OSError when the state folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(self._folder / f"{port}.lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def last_words_path(self, port: int) -> Path:
        """Where a keeper that cannot even begin says why."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder / f"{port}.err"

    def _path(self, port: int) -> Path:
        return self._folder / f"{port}.json"
