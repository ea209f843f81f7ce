"""Answers of the Responses API on disk, so that a restart forgets none. Bounded by age and bytes; the oldest go first.

One that runs in the background is written down before its caller hears of it; whoever asks for it after the process
ended in between is told that it failed.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from chorus_http.stored_responses import StoredResponse, broken_off
from chorus_proto.clock import Clock
from chorus_proto.generation import Message
from chorus_proto.sqlite.file import Migrations, open_file
from chorus_proto.sqlite.writer import Writer

BUSY_S = 5.0

MIGRATIONS: Migrations = (
    (
        """CREATE TABLE response (
            number INTEGER PRIMARY KEY,
            response_id TEXT NOT NULL UNIQUE,
            user TEXT NOT NULL,
            background INTEGER NOT NULL,
            over INTEGER NOT NULL,
            created_unix_s REAL NOT NULL,
            size_bytes INTEGER NOT NULL,
            turns BLOB NOT NULL, -- JSON of the conversation's messages
            body BLOB NOT NULL, -- the response object
            events BLOB NOT NULL
        )""",
        "CREATE INDEX response_age ON response (created_unix_s)",
        "CREATE INDEX response_size ON response (number, size_bytes)",
    ),
)

_encode = msgspec.json.Encoder().encode
_turns = msgspec.json.Decoder(tuple[Message, ...]).decode


class ResponseStore:
    """An open database. A change is on the disk when its method returns. Every method raises what `Writer.do` does.

    `most_bytes`: of all together. `most_age_s`: since an answer was asked for.
    """

    def __init__(self, writer: Writer, clock: Clock, *, most_bytes: int, most_age_s: float) -> None:
        self._writer = writer
        self._clock = clock
        self._most_bytes = most_bytes
        self._most_age_s = most_age_s

    @classmethod
    def open(
        cls, path: Path, clock: Clock, *, most_bytes: int, most_age_s: float, busy_s: float = BUSY_S
    ) -> ResponseStore:
        """Open or create. Blocks up to `busy_s` for another process's lock. Raises what `open_file` raises."""
        connection, _ = open_file(path, MIGRATIONS, busy_s=busy_s)
        return cls(Writer(connection, path), clock, most_bytes=most_bytes, most_age_s=most_age_s)

    def close(self) -> None:
        """Write out and close. Blocks. A second call does nothing."""
        self._writer.close()

    async def save(self, one: StoredResponse, *, over: bool) -> None:
        """Write it down, in place of what was known of it. `over`: it is what it will be."""
        now_unix_s = self._clock.unix_s()
        values = (
            one.response_id,
            one.user,
            one.background,
            over,
            now_unix_s,
            one.size_bytes,
            _encode(one.turns),
            one.body,
            one.events,
        )

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO response (response_id, user, background, over, created_unix_s, size_bytes, turns, body,"
                " events) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (response_id) DO UPDATE SET"
                " over = excluded.over, size_bytes = excluded.size_bytes, body = excluded.body,"
                " events = excluded.events",
                values,
            )
            connection.execute("DELETE FROM response WHERE created_unix_s < ?", (now_unix_s - self._most_age_s,))
            # The newest whose sizes sum up to no more than the bound stay, and this one in any case.
            connection.execute(
                "DELETE FROM response WHERE number IN (SELECT number FROM (SELECT number, response_id,"
                " sum(size_bytes) OVER (ORDER BY number DESC) AS so_far FROM response)"
                " WHERE so_far > ? AND response_id != ?)"
                " AND (SELECT sum(size_bytes) FROM response) > ?",
                (self._most_bytes, one.response_id, self._most_bytes),
            )

        await self._writer.do(work)

    async def find(self, response_id: str, user: str) -> StoredResponse | None:
        """None where there is none, it is too old, or it is somebody else's."""
        oldest_unix_s = self._clock.unix_s() - self._most_age_s
        row = await self._writer.do(
            lambda connection: connection.execute(
                "SELECT background, over, turns, body, events FROM response"
                " WHERE response_id = ? AND user = ? AND created_unix_s >= ?",
                (response_id, user, oldest_unix_s),
            ).fetchone()
        )
        if row is None:
            return None
        background, over, turns, body, events = row
        return StoredResponse(
            response_id=response_id,
            user=user,
            background=bool(background),
            turns=_turns(turns),
            body=body if over else broken_off(body),
            events=events,
        )

    async def delete(self, response_id: str, user: str) -> bool:
        """False where `user` has no such response."""
        statement = "DELETE FROM response WHERE response_id = ? AND user = ?"
        return await self._writer.do(lambda connection: connection.execute(statement, (response_id, user)).rowcount > 0)
