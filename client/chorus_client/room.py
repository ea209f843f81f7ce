"""Finds the memory for a load among the models that are loaded: waits for busy ones, gives up those of least worth.

A model that was just loaded for somebody is not taken away before its first use, and a busy one not before it had
`swap_after_s`: two models that do not fit together take turns, and each turn serves whoever waited for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from chorus_client.engines.base import LoadOptions
from chorus_client.eviction import UseLog, WarmModel
from chorus_client.memory_gate import MemoryGate
from chorus_client.pooled_model import PooledModel
from chorus_client.preflight import Fit, Verdict
from chorus_proto.clock import Clock
from chorus_proto.errors import InsufficientMemory
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelFile, ReplicaState

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0
"""A model may become old enough to be taken, or another program may end, without anybody telling."""


class MemoryRoom:
    """`models` are those in the pool now; `changed` must be told when one is ready, idle or gone."""

    def __init__(
        self,
        gate: MemoryGate,
        clock: Clock,
        uses: UseLog,
        models: Callable[[], Iterable[PooledModel]],
        *,
        within_s: float,
        swap_after_s: float,
    ) -> None:
        self._gate = gate
        self._clock = clock
        self._uses = uses
        self._models = models
        self._within_s = within_s
        self._swap_after_s = swap_after_s
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def make(self, file: ModelFile, options: LoadOptions) -> Verdict | None:
        """See `surroundings.Room`."""
        verdict = await self._gate.weigh(file, options, self._idle(file.name))
        if verdict is None or verdict.fit is Fit.FITS:
            return verdict
        words = verdict.words
        try:
            async with asyncio.timeout(self._within_s), self._turn:
                while True:
                    self._changed.clear()
                    verdict = await self._gate.weigh(file, options, self._idle(file.name))
                    if verdict is None or verdict.fit is Fit.FITS:
                        return verdict
                    words = verdict.words
                    if verdict.fit is Fit.FITS_AFTER_EVICTING:
                        log.info("%s %s", file.name, words)
                        await self._evict(verdict.evict, file.name)
                        continue
                    await self._wait_for_busy(file, options)
        except TimeoutError:
            raise InsufficientMemory(
                f"{file.name} {words}; models in use did not end within {self._within_s:g} s"
            ) from None

    async def _evict(self, models: Sequence[ModelName], wanted: ModelName) -> None:
        """Free idle models and wait until they are gone; nothing when one is in use again since it was weighed."""
        leaving = [one for one in self._models() if one.model in models]
        if any(one.running or one.state is not ReplicaState.READY for one in leaving):
            return
        for one in leaving:
            one.leave(drain_s=0.0, detail=f"makes room for {wanted}", evicted_for=wanted)
        await asyncio.gather(*(one.gone.wait() for one in leaving))

    async def _wait_for_busy(self, file: ModelFile, options: LoadOptions) -> None:
        """Return once something may have changed. Raises InsufficientMemory when it would not even fit then."""
        verdict = await self._gate.weigh(file, options, self._all(file.name))
        if verdict is None or verdict.fit is not Fit.FITS_AFTER_EVICTING:
            if verdict is not None and verdict.fit is Fit.DOES_NOT_FIT:
                raise InsufficientMemory(f"{file.name} {verdict.words}")
            return
        victims = [one for one in self._models() if one.model in verdict.evict]
        due = [one for one in victims if one.running and one.loaded is not None and self._had_its_turn(one)]
        if due:
            log.info("%s waits for the last generations of %s", file.name, ", ".join(one.model for one in due))
            await asyncio.gather(*(self._drained(one, file.name) for one in due))
            return
        try:
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _drained(self, one: PooledModel, wanted: ModelName) -> None:
        if await one.drained(self._within_s):
            one.leave(drain_s=0.0, detail=f"makes room for {wanted}", evicted_for=wanted)
            await one.gone.wait()

    def _had_its_turn(self, one: PooledModel) -> bool:
        return self._clock.monotonic_s() - one.ready_at_s >= self._swap_after_s

    def _idle(self, wanted: ModelName) -> list[WarmModel]:
        """The loaded models as eviction weighs them now."""
        return [
            self._warm(one, running=one.running, pinned=one.uses == 0 and not self._had_its_turn(one))
            for one in self._models()
            if one.model != wanted and one.state is ReplicaState.READY
        ]

    def _all(self, wanted: ModelName) -> list[WarmModel]:
        """The same as if everything busy or on its way were idle: what could be had by waiting.

        A load that waits for memory itself has none to give.
        """
        return [
            self._warm(one, running=0, pinned=False)
            for one in self._models()
            if one.model != wanted and one.holds_memory
        ]

    def _warm(self, one: PooledModel, *, running: int, pinned: bool) -> WarmModel:
        report = one.report
        return WarmModel(
            model=report.model,
            resident_bytes=report.resident_bytes or report.expected_bytes or report.predicted_bytes or 0,
            uses=self._uses.value(report.model, self._clock.monotonic_s()),
            load_s=report.load_s or 1.0,
            running=running,
            pinned=pinned or report.kept,
        )
