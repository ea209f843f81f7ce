"""The table of API keys. Of a key's secret only the SHA-256 is kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from chorus_proto.generation import ThoughtField
from chorus_proto.keys import ApiKey, KeyId, Scope
from chorus_proto.sqlite.writer import Writer

_COLUMNS = (
    *("key_id", "digest", "name", "owner", "scopes", "created_unix_s", "expires_unix_s", "last_used_unix_s"),
    *("revoked_unix_s", "requests_per_minute", "parallel", "tokens_per_day", "trusted"),
    "thought_field",
)
_SPENT = ("spent_day", "spent_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedKey:
    """A key and the SHA-256 of its secret."""

    key: ApiKey
    digest: bytes = field(repr=False)
    spent: tuple[int, int] = (0, 0)
    """The last day on which tokens were spent (days since 1970, UTC), and how many."""


class KeyTable:
    """A method returns once its change is on the disk, and raises what `Writer.do` raises."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def add(self, saved: SavedKey) -> None:
        key = saved.key
        row = (
            *(key.key_id, saved.digest, key.name, key.owner, msgspec.json.encode(key.scopes).decode()),
            *(key.created_unix_s, key.expires_unix_s, key.last_used_unix_s, key.revoked_unix_s),
            *(key.requests_per_minute, key.parallel, key.tokens_per_day, int(key.trusted)),
            key.thought_field,
        )
        places = ", ".join("?" * len(_COLUMNS))
        statement = f"INSERT INTO api_key ({', '.join(_COLUMNS)}) VALUES ({places})"
        await self._do(lambda connection: connection.execute(statement, row))

    async def revoke(self, key_id: KeyId, when_unix_s: float) -> None:
        await self._do(
            lambda connection: connection.execute(
                "UPDATE api_key SET revoked_unix_s = ? WHERE key_id = ?", (when_unix_s, key_id)
            )
        )

    async def used(self, when_unix_s: Mapping[KeyId, float], spent: Mapping[KeyId, tuple[int, int]]) -> None:
        """Remember when these keys were last used, and what was `SavedKey.spent`."""
        times = [(when, key_id) for key_id, when in when_unix_s.items()]
        sums = [(day, tokens, key_id) for key_id, (day, tokens) in spent.items()]

        def work(connection: sqlite3.Connection) -> sqlite3.Cursor:
            connection.executemany("UPDATE api_key SET last_used_unix_s = ? WHERE key_id = ?", times)
            return connection.executemany("UPDATE api_key SET spent_day = ?, spent_tokens = ? WHERE key_id = ?", sums)

        await self._do(work)

    async def all(self) -> list[SavedKey]:
        """Every key, revoked ones too, in the order of their making."""
        names = (*_COLUMNS, *_SPENT)
        rows = await self._writer.do(
            lambda c: c.execute(f"SELECT {', '.join(names)} FROM api_key ORDER BY created_unix_s, key_id").fetchall()
        )
        return [_saved(dict(zip(names, row, strict=True))) for row in rows]

    async def _do(self, work: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> None:
        def run(connection: sqlite3.Connection) -> None:
            work(connection)

        await self._writer.do(run)


def _saved(row: dict[str, object]) -> SavedKey:
    digest = msgspec.convert(row.pop("digest"), bytes)
    day, tokens = (msgspec.convert(row.pop(name), int) for name in _SPENT)
    known = {scope.value for scope in Scope}
    # A scope that a newer version gave allows nothing here.
    scopes = [scope for scope in msgspec.json.decode(str(row["scopes"]), type=list[str]) if scope in known]
    shown = row["thought_field"] if row["thought_field"] in set(ThoughtField) else None
    told = {"scopes": scopes, "trusted": bool(row["trusted"]), "thought_field": shown}
    key = msgspec.convert(row | told, ApiKey)
    return SavedKey(key=key, digest=digest, spent=(day, tokens))
