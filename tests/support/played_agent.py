"""A node whose agent the test's clock drives: it makes room as real agents do, loads, answers, frees warm copies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from chorus_proto import node_pb2
from chorus_proto.clock import Clock
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ReplicaReport, ReplicaState
from chorus_server.coordinator import Coordinator
from tests.support.fake_node import STRONG, FakeNode, file_of, hello_of

BUSY_STAYS_S = 10.0
"""A busy model is drained for another one only after it has been ready for this long."""


@dataclass(slots=True)
class _Model:
    keep_alive_s: float | None
    state: ReplicaState = ReplicaState.LOADING
    changed_s: float = 0.0
    used_s: float = 0.0
    evicted_for: ModelName | None = None
    running: int = 0


class PlayedAgent(FakeNode):
    """Call `tick` after each step of the clock. `most_bytes` is the most that was ever loaded at once."""

    def __init__(
        self,
        coordinator: Coordinator,
        clock: Clock,
        name: str,
        *,
        sizes: Mapping[str, int],
        memory_bytes: int,
        load_s: float = 4.0,
        answer_s: float = 3.0,
    ) -> None:
        models = [file_of(model, size) for model, size in sizes.items()]
        hardware = replace(STRONG, ram_bytes=memory_bytes, ram_available_bytes=memory_bytes)
        super().__init__(coordinator, clock, name, hello=hello_of(name, models=models, hardware=hardware))
        self._clock = clock
        self._sizes = {ModelName(model): size for model, size in sizes.items()}
        self._memory_bytes = memory_bytes
        self._load_s = load_s
        self._answer_s = answer_s
        self._models: dict[ModelName, _Model] = {}
        self._answers: list[tuple[float, int, ModelName]] = []
        self._beats = 0
        self.orders: list[str] = []
        self.most_bytes = 0
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for batch in self.link.outbox.batches():
            for frame in batch:
                self._obey(frame)

    def _obey(self, frame: node_pb2.CoordinatorFrame) -> None:
        match frame.WhichOneof("kind"):
            case "load":
                model = ModelName(frame.load.model)
                self.orders.append(model)
                known = self._models.get(model)
                keep_alive_s = frame.load.keep_alive_s if frame.load.HasField("keep_alive_s") else None
                if known is None:
                    # changed_s < 0: waits for its memory.
                    self._models[model] = _Model(keep_alive_s, changed_s=-1)
                    self._tell(model)
                elif known.state is not ReplicaState.UNLOADING:
                    known.keep_alive_s = keep_alive_s
                    self._tell(model)
            case "unload":
                self._leave(ModelName(frame.unload.model), None)
            case "execute":
                model = ModelName(frame.execute.model)
                assert self._models[model].state is ReplicaState.READY, "nothing runs on what is not ready"
                self._models[model].running += 1
                self._answers.append((self._clock.monotonic_s() + self._answer_s, frame.execute.execution_id, model))
            case _:
                pass

    def _tell(self, model: ModelName) -> None:
        one = self._models[model]
        report = ReplicaReport(
            model=model,
            state=one.state,
            slots=2,
            engine=EngineKind.SCRIPTED,
            keep_alive_s=one.keep_alive_s,
            evicted_for=one.evicted_for if one.state is ReplicaState.GONE else None,
            resident_bytes=self._sizes[model] if one.state is ReplicaState.READY else None,
            expected_bytes=self._sizes[model],
        )
        self._coordinator.replica_reported(self.record, report)

    def _change(self, model: ModelName, state: ReplicaState) -> None:
        one = self._models[model]
        one.state, one.changed_s = state, self._clock.monotonic_s()
        one.used_s = one.changed_s
        self._tell(model)

    def _leave(self, model: ModelName, newcomer: ModelName | None) -> None:
        self._models[model].evicted_for = newcomer
        self._change(model, ReplicaState.UNLOADING)

    @property
    def _held_bytes(self) -> int:
        return sum(self._sizes[model] for model, one in self._models.items() if one.changed_s >= 0)

    def tick(self) -> None:
        now_s = self._clock.monotonic_s()
        for due_s, execution_id, model in list(self._answers):
            if due_s <= now_s:
                self._answers.remove((due_s, execution_id, model))
                self._models[model].running -= 1
                self._models[model].used_s = now_s
                self.finish(execution_id, model)
        for model, one in list(self._models.items()):
            age_s = now_s - one.changed_s
            if one.state is ReplicaState.UNLOADING and not one.running:
                self._change(model, ReplicaState.GONE)
                del self._models[model]
            elif one.state is ReplicaState.READY and one.keep_alive_s is not None and not one.running:
                if now_s - one.used_s >= one.keep_alive_s:
                    self._leave(model, None)
            elif one.state is ReplicaState.LOADING and one.changed_s >= 0 and age_s >= self._load_s:
                self._change(model, ReplicaState.READY)
        self._start_next(now_s)
        self.most_bytes = max(self.most_bytes, self._held_bytes)
        self._beats += 1
        self.beat(self._beats, free_bytes=self._memory_bytes - self._held_bytes)

    def _start_next(self, now_s: float) -> None:
        waiting = next((model for model, one in self._models.items() if one.changed_s < 0), None)
        if waiting is None:
            return
        if self._held_bytes + self._sizes[waiting] <= self._memory_bytes:
            self._models[waiting].changed_s = now_s
            return
        if any(one.state is ReplicaState.UNLOADING for one in self._models.values()):
            return
        ready = [(model, one) for model, one in self._models.items() if one.state is ReplicaState.READY]
        idle = [model for model, one in ready if not one.running]
        old = [model for model, one in ready if now_s - one.changed_s >= BUSY_STAYS_S]
        if idle or old:
            self._leave((idle or old)[0], waiting)
