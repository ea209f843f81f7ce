"""The models loaded on this PC: loads once however many ask, tells every change, counts who uses what."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from chorus_client.engines.base import Engine, LoadedModel, LoadOptions
from chorus_client.eviction import UseLog, WarmModel
from chorus_client.memory_gate import MemoryGate
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, InsufficientMemory, LoadFailed, ModelNotFound
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile, ReplicaReport, ReplicaState

log = logging.getLogger(__name__)

Tell = Callable[[ReplicaReport], None]


@dataclass(slots=True)
class _Entry:
    report: ReplicaReport
    loaded: LoadedModel | None = None
    running: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[None] | None = None


class Pool:
    """Owns every loaded model of this agent. `tell` hears each change of a replica's state."""

    def __init__(self, engines: Mapping[EngineKind, Engine], clock: Clock, tell: Tell, gate: MemoryGate) -> None:
        self._engines = engines
        self._clock = clock
        self._tell = tell
        self._gate = gate
        self._uses = UseLog()
        self._entries: dict[ModelName, _Entry] = {}
        self._files: dict[ModelName, ModelFile] = {}

    async def inventory(self) -> list[ModelFile]:
        """Every model that an engine here could load; the first engine that has a name keeps it."""
        files: dict[ModelName, ModelFile] = {}
        for engine in self._engines.values():
            try:
                for file in await engine.inventory():
                    files.setdefault(file.name, file)
            except ClusterError as error:
                log.warning("engine %s: %s", engine.kind, error.message)
        self._files = files
        return list(files.values())

    def reports(self) -> tuple[ReplicaReport, ...]:
        return tuple(entry.report for entry in self._entries.values())

    def load(self, model: ModelName, options: LoadOptions, *, kept: bool = False) -> None:
        """Start loading, unless the model is here or on its way. The outcome is told.

        `kept`: the PC's owner wants it, so the coordinator is told to leave it.
        """
        entry = self._entries.get(model)
        if entry is not None and entry.report.state is not ReplicaState.FAILED:
            self._tell(entry.report)
            return
        report = ReplicaReport(model=model, state=ReplicaState.LOADING, slots=options.slots, kept=kept)
        entry = _Entry(report)
        self._entries[model] = entry
        self._tell(report)
        entry.work = asyncio.create_task(self._load(entry, options), name=f"load:{model}")

    async def _load(self, entry: _Entry, options: LoadOptions) -> None:
        model = entry.report.model
        began_s = self._clock.monotonic_s()
        try:
            file = self._files.get(model)
            if file is None:
                raise ModelNotFound(f"model {model} is not on this PC")
            options = _bounded(options, file)
            predicted_bytes = self._gate.predicted_bytes(file, options)
            entry.report = replace(entry.report, engine=file.engine, predicted_bytes=predicted_bytes)
            loaded, resident_bytes = await self._load_with_room(entry, file, options)
        except ClusterError as error:
            self._change(entry, state=ReplicaState.FAILED, detail=error.message, failure_code=error.code, progress=None)
            return
        except Exception as error:
            # The supervisor of loads: whatever an engine's code does wrong, the agent lives and says so.
            log.exception("loading %s broke", model)
            self._change(entry, state=ReplicaState.FAILED, detail=f"internal error: {error!r}", progress=None)
            return
        entry.loaded = loaded
        entry.idle.set()
        self._change(
            entry,
            state=ReplicaState.READY,
            slots=loaded.slots,
            context_tokens=loaded.context_tokens,
            resident_bytes=resident_bytes,
            load_s=self._clock.monotonic_s() - began_s,
            progress=None,
            detail="",
        )
        entry.work = asyncio.create_task(self._watch(entry, loaded), name=f"watch:{model}")

    @staticmethod
    async def _measured(loaded: LoadedModel) -> int | None:
        """What the model takes; None when its engine cannot say, which is no reason to lose the model."""
        try:
            return await loaded.resident_bytes()
        except ClusterError as error:
            log.warning("the memory of a loaded model cannot be measured: %s", error.message)
            return None

    async def _load_with_room(
        self, entry: _Entry, file: ModelFile, options: LoadOptions
    ) -> tuple[LoadedModel, int | None]:
        """Load once the memory is there; the loaded model and its measured bytes. Raises ClusterError."""

        def progress(done: float | None, detail: str) -> None:
            self._change(entry, progress=done, detail=detail)

        if entry.report.kept:
            # A server of the owner's runs already, or its own start has judged the memory.
            loaded = await self._engines[file.engine].load(file, options, progress)
            return loaded, await self._measured(loaded)
        verdict = await self._gate.judge(file, options, self._warm(entry))
        try:
            if verdict is not None and verdict.evict:
                log.info("%s %s", file.name, verdict.words)
                await self._make_room(verdict.evict)
            loaded = await self._engines[file.engine].load(file, options, progress)
        except BaseException as error:
            await self._gate.failed(file, options, for_memory=isinstance(error, InsufficientMemory))
            raise
        resident_bytes = await self._measured(loaded)
        await self._gate.loaded(file, options, resident_bytes)
        return loaded, resident_bytes

    def _warm(self, wanted: _Entry) -> list[WarmModel]:
        """The other models that are loaded, as eviction weighs them."""
        now_s = self._clock.monotonic_s()
        return [
            WarmModel(
                model=entry.report.model,
                resident_bytes=entry.report.resident_bytes or entry.report.predicted_bytes or 0,
                uses=self._uses.value(entry.report.model, now_s),
                load_s=entry.report.load_s or 1.0,
                running=entry.running,
                pinned=entry.report.kept,
            )
            for entry in self._entries.values()
            if entry is not wanted and entry.report.state is ReplicaState.READY
        ]

    async def _make_room(self, models: Sequence[ModelName]) -> None:
        """Unload idle models and wait until they are gone."""
        for model in models:
            self.unload(model, drain_s=0)
        leaving = [entry.work for model in models if (entry := self._entries.get(model)) and entry.work is not None]
        await asyncio.gather(*leaving, return_exceptions=True)

    async def _watch(self, entry: _Entry, loaded: LoadedModel) -> None:
        """Report the death of an engine."""
        reason = await loaded.wait_closed()
        if entry.report.state is ReplicaState.READY:
            log.warning("%s stopped: %s", entry.report.model, reason)
            entry.loaded = None
            self._change(entry, state=ReplicaState.FAILED, detail=reason)
            await loaded.unload()

    def _change(self, entry: _Entry, **changes: object) -> None:
        entry.report = replace(entry.report, **changes)  # pyright: ignore[reportArgumentType]  # named fields, checked by replace
        self._tell(entry.report)

    def acquire(self, model: ModelName) -> Hold:
        """Use a loaded model; `with` the result. Raises LoadFailed when it is not loaded."""
        entry = self._entries.get(model)
        if entry is None or entry.loaded is None or entry.report.state is not ReplicaState.READY:
            state = "not loaded" if entry is None else entry.report.state.value
            raise LoadFailed(f"model {model} is {state} on this PC")
        self._uses.record(model, self._clock.monotonic_s())
        return Hold(entry, entry.loaded)

    def unload(self, model: ModelName, *, drain_s: float) -> None:
        """Free a model once its running generations have ended, or after `drain_s` at the latest. The end is told."""
        entry = self._entries.get(model)
        if entry is None or entry.report.state in (ReplicaState.UNLOADING, ReplicaState.LOADING):
            return
        self._change(entry, state=ReplicaState.UNLOADING)
        entry.work = asyncio.create_task(self._unload(entry, drain_s), name=f"unload:{model}")

    async def _unload(self, entry: _Entry, drain_s: float) -> None:
        try:
            async with asyncio.timeout(drain_s):
                await entry.idle.wait()
        except TimeoutError:
            log.warning("%s is unloaded while %d generations run", entry.report.model, entry.running)
        detail = ""
        try:
            if entry.loaded is not None:
                await entry.loaded.unload()
        except Exception as error:
            # The supervisor of unloads: an engine that cannot let go is said so, and the replica is gone all the same.
            log.exception("unloading %s broke", entry.report.model)
            detail = f"the engine did not confirm that it freed the model: {error!r}"
        del self._entries[entry.report.model]
        self._change(entry, state=ReplicaState.GONE, detail=detail)

    async def aclose(self) -> None:
        """Stop everything at once; for the end of the agent."""
        for entry in self._entries.values():
            if entry.work is not None:
                entry.work.cancel()
                await asyncio.gather(entry.work, return_exceptions=True)
            if entry.loaded is not None:
                await entry.loaded.unload()
        self._entries.clear()
        for engine in self._engines.values():
            await engine.aclose()


def _bounded(options: LoadOptions, file: ModelFile) -> LoadOptions:
    """A model cannot use more context than it was trained for; memory for it would be wasted."""
    trained = None if file.shape is None else file.shape.trained_context_tokens
    if not trained or options.context_tokens <= trained:
        return options
    return replace(options, context_tokens=trained)


class Hold:
    """One generation's hold on a loaded model; an unload waits for it."""

    def __init__(self, entry: _Entry, loaded: LoadedModel) -> None:
        self._entry = entry
        self.loaded = loaded

    def __enter__(self) -> LoadedModel:
        self._entry.running += 1
        self._entry.idle.clear()
        return self.loaded

    def __exit__(self, *_: object) -> None:
        self._entry.running -= 1
        if self._entry.running == 0:
            self._entry.idle.set()
