"""Measures what a loaded model really takes, beside its life: nobody who waits for the model waits for that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from chorus_client.engines.base import LoadedModel
from chorus_client.footprint import Resident
from chorus_proto.errors import ClusterError
from chorus_proto.ids import ModelName

log = logging.getLogger(__name__)


class Measuring:
    """The measurements of one life. The one after the load may still run when the first use asks for another."""

    def __init__(self, model: ModelName) -> None:
        self._model = model
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"measure:{self._model}")
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("measuring %s broke", self._model, exc_info=error)

    async def end(self) -> None:
        """Its model goes: what is measured from now on would be another's."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def measured(loaded: LoadedModel) -> Resident | None:
    """What the model takes; None when its engine cannot say, which is no reason to lose the model."""
    try:
        return await loaded.resident()
    except ClusterError as error:
        log.warning("the memory of a loaded model cannot be measured: %s", error.message)
        return None
