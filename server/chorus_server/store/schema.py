"""Open the database file: settings, integrity, migrations. Blocking.

`PRAGMA user_version` counts the migrations applied. A migration that has been released is never changed; the next
change is appended.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from chorus_proto.errors import CoordinatorUnavailable, VersionMismatch
from chorus_server.store.failures import as_cluster_error, is_damaged
from chorus_server.store.records import Opened

log = logging.getLogger(__name__)

JOURNAL_BYTES = 64 * 2**20

MIGRATIONS: tuple[Sequence[str], ...] = (
    (
        "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO counter VALUES ('epoch', 0)",
        """CREATE TABLE node (
            node_id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            client_id TEXT NOT NULL,
            hardware BLOB NOT NULL, -- JSON of chorus_proto.values.Hardware
            score REAL NOT NULL,
            first_seen_unix_s REAL NOT NULL,
            last_seen_unix_s REAL NOT NULL
        ) WITHOUT ROWID""",
        # No foreign key to node: what is learnt of a node may be saved before the node itself.
        """CREATE TABLE assignment (
            node_id TEXT PRIMARY KEY,
            model TEXT NOT NULL,
            reason TEXT NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE measurement (
            node_id TEXT NOT NULL,
            model TEXT NOT NULL,
            engine TEXT NOT NULL,
            decode_tokens_per_s REAL,
            prefill_tokens_per_s REAL,
            resident_bytes INTEGER,
            predicted_bytes INTEGER,
            load_s REAL,
            samples INTEGER NOT NULL,
            updated_unix_s REAL NOT NULL,
            PRIMARY KEY (node_id, model, engine)
        ) WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE measurement ADD COLUMN context_tokens INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE measurement ADD COLUMN slots INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE measurement ADD COLUMN expected_bytes INTEGER",
        "ALTER TABLE measurement ADD COLUMN arithmetic TEXT NOT NULL DEFAULT ''",
    ),
    (
        "ALTER TABLE node ADD COLUMN address TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE node ADD COLUMN mac_addresses TEXT NOT NULL DEFAULT '[]'",  # JSON
        "ALTER TABLE node ADD COLUMN models BLOB NOT NULL DEFAULT '[]'",  # JSON of chorus_proto.values.ModelFile
        "ALTER TABLE node ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0",
    ),
    (
        """CREATE TABLE api_key (
            key_id TEXT PRIMARY KEY,
            digest BLOB NOT NULL, -- SHA-256 of the secret
            name TEXT NOT NULL,
            owner TEXT NOT NULL,
            scopes TEXT NOT NULL, -- JSON
            created_unix_s REAL NOT NULL,
            expires_unix_s REAL,
            last_used_unix_s REAL,
            revoked_unix_s REAL,
            requests_per_minute INTEGER,
            parallel INTEGER,
            tokens_per_day INTEGER,
            trusted INTEGER NOT NULL,
            spent_day INTEGER NOT NULL DEFAULT 0, -- days since 1970, UTC
            spent_tokens INTEGER NOT NULL DEFAULT 0 -- on that day
        ) WITHOUT ROWID""",
        """CREATE TABLE backend (
            name TEXT PRIMARY KEY,
            node_id TEXT NOT NULL,
            url TEXT NOT NULL,
            models TEXT NOT NULL, -- JSON
            model_type TEXT NOT NULL,
            slots INTEGER,
            api_key TEXT NOT NULL, -- the backend's own
            created_unix_s REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE TABLE model_alias (name TEXT PRIMARY KEY, model TEXT NOT NULL) WITHOUT ROWID",
    ),
)


def open_database(path: Path, *, busy_s: float) -> tuple[sqlite3.Connection, Opened]:
    """The connection, migrated to the newest schema, its epoch raised by one.

    A damaged file is moved aside and a new one started; `Opened.note` says so. Raises CoordinatorUnavailable (locked,
    not writable), InsufficientStorage or VersionMismatch (written by a newer Chorus).
    """
    note = ""
    try:
        try:
            connection, epoch = _opened(path, busy_s, first_epoch=1)
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise
            aside = _moved_aside(path)
            note = f"the state in {path} was damaged ({error}); it lies in {aside} now, and a new one was started"
            log.error("%s", note)
            # The last count is lost; the time is above any count of starts, so an epoch is still never used twice.
            connection, epoch = _opened(path, busy_s, first_epoch=int(time.time()))
    except sqlite3.Error as error:
        raise as_cluster_error(error, path) from error
    except OSError as error:
        raise CoordinatorUnavailable(f"{path} is damaged and cannot be moved aside: {error.strerror}") from error
    log.info("SQLite %s opened %s, schema %d, epoch %d", sqlite3.sqlite_version, path, len(MIGRATIONS), epoch)
    return connection, Opened(epoch=epoch, sqlite_version=sqlite3.sqlite_version, note=note)


def _opened(path: Path, busy_s: float, *, first_epoch: int) -> tuple[sqlite3.Connection, int]:
    with contextlib.suppress(OSError):
        # Readable by its owner only. Where this fails SQLite fails too, and its error is the one that is translated.
        path.touch(mode=0o600)
    # Autocommit: transactions are opened by hand, because Python's own are deferred and fail at once when upgraded.
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            damaged = sqlite3.DatabaseError(found[0] if found else "quick_check said nothing")
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged
        _set_up(connection, path)
        _migrate(connection, path)
        return connection, _next_epoch(connection, first_epoch)
    except BaseException:
        connection.close()
        raise


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        log.warning("%s cannot use a write-ahead log (journal mode %s): is it on a network drive?", path, mode)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES}")


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


def _next_epoch(connection: sqlite3.Connection, first: int) -> int:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE counter SET value = max(value + 1, ?) WHERE name = 'epoch'", (first,))
    (epoch,) = connection.execute("SELECT value FROM counter WHERE name = 'epoch'").fetchone()
    connection.execute("COMMIT")
    return int(epoch)


def _moved_aside(path: Path) -> Path:
    """Rename the file, and its log with it, so that a person can try to rescue something."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    attempt = 1
    while aside.exists():
        attempt += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{attempt}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    return aside
