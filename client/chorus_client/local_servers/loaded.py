"""A local server as a loaded model of the node, and the default that changes under running requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from chorus_client.engines.base import Ending
from chorus_client.engines.remote import RemoteModel
from chorus_client.footprint import Resident
from chorus_proto.errors import ClusterError, EngineFailed
from chorus_proto.generation import Generation, PieceBatches
from chorus_proto.settings import SettingsError

log = logging.getLogger(__name__)


class Held(Protocol):
    """The engine's side of one loaded server."""

    @property
    def life(self) -> asyncio.Future[str] | None:
        """Done once the server of this load is gone; None when somebody else keeps it."""
        ...

    async def resident(self) -> Resident | None: ...

    async def release(self) -> None:
        """This load is over; the server is stopped when we started it and nobody else here holds it."""
        ...


class LocalModel:
    """One local server (`LoadedModel`). It is asked as any OpenAI-compatible server; only its life is ours."""

    def __init__(self, name: str, remote: RemoteModel, held: Held) -> None:
        self.name = name
        self._remote = remote
        self._held = held
        self._life = held.life
        self._unloading = asyncio.Lock()
        self._unloaded = False

    @property
    def slots(self) -> int:
        return self._remote.slots

    @property
    def context_tokens(self) -> int:
        return self._remote.context_tokens

    async def generate(self, generation: Generation) -> PieceBatches:
        if self._life is not None and self._life.done():
            raise EngineFailed(self._life.result())
        async with contextlib.aclosing(self._remote.generate(generation)) as batches:
            async for pieces in batches:
                yield pieces

    async def resident(self) -> Resident | None:
        return None if self._unloaded else await self._held.resident()

    async def wait_closed(self) -> Ending:
        asked = asyncio.ensure_future(self._remote.wait_closed())
        try:
            if self._life is None:
                return await asked
            await asyncio.wait((asked, self._life), return_when=asyncio.FIRST_COMPLETED)
            return asked.result() if asked.done() else Ending(reason=self._life.result())
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def unload(self, *, force: bool = False) -> None:
        async with self._unloading:
            if not self._unloaded:
                self._unloaded = True
                await self._remote.unload()
                await self._held.release()


class DefaultModel:
    """Whichever server is the default now (`LoadedModel`): how a change of the default drops no request.

    A request is bound to the server that is current when it comes and stays there to its end. When the default in the
    file changes, the new server is loaded first; only once it answers do new requests go there. The old one is let go
    when its last request from here has ended. If the new one cannot be loaded, the old one stays.
    """

    def __init__(
        self,
        first: LocalModel,
        active: Callable[[], str],
        load: Callable[[str], Awaitable[LocalModel]],
        *,
        look_every_s: float,
    ) -> None:
        """`active` names the default server now and may raise SettingsError; `load` loads a server by name."""
        self._current: LocalModel = first
        self._active = active
        self._load = load
        self._look_every_s = look_every_s
        self._running: dict[LocalModel, int] = {first: 0}
        self._releasing: set[asyncio.Task[None]] = set()
        self.refused: str = ""
        """The default that could not be loaded, until the file names another."""
        self._following = asyncio.create_task(self._follow(), name="default-server")

    @property
    def name(self) -> str:
        """Of the server that takes new requests."""
        return self._current.name

    @property
    def slots(self) -> int:
        return self._current.slots

    @property
    def context_tokens(self) -> int:
        return self._current.context_tokens

    async def generate(self, generation: Generation) -> PieceBatches:
        bound = self._current
        self._running[bound] = self._running.get(bound, 0) + 1
        try:
            async with contextlib.aclosing(bound.generate(generation)) as batches:
                async for pieces in batches:
                    yield pieces
        finally:
            self._running[bound] -= 1
            self._release_if_over(bound)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._look_every_s)
            wanted: str = ""
            try:
                wanted = await asyncio.to_thread(self._active)
                if wanted == self._current.name or wanted == self.refused:
                    continue
                fresh = await self._load(wanted)
            except (ClusterError, SettingsError) as error:
                log.warning("the default server stays %s: %s", self._current.name, error)
                # Not tried each second.
                self.refused = wanted
                continue
            log.info("the default server is now %s, before %s", fresh.name, self._current.name)
            old, self._current, self.refused = self._current, fresh, ""
            self._running.setdefault(fresh, 0)
            self._release_if_over(old)

    def _release_if_over(self, model: LocalModel) -> None:
        if model is not self._current and not self._running[model]:
            del self._running[model]
            task = asyncio.create_task(model.unload(), name=f"release:{model.name}")
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def resident(self) -> Resident | None:
        return await self._current.resident()

    async def wait_closed(self) -> Ending:
        while True:
            watched = self._current
            ending = await watched.wait_closed()
            if watched is self._current:
                return ending

    async def unload(self, *, force: bool = False) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        for model in list(self._running):
            await model.unload()
        await asyncio.gather(*self._releasing, return_exceptions=True)
