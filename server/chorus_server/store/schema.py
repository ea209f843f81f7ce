"""Open the coordinator's database file: its tables, and the count of its openings. Blocking.

A migration that has been released is never changed; the next change is appended.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from chorus_proto.sqlite.failures import as_cluster_error
from chorus_proto.sqlite.file import open_file
from chorus_server.store.records import Opened

log = logging.getLogger(__name__)

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
    ("ALTER TABLE api_key ADD COLUMN thought_field TEXT",),
    (
        """CREATE TABLE join_token (
            token_id TEXT PRIMARY KEY,
            digest BLOB NOT NULL, -- SHA-256 of the secret
            created_unix_s REAL NOT NULL,
            expires_unix_s REAL NOT NULL,
            uses_left INTEGER NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE member (
            node_id TEXT PRIMARY KEY,
            digest BLOB NOT NULL, -- SHA-256 of the secret that the node shows
            name TEXT NOT NULL,
            address TEXT NOT NULL, -- it joined from there
            token_id TEXT NOT NULL,
            joined_unix_s REAL NOT NULL,
            revoked_unix_s REAL
        ) WITHOUT ROWID""",
    ),
    ("ALTER TABLE backend ADD COLUMN weight REAL",),
)


def open_database(path: Path, *, busy_s: float) -> tuple[sqlite3.Connection, Opened]:
    """The connection, migrated to the newest schema, its epoch raised by one. Raises what `open_file` raises.

    A damaged file is moved aside and a new one started; `Opened.note` says so.
    """
    connection, note = open_file(path, MIGRATIONS, busy_s=busy_s)
    try:
        # Of a lost file the last count is lost too; the time is above any count of starts, so an epoch is still never
        # used twice.
        epoch = _next_epoch(connection, first=int(time.time()) if note else 1)
    except sqlite3.Error as error:
        connection.close()
        raise as_cluster_error(error, path) from error
    log.info("SQLite %s opened %s, schema %d, epoch %d", sqlite3.sqlite_version, path, len(MIGRATIONS), epoch)
    return connection, Opened(epoch=epoch, sqlite_version=sqlite3.sqlite_version, note=note)


def _next_epoch(connection: sqlite3.Connection, first: int) -> int:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE counter SET value = max(value + 1, ?) WHERE name = 'epoch'", (first,))
    (epoch,) = connection.execute("SELECT value FROM counter WHERE name = 'epoch'").fetchone()
    connection.execute("COMMIT")
    return int(epoch)
