"""The backends of this cluster: registered, kept over restarts, and handed to whoever runs their nodes.

A backend's node is run by code of the agent, which this package does not know: the process that has both attaches it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from chorus_proto.backends import (
    Backend,
    BackendHealth,
    BackendState,
    NewBackend,
    RegisteredBackend,
    check_backend,
)
from chorus_proto.clock import Clock
from chorus_proto.errors import InvalidRequest, NotFound, Unsupported
from chorus_proto.ids import new_node_id
from chorus_server.store import BackendTable
from chorus_server.weights import Weights

log = logging.getLogger(__name__)

BACKENDS_LIMIT = 64


class BackendRunner(Protocol):
    """Runs one node for each backend."""

    async def check(self, url: str) -> None:
        """Raises AddressNotAllowed for what this cluster may not connect to."""
        ...

    def start(self, backend: RegisteredBackend) -> None: ...

    async def stop(self, name: str) -> None:
        """Let what runs there finish, within a limit, then end its node."""
        ...

    def health(self, name: str) -> BackendHealth:
        """Of one that was started."""
        ...


class Backends:
    """All backends, of the coordinator's loop alone."""

    def __init__(self, table: BackendTable, clock: Clock, weights: Weights) -> None:
        self._table = table
        self._clock = clock
        self._weights = weights
        self._changing = asyncio.Lock()
        self._known: dict[str, RegisteredBackend] = {}
        self._runner: BackendRunner | None = None

    async def remember(self) -> None:
        """Read what the store has."""
        self._known = {backend.wish.name: backend for backend in await self._table.all()}
        for backend in self._known.values():
            self._weights.registered(backend.wish.name, backend.wish.weight)

    @asynccontextmanager
    async def run_by(self, runner: BackendRunner) -> AsyncGenerator[None]:
        """Have `runner` run all backends while the block runs; it ends them itself."""
        self._runner = runner
        for backend in self._known.values():
            runner.start(backend)
        try:
            yield
        finally:
            self._runner = None

    async def register(self, wish: NewBackend) -> Backend:
        """See `Cluster.register_backend`."""
        check_backend(wish)
        runner = self._attached()
        await runner.check(wish.url)
        async with self._changing:
            old = self._known.get(wish.name)
            if old is None and len(self._known) >= BACKENDS_LIMIT:
                raise InvalidRequest(f"there are {BACKENDS_LIMIT} backends already; unregister some")
            backend = RegisteredBackend(
                node_id=new_node_id() if old is None else old.node_id,
                wish=wish,
                created_unix_s=self._clock.unix_s(),
            )
            await self._table.save(backend)
            self._known[wish.name] = backend
            self._weights.registered(wish.name, wish.weight)
            if old is not None:
                await runner.stop(wish.name)
            runner.start(backend)
        log.info("backend %s registered: %s", wish.name, wish.url)
        return self._shown(backend)

    async def unregister(self, name: str) -> Backend:
        """See `Cluster.unregister_backend`."""
        runner = self._attached()
        async with self._changing:
            backend = self._known.get(name)
            if backend is None:
                raise NotFound(f"there is no backend {name[:64]!r}")
            shown = self._shown(backend)
            await self._table.forget(name)
            del self._known[name]
            self._weights.registered(name, None)
            await runner.stop(name)
        log.info("backend %s unregistered", name)
        return shown

    def list(self) -> tuple[Backend, ...]:
        """See `Cluster.backends`."""
        return tuple(self._shown(backend) for _, backend in sorted(self._known.items()))

    def _attached(self) -> BackendRunner:
        if self._runner is None:
            raise Unsupported("this coordinator runs no backends")
        return self._runner

    def _shown(self, backend: RegisteredBackend) -> Backend:
        idle = BackendHealth(state=BackendState.STARTING)
        return Backend(
            node_id=backend.node_id,
            name=backend.wish.name,
            url=backend.wish.url,
            model_type=backend.wish.model_type,
            slots=backend.wish.slots,
            created_unix_s=backend.created_unix_s,
            weight=backend.wish.weight,
            health=idle if self._runner is None else self._runner.health(backend.wish.name),
        )
