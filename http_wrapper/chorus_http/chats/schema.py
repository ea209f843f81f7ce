"""The tables of `chats.sqlite`. A migration that has been released is never changed; the next change is appended."""

from __future__ import annotations

from chorus_proto.sqlite.file import Migrations

MIGRATIONS: Migrations = (
    (
        """CREATE TABLE session (
            session_id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            title TEXT NOT NULL,
            title_from TEXT NOT NULL,
            model TEXT,
            system TEXT NOT NULL,
            head TEXT,
            revision INTEGER NOT NULL,
            created_unix_s REAL NOT NULL,
            updated_unix_s REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX session_of_owner ON session (owner, updated_unix_s)",
        # `number` is the order in which messages came.
        """CREATE TABLE message (
            number INTEGER PRIMARY KEY,
            message_id TEXT NOT NULL UNIQUE,
            session_id TEXT NOT NULL REFERENCES session (session_id) ON DELETE CASCADE,
            parent_id TEXT,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            created_unix_s REAL NOT NULL,
            answer BLOB -- JSON of AnswerFacts
        )""",
        "CREATE INDEX message_of_session ON message (session_id, number)",
        # An index over the text that lies in `message`, kept in step by triggers (sqlite.org/fts5.html, 4.4.3).
        """CREATE VIRTUAL TABLE message_text USING fts5(
            content, content='message', content_rowid='number', tokenize='unicode61 remove_diacritics 2'
        )""",
        """CREATE TRIGGER message_added AFTER INSERT ON message BEGIN
            INSERT INTO message_text (rowid, content) VALUES (new.number, new.content);
        END""",
        """CREATE TRIGGER message_removed AFTER DELETE ON message BEGIN
            INSERT INTO message_text (message_text, rowid, content) VALUES ('delete', old.number, old.content);
        END""",
    ),
    (
        # What other processes on this file have to be told of. `origin` is the store that made the change, `revision`
        # that of the session, NULL when it was deleted. Only the last few thousand stay.
        """CREATE TABLE change (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            origin TEXT NOT NULL,
            session_id TEXT NOT NULL,
            owner TEXT NOT NULL,
            revision INTEGER
        )""",
    ),
)
