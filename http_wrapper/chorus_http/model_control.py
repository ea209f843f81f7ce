"""Models loaded and freed because a caller asks for it, and how far that is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Container

from chorus_http.model_status import LoadState, ModelStatus, status_of
from chorus_http.state import StateReader, find_model
from chorus_proto.cluster import Cluster
from chorus_proto.errors import CoordinatorUnavailable, DeadlineExceeded, LoadFailed, error_of
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelOrder, ReplicaState

_LOOK_EVERY_S = 0.1
_BEGINS_WITHIN_S = 10.0
"""An agent reports at once that it loads."""


class ModelControl:
    """The cluster's verbs under a time limit, and waiting for what came of a load."""

    def __init__(self, cluster: Cluster, states: StateReader, *, answer_within_s: float, load_within_s: float) -> None:
        self._cluster = cluster
        self._states = states
        self._answer_within_s = answer_within_s
        self._load_within_s = load_within_s

    async def load(self, model: str, *, node: str | None = None, keep_alive_s: float | None = None) -> ModelOrder:
        """Begin it. Raises what `Cluster.load_model` raises, and CoordinatorUnavailable."""
        try:
            async with asyncio.timeout(self._answer_within_s):
                return await self._cluster.load_model(model, node=node, keep_alive_s=keep_alive_s)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None

    async def unload(self, model: str, *, node: str | None = None) -> ModelOrder:
        """Begin it. Raises what `Cluster.unload_model` raises, and CoordinatorUnavailable."""
        try:
            async with asyncio.timeout(self._answer_within_s):
                return await self._cluster.unload_model(model, node=node)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None

    async def delete(self, model: str) -> ModelOrder:
        """Begin it. Raises what `Cluster.delete_model` raises, and CoordinatorUnavailable."""
        try:
            async with asyncio.timeout(self._answer_within_s):
                return await self._cluster.delete_model(model)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None

    async def alias(self, name: str, model: str) -> ModelName:
        """Raises what `Cluster.alias_model` raises, and CoordinatorUnavailable."""
        try:
            async with asyncio.timeout(self._answer_within_s):
                return await self._cluster.alias_model(name, model)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None

    async def status(self, model: str) -> ModelStatus:
        """Raises ModelNotFound and CoordinatorUnavailable."""
        state = await self._states.state()
        return status_of(state, find_model(state, model))

    async def watch(self, order: ModelOrder) -> AsyncGenerator[ModelStatus, None]:
        """How a load goes on the nodes that were told, whenever it changes; loaded or failed is the last.

        Raises LoadFailed when nothing begins, DeadlineExceeded, and what `status` raises.
        """
        told = {one.node_id: one for one in order.nodes}
        stale = {one.node_id for one in order.nodes if one.state is ReplicaState.FAILED}
        began_s = time.monotonic()
        before: ModelStatus | None = None
        while True:
            status = _on(await self.status(order.model), told)
            stale -= {copy.node_id for copy in status.nodes if copy.state is not LoadState.FAILED}
            waited_s = time.monotonic() - began_s
            nothing_yet = status.state is LoadState.UNLOADED or (
                # The report of an earlier load, until the agent takes the order.
                status.state is LoadState.FAILED and all(copy.node_id in stale for copy in status.nodes)
            )
            if not nothing_yet or waited_s > _BEGINS_WITHIN_S:
                if status != before:
                    yield status
                before = status
                if status.state in (LoadState.LOADED, LoadState.FAILED):
                    return
                if status.state is LoadState.UNLOADED:
                    raise LoadFailed(f"{order.model} did not begin to load; GET /status shows what goes on.")
            if waited_s > self._load_within_s:
                raise DeadlineExceeded(f"{order.model} still loads after {waited_s:.0f} s.")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def progress(self, model: str) -> AsyncGenerator[ModelStatus, None]:
        """How the model is now, and each change until nothing more comes by itself.

        Raises DeadlineExceeded and what `status` raises.
        """
        began_s = time.monotonic()
        before: ModelStatus | None = None
        while before is None or not before.is_settled:
            status = await self.status(model)
            if status != before:
                yield status
            before = status
            if time.monotonic() - began_s > self._load_within_s:
                raise DeadlineExceeded(f"{status.model} is still {status.state} after {self._load_within_s:g} s.")
            if not status.is_settled:
                await asyncio.sleep(_LOOK_EVERY_S)

    async def until_loaded(self, order: ModelOrder) -> None:
        """Return once one of the nodes serves the model. Raises why none does, and what `watch` raises."""
        async for status in self.watch(order):
            if status.error is not None:
                raise error_of(status.error.code, status.error.message or "The load failed.")


def _on(status: ModelStatus, node_ids: Container[str]) -> ModelStatus:
    """The same, of these nodes alone."""
    copies = tuple(copy for copy in status.nodes if copy.node_id in node_ids)
    best = copies[0] if copies else None
    return ModelStatus(
        model=status.model,
        state=LoadState.UNLOADED if best is None else best.state,
        progress=None if best is None else best.progress,
        expected_s=None if best is None else best.expected_s,
        detail="" if best is None else best.detail,
        error=None if best is None else best.error,
        nodes=copies,
        on_disk_at=status.on_disk_at,
    )
