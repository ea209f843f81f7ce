"""An engine inside the test's process: says what it is told, loads when it is let, dies on command."""

from __future__ import annotations

import asyncio

from chorus_client.engines.base import Ending, LoadedModel, LoadOptions, LoadProgress, Report
from chorus_client.footprint import Resident
from chorus_client.thinking.select import style_of
from chorus_proto.errors import EngineFailed, InsufficientMemory, LoadFailed
from chorus_proto.generation import Delta, Done, Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile


class FakeLoaded:
    """Says the prompt's words back, one delta each; stops before word `words_before_hold` while `hold` is clear."""

    def __init__(self, options: LoadOptions, engine: FakeEngine) -> None:
        self._engine = engine
        self.slots = options.slots
        self.context_tokens = options.context_tokens
        self.words_before_hold = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.closed = asyncio.Event()
        self.unloads = 0
        self.forced = False
        self.generating = 0
        self.texts_per_s = 1e9
        """How fast it makes vectors, each of one number: the length of the text."""
        self._one_at_a_time = asyncio.Lock()

    async def generate(self, generation: Generation) -> PieceBatches:
        if generation.inputs is not None:
            async with self._one_at_a_time:
                await asyncio.sleep(len(generation.inputs) / self.texts_per_s)
            for text in generation.inputs:
                yield [Delta(f"[{len(text)}]\n", 0)]
            yield [Done(finish_reason="stop", prompt_tokens=len(generation.inputs))]
            return
        asked = generation.messages[-1].content if generation.messages else generation.prompt or ""
        words = asked.split()
        self.generating += 1
        try:
            for number, word in enumerate(words):
                if number >= self.words_before_hold:
                    await self.hold.wait()
                if self.closed.is_set():
                    raise EngineFailed("the engine is gone")
                yield [Delta(word)]
            yield [Done(finish_reason="stop", prompt_tokens=len(words), completion_tokens=len(words))]
        finally:
            self.generating -= 1

    async def resident(self) -> Resident | None:
        if self._engine.blind:
            raise EngineFailed("cannot tell")
        return None if self.closed.is_set() else Resident(total_bytes=1_000_000)

    async def wait_closed(self) -> Ending:
        await self.closed.wait()
        return Ending(reason="it was switched off")

    async def unload(self, *, force: bool = False) -> None:
        self.unloads += 1
        self.forced = force
        if self._engine.clings:
            raise EngineFailed("did not answer")
        self.closed.set()


class FakeEngine:
    """`gate` holds loads back until a test sets it; `refusal` makes them fail."""

    def __init__(self, *names: str) -> None:
        self.names = names or ("echo",)
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: str | None = None
        self.loads: list[FakeLoaded] = []
        self.too_big = False
        self.blind = False
        self.clings = False
        self.closed = False

    @property
    def kind(self) -> EngineKind:
        return EngineKind.SCRIPTED

    async def inventory(self) -> list[ModelFile]:
        return [
            ModelFile(name=ModelName(name), file_bytes=1, engine=self.kind, thinking=style_of(name=name))
            for name in self.names
        ]

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> LoadedModel:
        report(LoadProgress(share=0.5, detail=f"reading {model.name}"))
        await self.gate.wait()
        if self.refusal is not None:
            raise LoadFailed(self.refusal)
        if self.too_big:
            raise InsufficientMemory("needs 9 GB; free 8")
        loaded = FakeLoaded(options, self)
        self.loads.append(loaded)
        return loaded

    async def aclose(self) -> None:
        self.closed = True
