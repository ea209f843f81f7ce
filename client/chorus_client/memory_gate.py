"""The way into this PC's memory: no model is loaded here before its need was compared with what is free now.

Predict (`sizing`), compare (`preflight`), promise (`ledger`), measure after the load, and correct the next prediction
(`footprints`). The pool asks `judge`, follows the verdict, and tells how the load ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus_client.engines.base import LoadOptions
from chorus_client.eviction import WarmModel
from chorus_client.footprints import Footprints, LoadKey
from chorus_client.hardware import LiveReader
from chorus_client.ledger import RAM, Ledger, Place, gpu_place
from chorus_client.preflight import Fit, Memory, Need, Reserve, Verdict, preflight
from chorus_proto.errors import InsufficientMemory
from chorus_proto.sizing import DeviceKind, LoadShape, estimate
from chorus_proto.values import Hardware, ModelFile

log = logging.getLogger(__name__)


class MemoryGate:
    """Judges loads on one PC and learns from them. `state_dir` keeps what was learnt."""

    def __init__(
        self, hardware: Hardware, readings: LiveReader, device: DeviceKind, state_dir: Path, *, reserve: Reserve
    ) -> None:
        self._hardware = hardware
        self._readings = readings
        self._device = device
        self._reserve = reserve
        self._ledger = Ledger()
        self._footprints = Footprints(state_dir)

    def predicted_bytes(self, file: ModelFile, options: LoadOptions) -> int | None:
        """What `sizing` says, uncorrected; None for a model that runs elsewhere or is of unknown shape."""
        if file.shape is None or file.file_bytes == 0:
            return None
        load = LoadShape(context_tokens=options.context_tokens, slots=options.slots)
        return estimate(file.shape, file.file_bytes, load, self._device).total_bytes

    async def judge(self, file: ModelFile, options: LoadOptions, warm: Sequence[WarmModel]) -> Verdict | None:
        """What may be done; None for a model that needs no memory here or whose need is unknown.

        The memory of a verdict that lets the load begin is promised to it until `loaded` or `failed`.
        Raises InsufficientMemory, with the arithmetic, when the model does not fit or failed at this size before.
        """
        if file.shape is None or file.file_bytes == 0:
            return None
        load = LoadShape(context_tokens=options.context_tokens, slots=options.slots)
        key = _key(file, options)
        predicted_bytes = estimate(file.shape, file.file_bytes, load, self._device).total_bytes
        need = Need(
            model=file.name,
            shape=file.shape,
            file_bytes=file.file_bytes,
            load=load,
            device=self._device,
            correction=self._footprints.corrected(key, predicted_bytes) / predicted_bytes,
        )
        memories = await self._memories()
        verdict = preflight(need, memories, self._ledger, self._resident(warm), reserve=self._reserve)
        if verdict.fit is Fit.DOES_NOT_FIT:
            raise InsufficientMemory(f"{file.name} {verdict.words}")
        wanted_bytes = None
        if verdict.free_bytes is not None:
            wanted_bytes = self._footprints.refused(key, predicted_bytes=predicted_bytes, free_bytes=verdict.free_bytes)
        if wanted_bytes is not None:
            raise InsufficientMemory(
                f"{file.name} failed for lack of memory at this size before; it is tried again when "
                f"{wanted_bytes / 1e9:.1f} GB are free"
            )
        self._ledger.reserve(file.name, verdict.needs)
        return verdict

    async def loaded(self, file: ModelFile, options: LoadOptions, measured_bytes: int | None) -> None:
        """The load is complete; what it measured corrects the next prediction."""
        self._ledger.commit(file.name)
        predicted_bytes = self.predicted_bytes(file, options)
        if measured_bytes is not None and predicted_bytes is not None:
            await asyncio.to_thread(
                self._footprints.record,
                _key(file, options),
                predicted_bytes=predicted_bytes,
                measured_bytes=measured_bytes,
            )

    async def failed(self, file: ModelFile, options: LoadOptions, *, for_memory: bool) -> None:
        """The load ended badly; one that failed for memory all the same is not tried again at that size."""
        self._ledger.release(file.name)
        predicted_bytes = self.predicted_bytes(file, options)
        if for_memory and predicted_bytes is not None:
            free = [memory.free_bytes for memory in await self._memories() if memory.free_bytes is not None]
            await asyncio.to_thread(
                self._footprints.refuse, _key(file, options), predicted_bytes=predicted_bytes, free_bytes=sum(free)
            )

    async def _memories(self) -> list[Memory]:
        """RAM, and the cards whose driver tells; a hardware file that plays a smaller PC limits both."""
        now = await self._readings.read()
        total_bytes = self._hardware.ram_bytes
        memories: list[Memory] = []
        if total_bytes is not None:
            free_bytes = now.ram_available_bytes
            memories.append(
                Memory(
                    place=RAM,
                    total_bytes=total_bytes,
                    free_bytes=None if free_bytes is None else min(free_bytes, total_bytes),
                )
            )
        told = iter(now.gpu_free_bytes)
        for index, gpu in enumerate(self._hardware.gpus):
            if gpu.memory_free_bytes is None or gpu.memory_bytes is None:
                continue
            memories.append(Memory(place=gpu_place(index), total_bytes=gpu.memory_bytes, free_bytes=next(told, None)))
        return memories

    def _resident(self, warm: Sequence[WarmModel]) -> Mapping[Place, Sequence[WarmModel]]:
        """Where the loaded models lie: all on the same kind of device, since one engine's settings serve them all."""
        if self._device is not DeviceKind.DISCRETE_GPU:
            return {RAM: warm}
        # With one card everything lies there; with several the driver's own figures decide, not this attribution.
        return {gpu_place(0): warm}


def _key(file: ModelFile, options: LoadOptions) -> LoadKey:
    return LoadKey(model=file.name, engine=file.engine, context_tokens=options.context_tokens, slots=options.slots)
