"""Open a database file: settings, integrity, migrations. Blocking.

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
from chorus_proto.sqlite.failures import as_cluster_error, is_damaged

log = logging.getLogger(__name__)

JOURNAL_BYTES = 64 * 2**20

Migrations = Sequence[Sequence[str]]
"""The statements of each step from one schema to the next."""


def open_file(path: Path, migrations: Migrations, *, busy_s: float) -> tuple[sqlite3.Connection, str]:
    """The connection, in autocommit, migrated to the newest schema, and a note on what was lost ("": nothing).

    A damaged file is moved aside and a new one started. Raises CoordinatorUnavailable (locked, not writable),
    InsufficientStorage or VersionMismatch (written by a newer Chorus).
    """
    note = ""
    try:
        try:
            connection = _opened(path, migrations, busy_s)
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise
            aside = _moved_aside(path)
            note = f"the state in {path} was damaged ({error}); it lies in {aside} now, and a new one was started"
            log.error("%s", note)
            connection = _opened(path, migrations, busy_s)
    except sqlite3.Error as error:
        raise as_cluster_error(error, path) from error
    except OSError as error:
        raise CoordinatorUnavailable(f"{path} is damaged and cannot be moved aside: {error.strerror}") from error
    return connection, note


def _opened(path: Path, migrations: Migrations, busy_s: float) -> sqlite3.Connection:
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
        _migrate(connection, path, migrations)
        return connection
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


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Migrations) -> None:
    while True:
        connection.execute("BEGIN IMMEDIATE")
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version >= len(migrations):
            connection.execute("ROLLBACK")
            break
        for statement in migrations[version]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={version + 1}")
        connection.execute("COMMIT")
    if version > len(migrations):
        raise VersionMismatch(
            f"{path} was written by a newer Chorus (schema {version}, this one knows {len(migrations)}): "
            "upgrade this one, or choose another --state-dir"
        )


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
