"""The table of backends. The API key that a backend asks for lies in it as it is: it has to be shown."""

from __future__ import annotations

import sqlite3

import msgspec

from chorus_proto.backends import NewBackend, RegisteredBackend
from chorus_proto.ids import NodeId
from chorus_proto.sqlite.writer import Writer

_COLUMNS = ("name", "node_id", "url", "models", "model_type", "slots", "api_key", "weight", "created_unix_s")


class BackendTable:
    """A method returns once its change is on the disk, and raises what `Writer.do` raises."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def save(self, backend: RegisteredBackend) -> None:
        """Add it, or overwrite the one of its name."""
        wish = backend.wish
        row = (
            *(wish.name, backend.node_id, wish.url, msgspec.json.encode(wish.models).decode(), wish.model_type),
            *(wish.slots, wish.api_key, wish.weight, backend.created_unix_s),
        )
        statement = f"INSERT OR REPLACE INTO backend ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(statement, row)

        await self._writer.do(work)

    async def forget(self, name: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM backend WHERE name = ?", (name,))

        await self._writer.do(work)

    async def all(self) -> list[RegisteredBackend]:
        """By name."""
        rows = await self._writer.do(
            lambda c: c.execute(f"SELECT {', '.join(_COLUMNS)} FROM backend ORDER BY name").fetchall()
        )
        return [_backend(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _backend(row: dict[str, object]) -> RegisteredBackend:
    row["models"] = msgspec.json.decode(str(row["models"]))
    wish = msgspec.convert({name: row[name] for name in NewBackend.__dataclass_fields__}, NewBackend)
    return RegisteredBackend(
        node_id=NodeId(str(row["node_id"])),
        wish=wish,
        created_unix_s=msgspec.convert(row["created_unix_s"], float),
    )
