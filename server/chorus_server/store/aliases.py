"""The table of further names of models."""

from __future__ import annotations

import sqlite3

from chorus_proto.ids import ModelName
from chorus_proto.sqlite.writer import Writer


class AliasTable:
    """A method returns once its change is on the disk, and raises what `Writer.do` raises."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def save(self, name: ModelName, model: ModelName) -> None:
        """Add it, or overwrite what the name meant."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO model_alias (name, model) VALUES (?, ?)", (name, model))

        await self._writer.do(work)

    async def forget(self, name: ModelName) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM model_alias WHERE name = ?", (name,))

        await self._writer.do(work)

    async def all(self) -> dict[ModelName, ModelName]:
        """What each name means."""
        rows = await self._writer.do(
            lambda c: c.execute("SELECT name, model FROM model_alias ORDER BY name").fetchall()
        )
        return {ModelName(name): ModelName(model) for name, model in rows}
