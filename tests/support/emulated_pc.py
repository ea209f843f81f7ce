"""A PC whose memory is emulated: engines that grow while they load, an out-of-memory killer that counts its kills."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from chorus_client.engines.base import Ending, LoadOptions, LoadProgress, Report
from chorus_client.footprint import Resident
from chorus_client.hardware import LiveReadings
from chorus_client.memory_gate import MemoryGate
from chorus_client.preflight import Reserve
from chorus_proto.catalogue import entry
from chorus_proto.errors import EngineFailed, InsufficientMemory
from chorus_proto.generation import Delta, Done, Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.sizing import DeviceKind, LoadShape, estimate
from chorus_proto.values import EngineKind, Gpu, Hardware, ModelFile

STEPS = 4
"""A load grows in so many steps."""

_CARD_RAM_BYTES = 64_000_000_000
_HOST_SHARE = 0.1
"""Of a model on a card, what its process shows in the host's memory."""


class EmulatedModel:
    """A loaded model of `size_bytes` (`LoadedModel`). It answers with one word, held back while `hold` is clear."""

    def __init__(self, pc: EmulatedPc, options: LoadOptions) -> None:
        self._pc = pc
        self.slots = options.slots
        self.context_tokens = options.context_tokens
        self.size_bytes = 0
        self.wanted_bytes = 0
        """What it will have once it is loaded."""
        self.hold = asyncio.Event()
        self.hold.set()
        self.closed: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.forced = False

    async def generate(self, generation: Generation) -> PieceBatches:
        await self.hold.wait()
        if self.closed.done():
            raise EngineFailed(self.closed.result().reason)
        yield [Delta("word")]
        yield [Done(finish_reason="stop", prompt_tokens=1, completion_tokens=1)]

    async def resident(self) -> Resident | None:
        share = _HOST_SHARE if self._pc.card else 1
        return Resident(total_bytes=int(share * self.size_bytes)) if self.size_bytes else None

    async def wait_closed(self) -> Ending:
        return await asyncio.shield(self.closed)

    async def unload(self, *, force: bool = False) -> None:
        self.forced = self.forced or force
        await asyncio.sleep(0)
        self.end(Ending(reason="it was unloaded"))

    def end(self, ending: Ending) -> None:
        self.size_bytes = self.wanted_bytes = 0
        self._pc.models.discard(self)
        if not self.closed.done():
            self.closed.set_result(ending)


class EmulatedPc:
    """An engine (`Engine`) and the readings (`read`) of one PC. `likes`: model name -> catalogue entry that it is like.

    `error`: how far off the predictions are, e.g. 0.08 for models that take up to 8 % more or less than predicted.
    `card`: the memory is that of a card, beside more than enough RAM.
    """

    def __init__(
        self, total_bytes: int, likes: dict[str, str], *, error: float = 0.0, seed: int = 1, card: bool = False
    ) -> None:
        self.total_bytes = total_bytes
        self.card = card
        self.device = DeviceKind.DISCRETE_GPU if card else DeviceKind.CPU
        self.others_bytes = 0
        self.kills = 0
        self.loads: list[ModelName] = []
        self.models: set[EmulatedModel] = set()
        self.latest: dict[ModelName, EmulatedModel] = {}
        self.most_bytes = 0
        self.die_while_loading = 0
        self.reading_steps = 0
        """So many turns of the loop a reading takes."""
        self.wavers: Callable[[], int] | None = None
        """What other programs hold at each reading."""
        self._likes = likes
        self._random = random.Random(seed)
        self._factors = {name: 1.0 + self._random.uniform(-error, error) for name in likes}

    @property
    def kind(self) -> EngineKind:
        return EngineKind.LLAMA_SERVER

    @property
    def used_bytes(self) -> int:
        return sum(model.size_bytes for model in self.models)

    @property
    def coming_bytes(self) -> int:
        """What loads on their way will still take."""
        return sum(model.wanted_bytes - model.size_bytes for model in self.models)

    async def read(self) -> LiveReadings:
        for _ in range(self.reading_steps):
            await asyncio.sleep(0)
        if self.wavers is not None:
            self.others_bytes = self.wavers()
        free_bytes = max(0, self.total_bytes - self.others_bytes - self.used_bytes)
        if self.card:
            return LiveReadings(ram_available_bytes=_CARD_RAM_BYTES, gpu_free_bytes=(free_bytes,))
        return LiveReadings(ram_available_bytes=free_bytes)

    async def inventory(self) -> list[ModelFile]:
        return [self.file(name) for name in self._likes]

    def file(self, name: str) -> ModelFile:
        known = entry(self._likes[name])
        assert known is not None
        return ModelFile(name=ModelName(name), file_bytes=known.file_bytes, engine=self.kind, shape=known.shape)

    def true_bytes(self, name: str, options: LoadOptions) -> int:
        """What the model really takes."""
        file = self.file(name)
        load = LoadShape(context_tokens=options.context_tokens, slots=options.slots)
        return int(estimate(file.shape, file.file_bytes, load, self.device).total_bytes * self._factors[name])

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> EmulatedModel:
        self.loads.append(model.name)
        wanted = self.true_bytes(model.name, options)
        loaded = EmulatedModel(self, options)
        loaded.wanted_bytes = wanted
        self.models.add(loaded)
        self.latest[model.name] = loaded
        try:
            for step in range(1, STEPS + 1):
                loaded.size_bytes = wanted * step // STEPS
                if self.die_while_loading:
                    self.die_while_loading -= 1
                    raise EngineFailed("it died while it loaded")
                if self.used_bytes + self.others_bytes > self.total_bytes:
                    self.kills += 1
                    raise InsufficientMemory("the system killed the engine")
                self.most_bytes = max(self.most_bytes, self.used_bytes)
                report(
                    LoadProgress(share=step / STEPS, detail="loading", resident=Resident(total_bytes=loaded.size_bytes))
                )
                await asyncio.sleep(0)
        except BaseException:
            loaded.end(Ending(reason="the load ended"))
            raise
        return loaded

    async def aclose(self) -> None:
        for model in list(self.models):
            model.end(Ending(reason="the end"))

    def gate(self, folder: Path, *, reserve_bytes: int = 0) -> MemoryGate:
        hardware = Hardware(os="linux", arch="x86_64", ram_bytes=self.total_bytes)
        if self.card:
            card = Gpu(name="card", memory_bytes=self.total_bytes, memory_free_bytes=self.total_bytes)
            hardware = replace(hardware, ram_bytes=_CARD_RAM_BYTES, gpus=(card,))
        reserve = Reserve(least_bytes=reserve_bytes, share=0.0)
        return MemoryGate(hardware, self, self.device, folder, reserve=reserve)
