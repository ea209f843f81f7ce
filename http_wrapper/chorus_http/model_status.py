"""How far each model of the cluster is: pure functions of its state, and the shapes in which routes show them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from chorus_proto.catalogue import normalised
from chorus_proto.load_time import expected_load_s, load_left_s
from chorus_proto.values import ClusterState, ModelFile, ModelSummary, Node, Replica, ReplicaState


class LoadState(StrEnum):
    """Of a model in the whole cluster: the best that any PC has to say of it."""

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADING = "unloading"
    FAILED = "failed"
    UNLOADED = "unloaded"


_OF_REPLICA = {
    ReplicaState.READY: LoadState.LOADED,
    ReplicaState.LOADING: LoadState.LOADING,
    ReplicaState.UNLOADING: LoadState.UNLOADING,
    ReplicaState.FAILED: LoadState.FAILED,
    ReplicaState.GONE: LoadState.UNLOADED,
}
_BEST_FIRST = tuple(LoadState)


class LoadFailure(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str


class NodeLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One PC's copy of a model. `progress` 0-1 and `expected_s` (seconds left) while it loads, else null."""

    node_id: str
    node: str
    state: LoadState
    progress: float | None = None
    expected_s: float | None = None
    detail: str = ""
    slots: int = 0
    slots_busy: int = 0
    resident_bytes: int | None = None
    context_tokens: int | None = None
    degraded: bool = False
    error: LoadFailure | None = None


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the whole cluster; `progress` and `expected_s` are those of the copy that comes first."""

    model: str
    state: LoadState
    progress: float | None = None
    expected_s: float | None = None
    detail: str = ""
    error: LoadFailure | None = None
    nodes: tuple[NodeLoad, ...] = ()
    on_disk_at: tuple[str, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Nothing more comes by itself."""
        return self.state in (LoadState.LOADED, LoadState.FAILED, LoadState.UNLOADED)

    @property
    def words(self) -> str:
        """For people: `attic-pc loads it: 40%, reading weights`."""
        for one in self.nodes:
            if one.state is LoadState.LOADING:
                share = "" if one.progress is None else f"{one.progress:.0%}"
                return f"{one.node} loads it: {', '.join(filter(None, (share, one.detail))) or 'just begun'}"
        return str(self.state)


def statuses(state: ClusterState) -> list[ModelStatus]:
    """Of every model, by name."""
    return [status_of(state, model) for model in sorted(state.models, key=lambda model: model.name)]


def status_of(state: ClusterState, model: ModelSummary) -> ModelStatus:
    copies = sorted(_copies(state, model), key=lambda copy: (_BEST_FIRST.index(copy.state), copy.expected_s or 0.0))
    names = {node.node_id: node.name for node in state.nodes}
    best = copies[0] if copies else None
    return ModelStatus(
        model=model.name,
        state=LoadState.UNLOADED if best is None else best.state,
        progress=None if best is None else best.progress,
        expected_s=None if best is None else best.expected_s,
        detail="" if best is None else best.detail,
        error=None if best is None else best.error,
        nodes=tuple(copies),
        on_disk_at=tuple(names.get(node_id, node_id) for node_id in model.on_disk_at),
    )


def loaded_models(state: ClusterState) -> list[ModelSummary]:
    """Chat models that some PC serves now, the largest first."""
    ready = [model for model in state.models if model.ready_on and not model.embedding]
    return sorted(ready, key=lambda model: (-model.parameters, -model.file_bytes, model.name))


def _copies(state: ClusterState, model: ModelSummary) -> Iterator[NodeLoad]:
    for node in state.nodes:
        for replica in node.replicas:
            if normalised(replica.report.model) == normalised(model.alias_of or model.name):
                yield _copy(node, replica)


def _copy(node: Node, replica: Replica) -> NodeLoad:
    report = replica.report
    loading = report.state is ReplicaState.LOADING
    failed = report.state is ReplicaState.FAILED
    return NodeLoad(
        node_id=node.node_id,
        node=node.name,
        state=_OF_REPLICA[report.state],
        progress=report.progress if loading else None,
        expected_s=_left_s(node, replica) if loading else None,
        detail=report.detail,
        slots=report.slots,
        slots_busy=replica.slots_busy,
        resident_bytes=report.resident_bytes,
        context_tokens=report.context_tokens or None,
        degraded=report.degraded,
        error=LoadFailure(code=report.failure_code or "load_failed", message=report.detail) if failed else None,
    )


def _left_s(node: Node, replica: Replica) -> float:
    """By the last load of the model there, else by the size of its file."""
    report = replica.report
    measured = next((one.load_s for one in node.footprints if one.model == report.model and one.load_s), None)
    whole_s = expected_load_s(_bytes(node.models, report.model)) if measured is None else measured
    return load_left_s(whole_s, report.progress)


def _bytes(files: tuple[ModelFile, ...], model: str) -> int:
    return next((file.file_bytes for file in files if file.name == model), 0)
