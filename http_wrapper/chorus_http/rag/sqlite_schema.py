"""The SQLite file: its tables, and how it is opened. Blocking.

`PRAGMA user_version` counts the migrations applied. A migration that has been released is never changed; the next
change is appended. Each collection has a full-text table of its own, `words_<number>`, so that how rare a word is
follows from the collection alone, and none is searched for another's sake.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

from chorus_proto.errors import ClusterError, InsufficientStorage, InternalError, StoreUnavailable, VersionMismatch

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE collection (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            owner TEXT NOT NULL,
            name TEXT NOT NULL,
            embedder_digest TEXT NOT NULL,
            dimensions INTEGER NOT NULL,
            created_unix_s REAL NOT NULL,
            UNIQUE (owner, name)
        )""",
        """CREATE TABLE document (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            collection INTEGER NOT NULL REFERENCES collection,
            title TEXT NOT NULL,
            kind TEXT NOT NULL,
            digest TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            created_unix_s REAL NOT NULL,
            updated_unix_s REAL NOT NULL,
            complete INTEGER NOT NULL,
            source TEXT,
            metadata TEXT NOT NULL, -- a JSON object
            notices TEXT NOT NULL, -- a JSON array
            UNIQUE (collection, source)
        )""",
        """CREATE TABLE chunk (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            document INTEGER NOT NULL REFERENCES document,
            ordinal INTEGER NOT NULL,
            start INTEGER NOT NULL,
            "end" INTEGER NOT NULL,
            page INTEGER,
            headings TEXT NOT NULL, -- a JSON array
            context TEXT NOT NULL,
            text TEXT NOT NULL,
            digest BLOB NOT NULL,
            units BLOB NOT NULL,
            vector BLOB NOT NULL -- float16, little-endian
        )""",
        "CREATE INDEX chunk_of_document ON chunk (document, ordinal)",
    ),
)
BUSY_S = 5.0
JOURNAL_BYTES = 64 * 2**20
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNUSABLE = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection as all are here; any thread may use it, one at a time. Raises as `translated` does."""
    with translated(path):
        # Autocommit: transactions are opened by hand, because Python's own are deferred and fail at once when upgraded.
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES}")
        return connection


def open_database(path: Path) -> sqlite3.Connection:
    """The connection that writes, migrated to the newest schema. Raises as `translated` does, and VersionMismatch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        # Readable by its owner only. Where this fails SQLite fails too, and its error is the one that is translated.
        path.touch(mode=0o600)
    connection = connect(path)
    try:
        with translated(path):
            connection.execute("PRAGMA journal_mode=WAL")
            _migrate(connection, path)
            return connection
    except BaseException:
        connection.close()
        raise


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    while True:
        connection.execute("BEGIN IMMEDIATE")
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version >= len(MIGRATIONS):
            connection.execute("ROLLBACK")
            break
        for statement in MIGRATIONS[version]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={version + 1}")
        connection.execute("COMMIT")
    if version > len(MIGRATIONS):
        raise VersionMismatch(
            f"{path} was written by a newer Chorus (schema {version}, this one knows {len(MIGRATIONS)}): "
            "upgrade this one, or choose another --state-dir"
        )


@contextlib.contextmanager
def translated(path: Path) -> Generator[None]:
    """SQLite's result codes as typed errors (https://www.sqlite.org/rescode.html). An InternalError is a bug here."""
    try:
        yield
    except sqlite3.Error as error:
        raise _as_cluster_error(error, path) from error


def _as_cluster_error(error: sqlite3.Error, path: Path) -> ClusterError:
    raw: object = getattr(error, "sqlite_errorcode", 0)
    match raw & 0xFF if isinstance(raw, int) else 0:
        case sqlite3.SQLITE_FULL:
            return InsufficientStorage(f"the disk of {path} is full: free some space", retry_after_s=30)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(f"another program holds {path} locked: close it", retry_after_s=5)
        case code if code in _DAMAGED:
            return StoreUnavailable(f"{path} is damaged ({error}): move it away, and add the documents again")
        case code if code in _UNUSABLE:
            return StoreUnavailable(f"{path} cannot be used ({error}): check its disk and permissions")
        case _:
            return InternalError(f"{path}: {error}")
