"""Further names of models, for callers who ask for one that no file has; Ollama's `copy` makes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping

from chorus_proto.catalogue import normalised
from chorus_proto.errors import InvalidRequest, QueueFull
from chorus_proto.ids import ModelName
from chorus_server.store.aliases import AliasTable

MOST = 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,255}")


class Aliases:
    """Every change is on the disk before it counts. A model of that very name comes first, whatever an alias says."""

    def __init__(self, table: AliasTable) -> None:
        self._table = table
        self._changing = asyncio.Lock()
        self._known: Mapping[ModelName, ModelName] = {}

    async def remember(self) -> None:
        """Read what the store has. Raises what `AliasTable.all` raises."""
        self._known = await self._table.all()

    def all(self) -> Iterable[tuple[ModelName, ModelName]]:
        """Name and model of each."""
        return self._known.items()

    def meant(self, wanted: str) -> str:
        """The model that the name stands for, or the name itself."""
        return self._known.get(normalised(wanted), wanted)

    async def add(self, name: str, model: ModelName, *, held: Iterable[ModelName]) -> None:
        """`held`: the models that there are. Raises InvalidRequest, QueueFull."""
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                "a model's name has letters, digits and . _ : / @ -, begins with a letter or digit and is at most 256 "
                "characters long",
                param="destination",
            )
        alias = normalised(name)
        if any(normalised(one) == alias for one in held):
            raise InvalidRequest(f"there is a model called {name} already", param="destination")
        async with self._changing:
            if alias not in self._known and len(self._known) >= MOST:
                raise QueueFull(f"there are {MOST} further names already; delete one")
            await self._table.save(alias, model)
            self._known = {**self._known, alias: model}

    async def remove(self, name: str) -> bool:
        """False when there is none."""
        alias = normalised(name)
        async with self._changing:
            if alias not in self._known:
                return False
            await self._table.forget(alias)
            self._known = {known: model for known, model in self._known.items() if known != alias}
        return True
