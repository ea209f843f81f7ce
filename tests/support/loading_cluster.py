"""A fake cluster whose one PC takes its time to load: each look at it shows the next step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chorus_proto.ids import ModelName
from chorus_proto.values import (
    ClusterState,
    EngineKind,
    Footprint,
    ModelFile,
    ModelOrder,
    ModelSummary,
    OrderedOn,
    Replica,
    ReplicaReport,
    ReplicaState,
)
from tests.support.fake_cluster import MODEL, NODE, FakeCluster, ready_state

BIG = ModelName("org/large:8b")
BIG_BYTES = 5_000_000_000


class LoadingCluster(FakeCluster):
    """`BIG` lies on the disk. An order makes the PC show `steps` one by one; the last stays."""

    def __init__(self, *steps: ReplicaReport, measured_load_s: float | None = None) -> None:
        super().__init__()
        self.steps = list(steps)
        self.measured_load_s = measured_load_s
        self.before: ReplicaReport | None = None
        self._begun = False

    async def load_model(self, model: str, *, node: str | None = None, keep_alive_s: float | None = None) -> ModelOrder:
        await super().load_model(model, node=node, keep_alive_s=keep_alive_s)
        self._begun = True
        state = None if self.before is None else self.before.state
        return ModelOrder(model=BIG, nodes=(OrderedOn(node_id=NODE, node_name="attic-pc", state=state),))

    async def unload_model(self, model: str, *, node: str | None = None) -> ModelOrder:
        await super().unload_model(model, node=node)
        self.steps, self._begun, self.before = [], False, None
        return ModelOrder(model=BIG, nodes=(OrderedOn(node_id=NODE, node_name="attic-pc", state=ReplicaState.READY),))

    async def state(self) -> ClusterState:
        await super().state()
        report = self.before
        if self._begun and self.steps:
            report = self.steps[0]
            if len(self.steps) > 1:
                self.steps.pop(0)
        return state_with(() if report is None else (report,), measured_load_s=self.measured_load_s)


def state_with(reports: Iterable[ReplicaReport], *, measured_load_s: float | None = None) -> ClusterState:
    """`MODEL` and `BIG` on the disk of the one PC, loaded as `reports` say."""
    shown = tuple(reports)
    file = ModelFile(name=BIG, file_bytes=BIG_BYTES, engine=EngineKind.LLAMA_SERVER)
    known = Footprint(model=BIG, engine=EngineKind.LLAMA_SERVER, load_s=measured_load_s)
    state = ready_state()
    node = replace(
        state.nodes[0],
        models=(file,),
        replicas=tuple(Replica(report=report) for report in shown),
        footprints=() if measured_load_s is None else (known,),
    )
    ready = {report.model for report in shown if report.state is ReplicaState.READY}
    models = tuple(
        ModelSummary(name=name, ready_on=(NODE,) if name in ready else (), on_disk_at=(NODE,), parameters=parameters)
        for name, parameters in ((MODEL, 10**9), (BIG, 8 * 10**9))
    )
    return replace(state, nodes=(node,), models=models)


def step(state: ReplicaState, progress: float | None = None, *, detail: str = "", failure: str = "") -> ReplicaReport:
    return ReplicaReport(model=BIG, state=state, progress=progress, detail=detail, failure_code=failure)


LOADS = (
    step(ReplicaState.LOADING, 0.0),
    step(ReplicaState.LOADING, 0.4, detail="reading weights"),
    step(ReplicaState.LOADING, 0.9, detail="warming up"),
    step(ReplicaState.READY),
)
