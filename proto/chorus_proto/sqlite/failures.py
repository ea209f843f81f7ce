"""What SQLite's result codes mean to a caller (https://www.sqlite.org/rescode.html)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from chorus_proto.errors import ClusterError, CoordinatorUnavailable, InsufficientStorage, InternalError

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def result_code(error: sqlite3.Error) -> int:
    """The primary result code; 0 for errors that Python's module raises by itself."""
    code: object = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF if isinstance(code, int) else 0


def is_damaged(error: sqlite3.Error) -> bool:
    return result_code(error) in _DAMAGED


def as_cluster_error(error: sqlite3.Error, path: Path) -> ClusterError:
    """The typed error for what SQLite said about `path`; an `InternalError` is a bug here."""
    match result_code(error):
        case sqlite3.SQLITE_FULL:
            return InsufficientStorage(f"the disk of {path} is full: free some space", retry_after_s=30)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return CoordinatorUnavailable(
                f"another process holds {path} locked: close it, or wait until it is done", retry_after_s=5
            )
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return CoordinatorUnavailable(
                f"{path} cannot be used ({error}): check its disk and permissions, or choose another --state-dir"
            )
        case code if code in _DAMAGED:
            return CoordinatorUnavailable(f"{path} is damaged ({error}): restart Chorus to start it anew")
        case _:
            return InternalError(f"{path}: {error}")
