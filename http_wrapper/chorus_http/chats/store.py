"""The chat sessions on disk. Every method names the owner: a session of somebody else does not exist."""

from __future__ import annotations

import logging
import re
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chorus_http.chats.records import (
    AnswerFacts,
    ChatMessage,
    ChatSession,
    Found,
    MessageId,
    Role,
    SessionId,
    TitleFrom,
)
from chorus_http.chats.schema import MIGRATIONS
from chorus_proto.errors import InvalidRequest, NotFound
from chorus_proto.sqlite.file import open_file
from chorus_proto.sqlite.writer import Writer

log = logging.getLogger(__name__)

BUSY_S = 5.0
MESSAGES_LIMIT = 5_000
"""Of one session, branches included."""
SESSIONS_LIMIT = 20_000
"""Of one owner."""
SNIPPET_WORDS = 24
CHANGES_KEPT = 10_000

_COLUMNS = "session_id, owner, title, title_from, model, system, head, revision, created_unix_s, updated_unix_s"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """`last` is the number to go on from; `deleted` names owner and session."""

    last: int
    changed: list[ChatSession]
    deleted: list[tuple[str, SessionId]]


class ChatStore:
    """An open database. A change is on the disk when its method returns.

    Every method raises NotFound for a session that the owner does not have, and what `Writer.do` raises.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._origin = secrets.token_hex(8)

    @classmethod
    def open(cls, path: Path, *, busy_s: float = BUSY_S) -> ChatStore:
        """Open or create. Blocks up to `busy_s` for another process's lock. Raises what `open_file` raises."""
        connection, _ = open_file(path, MIGRATIONS, busy_s=busy_s)
        return cls(Writer(connection, path))

    def close(self) -> None:
        """Write out and close. Blocks. A second call does nothing."""
        self._writer.close()

    async def add(self, session: ChatSession, messages: Sequence[ChatMessage] = ()) -> None:
        """Add a session with the messages it may already have. Raises InvalidRequest when the owner has too many."""

        def work(connection: sqlite3.Connection) -> None:
            (count,) = connection.execute("SELECT count(*) FROM session WHERE owner = ?", (session.owner,)).fetchone()
            if count >= SESSIONS_LIMIT:
                raise InvalidRequest(f"There are {SESSIONS_LIMIT} chat sessions already; delete some.")
            values = [getattr(session, name) for name in _fields()]
            connection.execute(f"INSERT INTO session ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})", values)
            for message in messages:
                _insert(connection, session.id, message)
            self._note(connection, session, session.revision)

        await self._writer.do(work)

    async def sessions(self, owner: str, *, limit: int, offset: int = 0) -> list[ChatSession]:
        """The owner's, last changed first."""
        query = (
            f"SELECT {_COLUMNS} FROM session WHERE owner = ? ORDER BY updated_unix_s DESC, session_id LIMIT ? OFFSET ?"
        )
        rows = await self._writer.do(lambda c: c.execute(query, (owner, limit, offset)).fetchall())
        return [_session(row) for row in rows]

    async def session(self, owner: str, session_id: str) -> ChatSession:
        return await self._writer.do(lambda c: _owned(c, owner, session_id))

    async def whole(self, owner: str, session_id: str) -> tuple[ChatSession, list[ChatMessage]]:
        """The session and all its messages, of every branch, in the order in which they came."""

        def work(connection: sqlite3.Connection) -> tuple[ChatSession, list[ChatMessage]]:
            session = _owned(connection, owner, session_id)
            rows = connection.execute(
                "SELECT message_id, parent_id, role, content, created_unix_s, answer FROM message"
                " WHERE session_id = ? ORDER BY number",
                (session.id,),
            )
            return session, [_message(row) for row in rows]

        return await self._writer.do(work)

    async def change(
        self,
        owner: str,
        session_id: str,
        *,
        title: tuple[str, TitleFrom] | None = None,
        model: str | None = None,
        system: str | None = None,
        head: MessageId | None = None,
        now_unix_s: float,
    ) -> ChatSession:
        """Change what is given; "" as `model` leaves the choice open. The changed session.

        A title of a worse source than the present one changes nothing.
        """

        def work(connection: sqlite3.Connection) -> ChatSession:
            before = _owned(connection, owner, session_id)
            changes: dict[str, object] = {}
            if title is not None and _RANK[title[1]] >= _RANK[before.title_from]:
                changes["title"], changes["title_from"] = title
            if model is not None:
                changes["model"] = model or None
            if system is not None:
                changes["system"] = system
            if head is not None:
                found = connection.execute(
                    "SELECT 1 FROM message WHERE message_id = ? AND session_id = ?", (head, before.id)
                ).fetchone()
                if found is None:
                    raise _no_message(head)
                changes["head"] = head
            return self._changed(connection, before, changes, now_unix_s)

        return await self._writer.do(work)

    async def append(
        self, owner: str, session_id: str, message: ChatMessage, *, title: tuple[str, TitleFrom] | None = None
    ) -> ChatSession:
        """Add a message and show the conversation up to it. `title` is taken as by `change`.

        Raises InvalidRequest when the session has too many.
        """

        def work(connection: sqlite3.Connection) -> ChatSession:
            before = _owned(connection, owner, session_id)
            (count,) = connection.execute("SELECT count(*) FROM message WHERE session_id = ?", (before.id,)).fetchone()
            if count >= MESSAGES_LIMIT:
                raise InvalidRequest(f"This chat has {MESSAGES_LIMIT} messages; go on in a new one.")
            _insert(connection, before.id, message)
            changes: dict[str, object] = {"head": message.id}
            if title is not None and _RANK[title[1]] > _RANK[before.title_from]:
                changes["title"], changes["title_from"] = title
            return self._changed(connection, before, changes, message.created_unix_s)

        return await self._writer.do(work)

    async def delete(self, owner: str, session_id: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            session = _owned(connection, owner, session_id)
            connection.execute("DELETE FROM session WHERE session_id = ?", (session.id,))
            self._note(connection, session, None)

        await self._writer.do(work)

    async def last_change(self) -> int:
        """The number of the last change, by whichever process; 0 before the first."""
        query = "SELECT coalesce(max(number), 0) FROM change"
        (number,) = await self._writer.do(lambda c: c.execute(query).fetchone())
        return int(number)

    async def changes_of_others(self, after: int) -> Changes:
        """What other processes on the same file have changed since the change of that number, by their last words."""

        def work(connection: sqlite3.Connection) -> Changes:
            rows = connection.execute(
                "SELECT number, origin, session_id, owner, revision FROM change WHERE number > ? ORDER BY number",
                (after,),
            ).fetchall()
            last = {session_id: (owner, revision) for _, origin, session_id, owner, revision in rows if origin != mine}
            changed: list[ChatSession] = []
            deleted: list[tuple[str, SessionId]] = []
            for session_id, (owner, revision) in last.items():
                if revision is None:
                    deleted.append((owner, SessionId(session_id)))
                    continue
                with suppress(NotFound):  # deleted since, by ourselves
                    changed.append(_owned(connection, owner, session_id))
            return Changes(last=rows[-1][0] if rows else after, changed=changed, deleted=deleted)

        mine = self._origin
        return await self._writer.do(work)

    async def search(self, owner: str, words: str, *, limit: int) -> list[Found]:
        """Titles and messages that hold every word of `words`, the last one as a beginning; best first, titles before.

        Raises InvalidRequest when there is no word in it.
        """
        terms = _WORD.findall(words)
        if not terms:
            raise InvalidRequest("The search holds no word.", param="q")
        # Each term quoted, so that FTS5's own operators are words like others.
        match = " ".join(f'"{term}"' for term in terms) + "*"
        titles = " AND ".join(["title LIKE ? ESCAPE '\\'"] * len(terms))

        def work(connection: sqlite3.Connection) -> list[Found]:
            rows = connection.execute(
                f"SELECT session_id, title, NULL, NULL, title, updated_unix_s FROM session WHERE owner = ? AND {titles}"
                " ORDER BY updated_unix_s DESC LIMIT ?",
                (owner, *(f"%{_like(term)}%" for term in terms), limit),
            ).fetchall()
            rows += connection.execute(
                "SELECT s.session_id, s.title, m.message_id, m.role,"
                f" snippet(message_text, 0, '[', ']', ' … ', {SNIPPET_WORDS}), m.created_unix_s"
                " FROM message_text JOIN message m ON m.number = message_text.rowid"
                " JOIN session s ON s.session_id = m.session_id"
                " WHERE message_text MATCH ? AND s.owner = ? ORDER BY message_text.rank LIMIT ?",
                (match, owner, limit),
            ).fetchall()
            return [msgspec.convert(dict(zip(_FOUND, row, strict=True)), Found) for row in rows[:limit]]

        return await self._writer.do(work)

    def _changed(
        self, connection: sqlite3.Connection, before: ChatSession, changes: dict[str, object], now_unix_s: float
    ) -> ChatSession:
        changes |= {"revision": before.revision + 1, "updated_unix_s": max(now_unix_s, before.updated_unix_s)}
        names = ", ".join(f"{name} = ?" for name in changes)
        connection.execute(f"UPDATE session SET {names} WHERE session_id = ?", (*changes.values(), before.id))
        self._note(connection, before, before.revision + 1)
        return msgspec.structs.replace(before, **changes)

    def _note(self, connection: sqlite3.Connection, session: ChatSession, revision: int | None) -> None:
        """For `changes_of_others`, in the transaction of the change itself."""
        done = connection.execute(
            "INSERT INTO change (origin, session_id, owner, revision) VALUES (?, ?, ?, ?)",
            (self._origin, session.id, session.owner, revision),
        )
        connection.execute("DELETE FROM change WHERE number <= ?", ((done.lastrowid or 0) - CHANGES_KEPT,))


_RANK = {source: rank for rank, source in enumerate(TitleFrom)}
_FOUND = Found.__struct_fields__


def _fields() -> list[str]:
    """Of `ChatSession`, in the order of `_COLUMNS`."""
    return ["id", *_COLUMNS.split(", ")[1:]]


def _session(row: Sequence[object]) -> ChatSession:
    return msgspec.convert(dict(zip(_fields(), row, strict=True)), ChatSession)


def _message(row: Sequence[object]) -> ChatMessage:
    message_id, parent_id, role, content, created_unix_s, answer = row
    facts = None
    if isinstance(answer, bytes):
        try:
            facts = msgspec.json.decode(answer, type=AnswerFacts)
        except msgspec.MsgspecError as error:
            # A newer Chorus wrote it: the words count, not how they came about.
            log.warning("message %s: what was saved of its making cannot be read: %s", message_id, error)
    told = {"id": message_id, "parent_id": parent_id, "role": role, "content": content}
    return msgspec.convert(told | {"created_unix_s": created_unix_s, "answer": facts}, ChatMessage)


def _owned(connection: sqlite3.Connection, owner: str, session_id: str) -> ChatSession:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM session WHERE session_id = ? AND owner = ?", (session_id, owner)
    ).fetchone()
    if row is None:
        raise NotFound("There is no such chat session.", param="id")
    return _session(row)


def _no_message(message_id: str) -> NotFound:
    return NotFound(f"There is no message {message_id[:64]!r} in this chat session.", param="message_id")


def _insert(connection: sqlite3.Connection, session_id: SessionId, message: ChatMessage) -> None:
    answer = None if message.answer is None else msgspec.json.encode(message.answer)
    told = (message.id, session_id, message.parent_id, Role(message.role).value, message.content)
    connection.execute(
        "INSERT INTO message (message_id, session_id, parent_id, role, content, created_unix_s, answer)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*told, message.created_unix_s, answer),
    )


def _like(term: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", term)
