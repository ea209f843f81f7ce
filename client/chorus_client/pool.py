"""The models on this PC: loads once however many ask, keeps warm copies, frees what nobody uses, counts the uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from chorus_client.engines.base import Engine, LoadedModel, LoadOptions
from chorus_client.eviction import UseLog
from chorus_client.idle_probe import ProbeLimits
from chorus_client.memory_gate import MemoryGate
from chorus_client.model_options import ModelOptions
from chorus_client.pooled_model import PooledModel
from chorus_client.restarts import RestartRules, Restarts
from chorus_client.room import MemoryRoom
from chorus_client.surroundings import Surroundings, Wish
from chorus_client.watchdog import WatchLimits
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, LoadFailed
from chorus_proto.generation import Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile, ReplicaReport, ReplicaState

log = logging.getLogger(__name__)

Tell = Callable[[ReplicaReport], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRules:
    """`room_within_s`: longest wait of a load for memory that models in use hold. `swap_after_s`: a model in use keeps
    its memory for so long before another one may wait for its last generations."""

    room_within_s: float = 300.0
    swap_after_s: float = 10.0
    look_every_s: float = 1.0
    restarts: RestartRules = field(default_factory=RestartRules)
    watch: WatchLimits = field(default_factory=WatchLimits)
    probe: ProbeLimits = field(default_factory=ProbeLimits)


class Pool:
    """Owns every loaded model of this agent. `tell` hears each change of a replica's state.

    `options`: what the PC's owner set for single models; it wins over what the coordinator orders.
    """

    def __init__(
        self,
        engines: Mapping[EngineKind, Engine],
        clock: Clock,
        tell: Tell,
        gate: MemoryGate,
        *,
        rules: PoolRules | None = None,
        options: Mapping[ModelName, ModelOptions] | None = None,
    ) -> None:
        self._engines = engines
        self._clock = clock
        self._gate = gate
        self._rules = rules or PoolRules()
        self._options = options or {}
        self._uses = UseLog()
        self._models: dict[ModelName, PooledModel] = {}
        self._restarts: dict[ModelName, Restarts] = {}
        self._files: dict[ModelName, ModelFile] = {}
        self._offered: dict[EngineKind, list[ModelFile]] = {}
        self._away: dict[EngineKind, str] = {}
        """Engines that did not answer when they were asked last, and why."""
        self._asking = asyncio.Lock()
        self._tell = tell
        self._closed = False
        room = MemoryRoom(
            gate,
            clock,
            self._uses,
            self._models.values,
            within_s=self._rules.room_within_s,
            swap_after_s=self._rules.swap_after_s,
        )
        self._around = Surroundings(
            engines=engines,
            clock=clock,
            gate=gate,
            file_of=lambda model: self._files.get(model),
            room=room,
            watch=self._rules.watch,
            probe=self._rules.probe,
            tell=self._told,
            changed=room.changed,
        )

    async def inventory(self) -> list[ModelFile]:
        """Every model that an engine here could load; the first engine that has a name keeps it.

        An engine that does not answer keeps what it offered last: a server that starts anew still has its models.
        """
        async with self._asking:  # else an older answer could come last
            for kind, engine in self._engines.items():
                try:
                    self._offered[kind] = await engine.inventory()
                    if self._away.pop(kind, None) is not None:
                        log.info("engine %s is back", kind)
                except ClusterError as error:
                    if self._away.get(kind) != error.message:
                        log.warning("engine %s: %s", kind, error.message)
                    self._away[kind] = error.message
            files: dict[ModelName, ModelFile] = {}
            for kind in self._engines:
                for file in self._offered.get(kind, []):
                    files.setdefault(file.name, file)
            self._files = files
            return list(files.values())

    def reports(self) -> tuple[ReplicaReport, ...]:
        return tuple(one.report for one in self._models.values())

    def preload(self) -> None:
        """Load what the PC's owner wants loaded from the start."""
        for model, options in self._options.items():
            if options.preload:
                self.load(model, LoadOptions())

    def load(
        self,
        model: ModelName,
        options: LoadOptions,
        *,
        keep_alive_s: float | None = None,
        adopted: bool = False,
        retry: bool = False,
    ) -> None:
        """Start loading, unless the model is here or on its way; the outcome is told. See `Wish`, `LoadOrder`."""
        if self._closed:
            return
        wish = self._wish(model, Wish(options=options, adopted=adopted, keep_alive_s=keep_alive_s))
        known = self._models.get(model)
        if known is not None and not known.gone.is_set():
            known.wish_again(wish, retry=retry)
            return
        if retry:
            self._restarts.pop(model, None)
            self._gate.allow(model)
        restarts = self._restarts.setdefault(model, Restarts(self._rules.restarts))
        self._models[model] = PooledModel(model, wish, restarts, self._around)
        self._models[model].start()

    def _wish(self, model: ModelName, asked: Wish) -> Wish:
        """What the owner set wins."""
        own = self._options.get(model)
        if own is None:
            return asked
        return replace(
            asked,
            options=LoadOptions(
                slots=own.slots or asked.options.slots,
                context_tokens=own.context_tokens or asked.options.context_tokens,
            ),
            pinned=own.pin or own.preload,
            keep_alive_s=asked.keep_alive_s if own.keep_alive_s is None else own.keep_alive_s,
        )

    def _told(self, report: ReplicaReport) -> None:
        if report.state is ReplicaState.GONE:
            self._models.pop(report.model, None)
        self._tell(report)

    def acquire(self, model: ModelName) -> Hold:
        """Use a loaded model; `with` the result. Raises LoadFailed when it is not loaded."""
        one = self._models.get(model)
        if one is None or one.loaded is None or one.state is not ReplicaState.READY:
            state = "not loaded" if one is None else one.state.value
            raise LoadFailed(f"model {model} is {state} on this PC")
        self._uses.record(model, self._clock.monotonic_s())
        return Hold(one, one.loaded)

    def unload(self, model: ModelName, *, drain_s: float) -> None:
        """Free a model once its running generations have ended, or after `drain_s` at the latest. The end is told."""
        one = self._models.get(model)
        if one is None:
            return
        if one.gone.is_set():
            self._told(replace(one.report, state=ReplicaState.GONE))
            return
        one.leave(drain_s=drain_s)

    def hung(self, model: ModelName, reason: str) -> None:
        """The model's engine stands still: it is ended by force and started again."""
        one = self._models.get(model)
        if one is not None:
            one.hung(reason)

    async def run(self) -> None:
        """Free what nobody has used for its time to live, until cancelled."""
        while True:
            await asyncio.sleep(self._rules.look_every_s)
            for one in list(self._models.values()):
                self._free_if_unused(one)

    def _free_if_unused(self, one: PooledModel) -> None:
        limit_s = one.wish.keep_alive_s
        if limit_s is None or one.wish.pinned or one.running or one.state is not ReplicaState.READY:
            return
        unused_s = self._clock.monotonic_s() - one.used_at_s
        if unused_s >= limit_s:
            one.leave(drain_s=0.0, detail=f"was not used for {unused_s:.0f} s")

    def models(self) -> list[PooledModel]:
        """Those in the pool now."""
        return list(self._models.values())

    def free_idle(self, reason: str) -> None:
        """Free every model that nothing runs on, but for those that the PC's owner keeps."""
        for one in list(self._models.values()):
            if one.state is ReplicaState.READY and not one.running and not (one.wish.adopted or one.wish.pinned):
                one.leave(drain_s=0.0, detail=f"makes way for the PC's owner: {reason}")

    def close_doors(self) -> None:
        """The agent stops: no model takes anything new, and none is loaded any more."""
        self._closed = True
        for one in self._models.values():
            one.close_doors("its agent stops")

    async def aclose(self) -> None:
        """Stop everything at once; for the end of the agent."""
        await asyncio.gather(*(one.aclose() for one in list(self._models.values())))
        self._models.clear()
        for engine in self._engines.values():
            await engine.aclose()


class Hold:
    """One generation's hold on a loaded model; an unload waits for it."""

    def __init__(self, model: PooledModel, loaded: LoadedModel) -> None:
        self._model = model
        self._loaded = loaded

    def generate(self, generation: Generation, *, learn: bool = True) -> PieceBatches:
        """See `PooledModel.generate`."""
        return self._model.generate(self._loaded, generation, learn=learn)

    def __enter__(self) -> Hold:
        self._model.began()
        return self

    def __exit__(self, *_: object) -> None:
        self._model.ended()
