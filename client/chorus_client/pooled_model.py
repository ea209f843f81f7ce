"""One model in the pool, from the wish for it until it is gone: loaded, served, restarted after a crash, let go.

Its task is the only one that loads and unloads; everybody else sets a wish (`leave`, `hung`) and watches the report.
Longer than other files, because all that changes the one report stands together.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial

from chorus_client.engines.base import CHILD_ENGINES, Ending, LoadedModel, LoadProgress
from chorus_client.idle_probe import probe_when_idle
from chorus_client.load_shape import whole_options
from chorus_client.measuring import Measuring, measured
from chorus_client.restarts import NextStart, Restarts
from chorus_client.speed_record import SpeedRecord
from chorus_client.supervisor import LifeEnd, Supervisor
from chorus_client.surroundings import Surroundings, Wish
from chorus_client.watchdog import SharedEngine, Watchdog
from chorus_client.watched import prompt_tokens_about, watched
from chorus_proto.errors import (
    ClusterError,
    CrashLoop,
    EngineFailed,
    InsufficientMemory,
    InternalError,
    ModelDamaged,
    ModelNotFound,
)
from chorus_proto.generation import Done, Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelFile, ReplicaReport, ReplicaState

log = logging.getLogger(__name__)

_NOT_MENDED_BY_TRYING = (InsufficientMemory, ModelDamaged, ModelNotFound)

MEASURED_AFTER_USES = (1, 8, 64)
"""Buffers grow with the first generations, so the footprint is measured again after these."""


class PooledModel:
    """Create it, then `start`. `gone` is set once it holds nothing any more and will not come back."""

    def __init__(self, model: ModelName, wish: Wish, restarts: Restarts, around: Surroundings) -> None:
        self._around = around
        self._supervisor: Supervisor[LifeEnd] = Supervisor(restarts, around.clock, probes=True)
        self.wish = wish
        self.report = ReplicaReport(
            model=model,
            state=ReplicaState.LOADING,
            slots=wish.options.slots,
            kept=wish.adopted or wish.pinned,
            keep_alive_s=wish.keep_alive_s,
        )
        self.loaded: LoadedModel | None = None
        self.running = 0
        self.uses = 0
        """Since it was loaded."""
        self.ready_at_s = 0.0
        self.used_at_s = 0.0
        self.gone = asyncio.Event()
        self.engine = SharedEngine()
        """What its generations' watchdogs share; new with each life."""
        self.speed = SpeedRecord()
        self._crowds = 0
        """How often a generation began beside another one."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._hung: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._drain_s = 0.0
        self._came_up = False
        self._letting_go = False
        """Its life has ended and its engine is being ended: nothing may cut that short."""
        self.holds_memory = False
        """Or was promised it: from the moment at which its load begins until its engine is gone."""
        self._doors_closed = ""
        self._task: asyncio.Task[None] | None = None
        self._error: ClusterError | None = None
        self._measuring = Measuring(model)

    @property
    def model(self) -> ModelName:
        return self.report.model

    @property
    def state(self) -> ReplicaState:
        return self.report.state

    def start(self) -> None:
        self._around.tell(self.report)
        self._task = asyncio.create_task(self._live(), name=f"model:{self.model}")
        self._task.add_done_callback(self._over)

    # Wishes -------------------------------------------------------------------------------------------------------

    def wish_again(self, wish: Wish, *, retry: bool) -> None:
        """It is wanted once more, maybe to be kept for another time. `retry`: forget its crashes."""
        self.wish = replace(self.wish, keep_alive_s=wish.keep_alive_s, pinned=self.wish.pinned or wish.pinned)
        self.used_at_s = self._around.clock.monotonic_s()
        if retry:
            self._supervisor.retry_now()
        self._change(keep_alive_s=self.wish.keep_alive_s, kept=self.wish.adopted or self.wish.pinned)

    def hung(self, reason: str) -> None:
        """Its engine stands still: it is ended by force and started again."""
        self._end_engine(f"{self.model} hangs: {reason}")

    def restart(self, reason: str) -> None:
        """Its engine is to be ended, with whatever runs on it, and started again."""
        self._end_engine(f"{self.model} is started again: {reason}")

    def _end_engine(self, reason: str) -> None:
        if self.state in (ReplicaState.READY, ReplicaState.UNLOADING) and not self._hung.done():
            self._hung.set_result(reason)

    def degraded(self, tokens_per_s: float, record: float) -> None:
        """It was measured to be far slower than before."""
        words = f"degraded: {tokens_per_s:.1f} tokens/s, {record:.1f} before"
        self._change(degraded=True, decode_tokens_per_s=tokens_per_s, detail=words)

    def recovered(self) -> None:
        """It is as fast as it was."""
        self._change(degraded=False, decode_tokens_per_s=None, detail="")

    def leave(self, *, drain_s: float, detail: str = "", evicted_for: ModelName | None = None) -> None:
        """Free it once its generations have ended, after `drain_s` at the latest. A load on its way is given up."""
        if self._leave.is_set():
            return
        self._drain_s = drain_s
        self._leave.set()
        self._change(state=ReplicaState.UNLOADING, detail=detail, evicted_for=evicted_for, progress=None)
        if self.loaded is None and not self._letting_go and self._task is not None:
            self._task.cancel()

    def close_doors(self, detail: str) -> None:
        """Take nothing new from now on, not after a load or restart either; what runs goes on."""
        self._doors_closed = detail
        if self.state is ReplicaState.READY:
            self._change(state=ReplicaState.UNLOADING, detail=detail)

    async def drained(self, within_s: float) -> bool:
        """Take nothing new and wait for what runs; False, and open again, when that took too long or was given up.

        After True the caller makes it `leave`, before anything else happens.
        """
        loaded = self.loaded
        if loaded is None:
            return False
        self._change(state=ReplicaState.UNLOADING, detail="waits for its last generations")
        over = False
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
            over = True
        except TimeoutError:
            return False
        finally:
            if not over and self.loaded is loaded and not self._leave.is_set():
                self._open()
        return True

    def _open(self, **more: object) -> None:
        """Take generations, unless it is to leave."""
        closed = self._leave.is_set() or bool(self._doors_closed)
        state = ReplicaState.UNLOADING if closed else ReplicaState.READY
        self._change(state=state, detail=self._doors_closed, **more)

    # Uses ---------------------------------------------------------------------------------------------------------

    def began(self) -> None:
        """One generation more."""
        self.running += 1
        self._crowds += self.running > 1
        self.uses += 1
        self.used_at_s = self._around.clock.monotonic_s()
        self._idle.clear()

    def ended(self) -> None:
        self.running -= 1
        self.used_at_s = self._around.clock.monotonic_s()
        if self.running == 0:
            self._idle.set()
            self._around.changed()
            if self.uses in MEASURED_AFTER_USES and self.loaded is not None:
                self._measuring.start(self._measure_again(self.loaded))

    async def _measure_again(self, loaded: LoadedModel) -> None:
        resident = await measured(loaded)
        file = self._around.file_of(self.model)
        if resident is None or file is None or self.loaded is not loaded:
            return
        held_bytes = await self._around.gate.measured(file, self.wish.options, resident)
        if self.loaded is loaded:
            self._change(resident_bytes=held_bytes)

    # Its life -----------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        self._error = (await self._supervisor.run(self._one_life, self._pause)).end.error

    def _over(self, task: asyncio.Task[None]) -> None:
        """Its task has ended, maybe before it began."""
        broke = None if task.cancelled() else task.exception()
        if broke is not None:
            log.error("keeping %s broke", self.model, exc_info=broke)
            self._error = InternalError(f"internal error: {broke!r}")
        if self._leave.is_set():
            self._change(state=ReplicaState.GONE)
        elif self._error is not None:
            self._failed(self._error)
        self.gone.set()
        self._around.changed()

    def _pause(self, end: LifeEnd, following: NextStart) -> None:
        """Between two lives."""
        if following.crash_loop:
            error = CrashLoop(
                f"{self.model} failed {following.crashes} times; next try in {following.after_s / 60:.0f} min. "
                f"{end.error.message}"
            )
            self._failed(error)
            return
        log.warning("%s; started again in %.1f s", end.error.message, following.after_s)
        self._change(
            state=ReplicaState.LOADING,
            detail=f"{end.error.message}; starts again in {following.after_s:.0f} s",
            progress=None,
            resident_bytes=None,
            restarts=following.crashes,
        )

    def _failed(self, error: ClusterError) -> None:
        self._change(
            state=ReplicaState.FAILED,
            detail=error.message,
            failure_code=error.code,
            progress=None,
            resident_bytes=None,
        )

    async def _one_life(self) -> LifeEnd:
        began_s = self._around.clock.monotonic_s()
        if self.state is not ReplicaState.LOADING:
            self._change(state=ReplicaState.LOADING, failure_code="")
        try:
            loaded, file = await self._load()
        except _NOT_MENDED_BY_TRYING as error:
            return LifeEnd(error=error, final=True, counts=False)
        except ClusterError as error:
            # What never ran here yet is for the coordinator to try elsewhere.
            return LifeEnd(error=error, final=not self._came_up or self.wish.adopted)
        except Exception as error:
            # The supervisor's edge: whatever an engine's code does wrong, the agent lives and says so.
            log.exception("loading %s broke", self.model)
            return LifeEnd(error=InternalError(f"internal error: {error!r}"), final=True)
        self.loaded = loaded
        self.uses = 0
        self.engine = SharedEngine()
        self._came_up = True
        self.ready_at_s = self.used_at_s = self._around.clock.monotonic_s()
        self._supervisor.came_up()
        self._hung = asyncio.get_running_loop().create_future()
        self._open(
            slots=loaded.slots,
            context_tokens=loaded.context_tokens,
            resident_bytes=None,
            load_s=self.ready_at_s - began_s,
            progress=None,
        )
        self._around.changed()
        # Who waits for the model need not wait for its measurement.
        self._measuring.start(self._measure(loaded, file))
        return await self._serve(loaded)

    async def _measure(self, loaded: LoadedModel, file: ModelFile) -> None:
        """Until then the memory stays promised to the load."""
        resident = await measured(loaded)
        told = self._around.gate.measured if self.wish.adopted else self._around.gate.loaded
        held_bytes = await told(file, self.wish.options, resident)
        if held_bytes is not None and self.loaded is loaded:
            self._change(resident_bytes=held_bytes)
            self._around.changed()

    async def _load(self) -> tuple[LoadedModel, ModelFile]:
        """Once the memory is there. Raises ClusterError."""
        around, model = self._around, self.model
        file = around.file_of(model)
        if file is None:
            raise ModelNotFound(f"model {model} is not on this PC")
        options = self.wish.options if self.wish.adopted else whole_options(self.wish.options, file)
        self.wish = replace(self.wish, options=options)
        engine = around.engines[file.engine]
        self._note(engine=file.engine, predicted_bytes=around.gate.predicted_bytes(file, options))
        if self.wish.adopted:
            # A server of the owner's runs already, or its own start has judged the memory.
            return await engine.load(file, options, self._progress), file
        try:
            verdict = await around.room.make(file, options)
        except BaseException:
            # Maybe it was promised memory that was gone again at the next look.
            around.gate.forget(self.model)
            raise
        self.holds_memory = True
        if verdict is not None:
            self._note(expected_bytes=verdict.needed_bytes, arithmetic=verdict.words)
        try:
            return await engine.load(file, options, self._progress), file
        except BaseException as error:
            self.holds_memory = False
            await around.gate.failed(file, options, for_memory=isinstance(error, InsufficientMemory))
            raise

    def _progress(self, progress: LoadProgress) -> None:
        if progress.resident is not None:
            self._around.gate.grown(self.model, progress.resident)
        self._change(progress=progress.share, detail=progress.detail)

    async def _serve(self, loaded: LoadedModel) -> LifeEnd:
        """Until the engine dies, hangs, or the model is told to leave and has done so."""
        closed = asyncio.create_task(loaded.wait_closed(), name=f"watch:{self.model}")
        leaving = asyncio.create_task(self._drain(), name=f"drain:{self.model}")
        probing = asyncio.create_task(self._probe(loaded), name=f"probe:{self.model}")
        ending: Ending | None = None
        try:
            await asyncio.wait((closed, leaving, self._hung), return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                ending = closed.result()
            elif self._hung.done():
                ending = Ending(reason=self._hung.result())
        finally:
            self.loaded = None
            self._letting_go = True
            for task in (closed, leaving, probing):
                task.cancel()
            await asyncio.gather(closed, leaving, probing, return_exceptions=True)
            await self._measuring.end()
            detail = await self._let_go(loaded, force=ending is not None)
        if self._leave.is_set():
            self._note(detail="; ".join(words for words in (self.report.detail, detail) if words))
            return LifeEnd(error=EngineFailed(f"{self.model} was unloaded"), counts=False)
        assert ending is not None, "nothing else ends the wait"
        log.warning("%s", ending.reason)
        if ending.for_memory:
            return await self._out_of_memory(ending)
        return LifeEnd(error=EngineFailed(ending.reason), final=self.wish.adopted)

    async def _probe(self, loaded: LoadedModel) -> None:
        """An engine of ours that wedged while nobody used it is found before its next caller."""
        file = self._around.file_of(self.model)
        if self.is_child and file is not None and not file.embedding:
            await probe_when_idle(loaded, self._around.probe, idle_s=self._idle_s, on_hung=self.hung)

    def _idle_s(self) -> float:
        return 0.0 if self.running else self._around.clock.monotonic_s() - self.used_at_s

    @property
    def is_child(self) -> bool:
        """Its engine is a process of ours, which may be ended and started again."""
        return not self.wish.adopted and self.report.engine in CHILD_ENGINES

    def generate(self, loaded: LoadedModel, generation: Generation, *, learn: bool = True) -> PieceBatches:
        """What `LoadedModel.generate` says, under a watchdog; an engine of ours that hangs is started again.

        `learn`: its speed becomes part of the record.
        """
        clock, limits = self._around.clock, self._around.watch
        on_hung = self.hung
        if not self.is_child:
            # Somebody else's server may load the model first, or serve others; only this answer is given up.
            limits = replace(limits, first_s=limits.first_cap_s)
            on_hung = self._hung_elsewhere
        dog = Watchdog(clock.monotonic_s(), prompt_tokens_about(generation), self.engine, limits)
        on_done = partial(self._learn_speed, self._crowds) if learn and self.running == 1 else None
        return watched(loaded.generate(generation), dog, clock, on_hung, on_done)

    def _learn_speed(self, crowds_before: int, done: Done) -> None:
        """A generation that began alone is over."""
        if crowds_before != self._crowds:
            return
        if not self.report.degraded:
            self.speed.learn(done)
        elif self.speed.is_back(done):
            self.recovered()

    def _hung_elsewhere(self, reason: str) -> None:
        log.warning("%s: %s", self.model, reason)

    async def _drain(self) -> None:
        await self._leave.wait()
        try:
            async with asyncio.timeout(self._drain_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%s is unloaded while %d generations run", self.model, self.running)

    async def _let_go(self, loaded: LoadedModel, *, force: bool) -> str:
        """Free it and see that the memory is back; what went wrong, in words."""
        gate = self._around.gate
        try:
            before = await gate.free_now()
            await loaded.unload(force=force)
            return await gate.freed(self.model, before, await measured(loaded))
        except Exception as error:
            # The supervisor's edge: an engine that cannot let go is said so, and the replica is gone all the same.
            log.exception("unloading %s broke", self.model)
            gate.forget(self.model)
            return f"the engine did not confirm that it freed the model: {error!r}"
        finally:
            self._letting_go = self.holds_memory = False

    async def _out_of_memory(self, ending: Ending) -> LifeEnd:
        """Its memory grew past what there is: the next life has half the slots, and never this size again."""
        around, options = self._around, self.wish.options
        file = around.file_of(self.model)
        slots = self.report.slots
        if file is not None:
            await around.gate.failed(file, replace(options, slots=slots), for_memory=True)
        if slots <= 1 or self.wish.adopted:
            return LifeEnd(error=InsufficientMemory(ending.reason), final=True, counts=False)
        self.wish = replace(self.wish, options=replace(options, slots=slots // 2))
        return LifeEnd(error=EngineFailed(f"{ending.reason}; it goes on with {slots // 2} slots"))

    def _change(self, **changes: object) -> None:
        self._note(**changes)
        self._around.tell(self.report)

    def _note(self, **changes: object) -> None:
        """For the next report."""
        self.report = replace(self.report, **changes)  # pyright: ignore[reportArgumentType]  # named fields, checked by replace

    async def aclose(self) -> None:
        """Free it at once, without words: the end of the agent."""
        if self._task is not None:
            if self._letting_go:
                self._leave.set()  # no other life follows
            else:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
