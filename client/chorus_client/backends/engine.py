"""A remote server as an engine under the names that its registrant gave it, telling how its answers end."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import aclosing

from chorus_client.engines.base import Ending, LoadedModel, LoadOptions, Report
from chorus_client.engines.remote import RemoteEngine
from chorus_client.footprint import Resident
from chorus_proto.errors import EngineFailed, EngineUnavailable
from chorus_proto.generation import Done, Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

Told = Callable[[bool], None]
"""Hears of each answer that ended by itself whether it was good; of those that a caller broke off, nothing."""


class BackendEngine:
    """Satisfies `Engine`. `names` empty: the server's own."""

    def __init__(self, remote: RemoteEngine, names: Sequence[ModelName], told: Told) -> None:
        self._remote = remote
        self._names = names
        self._told = told
        self._served: list[ModelName] = []

    @property
    def kind(self) -> EngineKind:
        return EngineKind.REMOTE

    async def inventory(self) -> list[ModelFile]:
        found = await self._remote.inventory()
        self._served = [file.name for file in found]
        if not self._names:
            return found
        return [ModelFile(name=name, file_bytes=0, engine=EngineKind.REMOTE) for name in self._names]

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> LoadedModel:
        real = dataclasses.replace(model, name=self._real(model.name))
        return _Judged(await self._remote.load(real, options, report), self._told)

    async def tried(self, model: ModelName, generation: Generation) -> PieceBatches:
        """An answer of ours, which nobody is told of. Raises as `load`."""
        file = ModelFile(name=self._real(model), file_bytes=0, engine=EngineKind.REMOTE)
        return (await self._remote.load(file, LoadOptions(), lambda _progress: None)).generate(generation)

    def _real(self, name: ModelName) -> ModelName:
        """A name of ours for the only model that is there needs no agreement with the server."""
        return self._served[0] if name not in self._served and len(self._served) == 1 else name

    async def aclose(self) -> None:
        await self._remote.aclose()


class _Judged:
    """One model of it. Whether the server still lives is seen by who probes it, for all models at once."""

    def __init__(self, inner: LoadedModel, told: Told) -> None:
        self._inner = inner
        self._told = told
        self._unloaded = asyncio.Event()

    @property
    def slots(self) -> int:
        return self._inner.slots

    @property
    def context_tokens(self) -> int:
        return self._inner.context_tokens

    async def generate(self, generation: Generation) -> PieceBatches:
        try:
            async with aclosing(self._inner.generate(generation)) as batches:
                async for pieces in batches:
                    if isinstance(pieces[-1], Done):
                        self._told(True)  # now: whoever has the end does not read on
                    yield pieces
        except (EngineFailed, EngineUnavailable):
            self._told(False)
            raise

    async def resident(self) -> Resident | None:
        return await self._inner.resident()

    async def wait_closed(self) -> Ending:
        await self._unloaded.wait()
        return Ending(reason="the model was unloaded")

    async def unload(self, *, force: bool = False) -> None:
        await self._inner.unload(force=force)
        self._unloaded.set()
