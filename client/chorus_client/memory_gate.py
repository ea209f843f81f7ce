"""The way into this PC's memory: no model is loaded here before its need was compared with what is free now.

Predict (`sizing`), compare (`preflight`), promise (`ledger`), measure after the load, and correct the next prediction
(`footprints`). The pool asks `weigh`, follows the verdict, and tells how the load ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from chorus_client.card_free import CardFree
from chorus_client.card_use import CardUse, Figures, fallen
from chorus_client.engine_parameters import RawParameter
from chorus_client.engines.base import LoadOptions
from chorus_client.eviction import WarmModel
from chorus_client.footprint import Resident
from chorus_client.footprints import LEAST_CORRECTION, MOST_CORRECTION, Footprints, LoadKey
from chorus_client.hardware import LiveReadings
from chorus_client.ledger import RAM, Ledger, Place, gpu_place
from chorus_client.load_shape import gpu_share, load_shape
from chorus_client.model_options import ModelOptions
from chorus_client.preflight import Fit, Memory, Need, Reserve, Verdict, preflight
from chorus_proto.errors import InsufficientMemory
from chorus_proto.ids import ModelName
from chorus_proto.sizing import DeviceKind, LoadShape, estimate
from chorus_proto.values import EngineKind, Hardware, ModelFile

log = logging.getLogger(__name__)

_MEASURE_THE_HOST = frozenset({EngineKind.LLAMA_SERVER, EngineKind.TRANSFORMERS, EngineKind.LOCAL_SERVERS})
"""Engines that measure their processes' share of the host's memory only; Ollama tells of RAM and cards together."""

_LEAST_PART = 0.05
"""Of what a load took: on a card where less is missing afterwards it has no layers, somebody else's window moved."""

_FREED_SHARE = 0.98
_FREED_POLLS = 20


class Readings(Protocol):
    """What is free now; `LiveReader` asks the system and the drivers."""

    async def read(self) -> LiveReadings: ...


class MemoryGate:
    """Judges loads on one PC and learns from them. `state_dir` keeps what was learnt.

    `options`: what the owner set for single models; their parameters change what a load needs. `freed_within_s`: how
    long a driver may take to show the memory of an engine that has ended.
    """

    def __init__(
        self,
        hardware: Hardware,
        readings: Readings,
        device: DeviceKind,
        state_dir: Path,
        *,
        reserve: Reserve,
        freed_within_s: float = 5.0,
        options: Mapping[ModelName, ModelOptions] | None = None,
    ) -> None:
        self._options = options or {}
        self._freed_within_s = freed_within_s
        self._hardware = hardware
        self._readings = readings
        self._device = device
        self._reserve = reserve
        self._ledger = Ledger()
        self._footprints = Footprints(state_dir)
        self._held: dict[ModelName, Resident] = {}
        self._cards = CardUse()
        self._card_free = CardFree()
        self._card_free.heard([gpu.memory_free_bytes for gpu in hardware.gpus])

    def predicted_bytes(self, file: ModelFile, options: LoadOptions) -> int | None:
        """What `sizing` says, uncorrected; None for a model that runs elsewhere or is of unknown shape."""
        if file.shape is None or file.file_bytes == 0:
            return None
        return estimate(file.shape, file.file_bytes, self._load(file, options), self._device, file.engine).total_bytes

    def _params(self, model: ModelName) -> Mapping[str, RawParameter]:
        own = self._options.get(model)
        return {} if own is None else own.params

    def _load(self, file: ModelFile, options: LoadOptions) -> LoadShape:
        return load_shape(self._params(file.name), context_tokens=options.context_tokens, slots=options.slots)

    def _key(self, file: ModelFile, options: LoadOptions) -> LoadKey:
        return LoadKey(
            model=file.name,
            engine=file.engine,
            context_tokens=options.context_tokens,
            slots=options.slots,
            params=" ".join(f"{name}={value}" for name, value in sorted(self._params(file.name).items())),
        )

    async def weigh(self, file: ModelFile, options: LoadOptions, warm: Sequence[WarmModel]) -> Verdict | None:
        """Compare a load's need with what is free now; None when it needs no memory here or its need is unknown.

        The memory of a load that fits is promised to it at once, until `loaded` or `failed`. Raises InsufficientMemory
        for a size that failed here before.
        """
        if file.shape is None or file.file_bytes == 0:
            return None
        load, key = self._load(file, options), self._key(file, options)
        predicted_bytes = estimate(file.shape, file.file_bytes, load, self._device, file.engine).total_bytes
        need = Need(
            model=file.name,
            shape=file.shape,
            file_bytes=file.file_bytes,
            load=load,
            device=self._device,
            engine=file.engine,
            gpu_share=gpu_share(self._params(file.name), file.shape.layers),
            correction=self._footprints.corrected(key, predicted_bytes) / predicted_bytes,
        )
        now = await self._read()
        verdict = preflight(need, self._memories(now), self._ledger, self._resident(warm), reserve=self._reserve)
        if verdict.free_bytes is not None:
            wanted_bytes = self._footprints.refused(key, predicted_bytes=predicted_bytes, free_bytes=verdict.free_bytes)
            if wanted_bytes is not None:
                raise InsufficientMemory(
                    f"{file.name} failed for lack of memory at this size before; it is tried again when "
                    f"{wanted_bytes / 1e9:.1f} GB are free"
                )
        if verdict.fit is Fit.FITS:
            self._ledger.reserve(file.name, verdict.needs)
            self._cards.begins(file.name, now.gpu_free_bytes)
        return verdict

    def grown(self, model: ModelName, resident: Resident) -> None:
        """A load on its way holds so much by now: that part of its promise is no longer free."""
        # Mapped pages still look available, so they stay promised; what a card holds only its driver knows.
        if self._device is not DeviceKind.DISCRETE_GPU:
            self._ledger.grown(model, RAM, resident.total_bytes - resident.mapped_bytes)

    async def loaded(self, file: ModelFile, options: LoadOptions, resident: Resident | None) -> int | None:
        """The load is complete; what it measured corrects the next prediction. See `measured` for what it returns."""
        told = (await self._readings.read()).gpu_free_bytes
        self._cards.ends(file.name, told)
        self._card_free.loaded(file.name, self._ledger.promised(file.name), told)
        self._ledger.commit(file.name)
        if not self._measured_on_cards(file):
            return await self.measured(file, options, resident)
        held_bytes = self._on_cards(file, options)
        if held_bytes is not None:
            await self._record(file, options, held_bytes)
        return held_bytes

    async def measured(self, file: ModelFile, options: LoadOptions, resident: Resident | None) -> int | None:
        """Bytes that a loaded model holds where it lies, after its load or after it was used; None: nobody can tell.

        `resident`: what its engine says. Of a model on a card that is the little it holds in the host's memory, so the
        figures of the card's driver from before and after the load count instead.
        """
        if self._measured_on_cards(file):
            return self._on_cards(file, options)
        if resident is None:
            return None
        self._held[file.name] = resident
        await self._record(file, options, resident.total_bytes)
        return resident.total_bytes

    def _measured_on_cards(self, file: ModelFile) -> bool:
        return self._device is DeviceKind.DISCRETE_GPU and file.engine in _MEASURE_THE_HOST and self._share(file) > 0

    def _on_cards(self, file: ModelFile, options: LoadOptions) -> int | None:
        """What the load took there; None for a part of a model, and for a figure that cannot be this load's."""
        held_bytes, predicted_bytes = self._cards.bytes_of(file.name), self.predicted_bytes(file, options)
        if held_bytes is None or predicted_bytes is None or self._share(file) < 1:
            return None
        # A game that was started or ended meanwhile shows in the drivers' figures too.
        return held_bytes if LEAST_CORRECTION <= held_bytes / predicted_bytes <= MOST_CORRECTION else None

    def _share(self, file: ModelFile) -> float:
        return gpu_share(self._params(file.name), 0 if file.shape is None else file.shape.layers)

    async def _record(self, file: ModelFile, options: LoadOptions, measured_bytes: int) -> None:
        predicted_bytes = self.predicted_bytes(file, options)
        if predicted_bytes is not None:
            await asyncio.to_thread(
                self._footprints.record,
                self._key(file, options),
                predicted_bytes=predicted_bytes,
                measured_bytes=measured_bytes,
            )

    async def failed(self, file: ModelFile, options: LoadOptions, *, for_memory: bool) -> None:
        """The load ended badly; one that failed for memory all the same is not tried again at that size."""
        self._ledger.release(file.name)
        self._cards.failed(file.name)
        predicted_bytes = self.predicted_bytes(file, options)
        if for_memory and predicted_bytes is not None:
            memories = self._memories(await self._read())
            free = [memory.free_bytes for memory in memories if memory.free_bytes is not None]
            await asyncio.to_thread(
                self._footprints.refuse, self._key(file, options), predicted_bytes=predicted_bytes, free_bytes=sum(free)
            )

    def allow(self, model: ModelName) -> None:
        """Somebody asked for another try: forget that the model failed for memory. Blocks for some milliseconds."""
        self._footprints.allow(model)

    async def free_now(self) -> Figures:
        """What is free on each GPU, to be compared by `freed` after an unload."""
        return (await self._read()).gpu_free_bytes

    async def freed(self, model: ModelName, before: Figures, left: Resident | None) -> str:
        """See after an unload that the memory is back: what is missing, in words; empty when all is.

        `before`: `free_now` before the unload. `left`: what the engine still holds of the model. A card must show what
        the load took, less 2 %; drivers free it some time after the process has ended.
        """
        taken = self._forget(model)
        if left is not None:
            return f"its engine still holds {left.total_bytes / 1e6:.0f} MB"
        short_bytes = 0
        for poll in range(_FREED_POLLS):
            now = await self.free_now()
            backs = (fallen(after, was) for was, after in zip(before, now, strict=False))
            short_bytes = sum(
                max(0, int(_FREED_SHARE * took) - back)
                for took, back in zip(taken, backs, strict=False)
                if took is not None and back is not None
            )
            if short_bytes == 0:
                return ""
            if poll + 1 < _FREED_POLLS:
                await asyncio.sleep(self._freed_within_s / _FREED_POLLS)
        log.warning("%s is unloaded, but %.0f MB of the graphics memory are not free again", model, short_bytes / 1e6)
        return f"{short_bytes / 1e6:.0f} MB of the graphics memory are not free again"

    def outstanding_bytes(self, place: Place) -> int:
        """Promised in `place` to loads that have not taken it yet."""
        return self._ledger.outstanding_bytes(place)

    def forget(self, model: ModelName) -> None:
        """It is gone, maybe before it was measured."""
        self._forget(model)

    def _forget(self, model: ModelName) -> Figures:
        """What it took of the cards."""
        self._ledger.release(model)
        self._held.pop(model, None)
        self._card_free.gone(model)
        return self._cards.gone(model)

    async def _read(self) -> LiveReadings:
        now = await self._readings.read()
        self._card_free.heard(now.gpu_free_bytes)
        return now

    def _memories(self, now: LiveReadings) -> list[Memory]:
        """RAM, and the cards whose driver tells or told; a hardware file that plays a smaller PC limits both."""
        total_bytes = self._hardware.ram_bytes
        memories: list[Memory] = []
        if total_bytes is not None:
            free_bytes = None
            if now.ram_available_bytes is not None:
                # Mapped pages of our models look available; taken from them, they would be read again and again.
                free_bytes = max(0, now.ram_available_bytes - self._in_ram(mapped=True))
                # A PC that plays a smaller one has no more than its part says.
                free_bytes = min(free_bytes, max(0, total_bytes - self._in_ram(mapped=False)))
            memories.append(
                Memory(
                    place=RAM,
                    total_bytes=total_bytes,
                    free_bytes=free_bytes,
                )
            )
        for index, gpu in enumerate(self._hardware.gpus):
            if gpu.memory_free_bytes is None or gpu.memory_bytes is None:
                continue
            place = gpu_place(index)
            memories.append(Memory(place=place, total_bytes=gpu.memory_bytes, free_bytes=self._card_free.on(place)))
        return memories

    def _in_ram(self, *, mapped: bool) -> int:
        """What our models hold there, all or only mapped pages; of a model on a card the pages are read once."""
        if self._device is DeviceKind.DISCRETE_GPU:
            return 0
        return sum(one.mapped_bytes if mapped else one.total_bytes for one in self._held.values())

    def _resident(self, warm: Sequence[WarmModel]) -> Mapping[Place, Sequence[WarmModel]]:
        """Where the loaded models lie: on the device of the engine's settings, unless a model's own say the RAM."""
        if self._device is not DeviceKind.DISCRETE_GPU:
            return {RAM: warm}
        found: dict[Place, list[WarmModel]] = {RAM: []}
        for one in warm:
            if gpu_share(self._params(one.model), 0) == 0:
                found[RAM].append(one)
                continue
            for place, size in self._split(one).items():
                found.setdefault(place, []).append(replace(one, resident_bytes=size))
        return found

    def _split(self, one: WarmModel) -> Mapping[Place, int]:
        """What a loaded model holds on each card, by what was missing there after its load.

        Of one whose load nobody saw in full, all lies on the first card that it was promised, else on the first.
        """
        taken = {gpu_place(index): took or 0 for index, took in enumerate(self._cards.by_card(one.model))}
        least = _LEAST_PART * sum(max(0, took) for took in taken.values())
        taken = {place: took for place, took in taken.items() if took > least}
        if taken:
            share = one.resident_bytes / sum(taken.values())
            return {place: round(share * took) for place, took in taken.items()}
        told = (gpu_place(index) for index, gpu in enumerate(self._hardware.gpus) if gpu.memory_free_bytes is not None)
        first = next(iter(self._card_free.cards_of(one.model)), None) or next(told, gpu_place(0))
        return {first: one.resident_bytes}
