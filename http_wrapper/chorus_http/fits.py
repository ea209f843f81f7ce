"""Where each model fits: its memory at a context and slots that somebody asks about, beside what each PC has.

Pure functions of the cluster's state. What a PC decides when it really loads is its own pre-flight, which measures;
this is the same arithmetic ahead of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from chorus_proto.catalogue import normalised
from chorus_proto.sizing import DeviceKind, Estimate, LoadShape, estimate
from chorus_proto.usable_memory import usable_card_bytes, usable_ram_bytes
from chorus_proto.values import ClusterState, EngineKind, ModelFile, ModelSummary, Node, ReplicaState

_IN_MEMORY = (ReplicaState.LOADING, ReplicaState.READY, ReplicaState.UNLOADING)


class Verdict(StrEnum):
    LOADED = "loaded"
    LOADING = "loading"
    FITS = "fits"
    AFTER_FREEING = "after_freeing"
    """Once other models of ours leave that PC."""
    TOO_BIG = "too_big"
    AWAY = "away"
    """The PC is not there."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes by cause; `words` is the sum for people."""

    weights_bytes: int
    kv_bytes: int
    buffers_bytes: int
    total_bytes: int
    words: str


class NodeFit(msgspec.Struct, frozen=True, kw_only=True):
    """One PC for one model. `usable_bytes`: what models may take there at most; `free_bytes`: what is left of it."""

    node_id: str
    node: str
    verdict: Verdict
    on_disk: bool
    device: DeviceKind
    needs_bytes: int
    free_bytes: int
    usable_bytes: int
    words: str
    progress: float | None = None
    """0-1 while it loads."""
    measured_bytes: int | None = None
    """What it took when it was last loaded there."""
    kept: bool = False
    """The PC's owner keeps it loaded; nobody else may free it."""


class ModelFits(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `needs` is its memory on a CPU; on a graphics card the engine's own part is larger."""

    model: str
    file_bytes: int
    parameters: int
    tier: str | None
    architecture: str | None
    trained_context_tokens: int | None
    embedding: bool
    alias_of: str | None
    fetched: bool
    """It came over the network by our own doing, so it may be deleted."""
    needs: Needs
    nodes: tuple[NodeFit, ...]


class Fits(msgspec.Struct, frozen=True, kw_only=True):
    """At what context and slots this was reckoned, and every model by name."""

    context_tokens: int
    slots: int
    models: tuple[ModelFits, ...]


def fits_of(state: ClusterState, *, context_tokens: int, slots: int) -> Fits:
    load = LoadShape(context_tokens=context_tokens, slots=slots)
    models = tuple(_model(state, model, load) for model in sorted(state.models, key=lambda model: model.name))
    return Fits(context_tokens=context_tokens, slots=slots, models=models)


def _model(state: ClusterState, model: ModelSummary, load: LoadShape) -> ModelFits:
    files = list(_files(state, model))
    file = max(files, key=lambda one: (one.shape is not None, one.file_bytes), default=None)
    needs = _estimate(model, file, load, DeviceKind.CPU)
    shape = None if file is None else file.shape
    return ModelFits(
        model=model.name,
        file_bytes=model.file_bytes,
        parameters=model.parameters,
        tier=model.tier,
        architecture=None if shape is None else shape.architecture,
        trained_context_tokens=None if shape is None else shape.trained_context_tokens,
        embedding=model.embedding,
        alias_of=model.alias_of,
        fetched=any(one.fetched for one in files),
        needs=Needs(
            weights_bytes=needs.weights_bytes,
            kv_bytes=needs.kv_bytes,
            buffers_bytes=needs.compute_bytes + needs.overhead_bytes,
            total_bytes=needs.total_bytes,
            words=needs.in_words(),
        ),
        nodes=tuple(_on(node, model, file, load) for node in sorted(state.nodes, key=lambda node: node.name)),
    )


def _on(node: Node, model: ModelSummary, file: ModelFile | None, load: LoadShape) -> NodeFit:
    name = normalised(model.alias_of or model.name)
    device, usable_bytes = _device(node, _estimate(model, file, load, DeviceKind.DISCRETE_GPU).total_bytes)
    needs = _estimate(model, file, load, device)
    held = [one.report for one in node.replicas if one.report.state in _IN_MEMORY]
    mine = next((one for one in held if normalised(one.model) == name), None)
    taken_bytes = sum(one.resident_bytes or one.predicted_bytes or 0 for one in held if one is not mine)
    free_bytes = max(0, usable_bytes - taken_bytes)
    measured = next((one.resident_bytes for one in node.footprints if normalised(one.model) == name), None)
    if mine is not None:
        verdict = Verdict.LOADING if mine.state is ReplicaState.LOADING else Verdict.LOADED
    elif not node.state.is_here:
        verdict = Verdict.AWAY
    elif needs.total_bytes > usable_bytes:
        verdict = Verdict.TOO_BIG
    else:
        verdict = Verdict.FITS if needs.total_bytes <= free_bytes else Verdict.AFTER_FREEING
    return NodeFit(
        node_id=node.node_id,
        node=node.name,
        verdict=verdict,
        on_disk=any(normalised(one.name) == name for one in node.models),
        device=device,
        needs_bytes=needs.total_bytes,
        free_bytes=free_bytes,
        usable_bytes=usable_bytes,
        words=needs.in_words(free_bytes),
        progress=mine.progress if mine is not None and mine.state is ReplicaState.LOADING else None,
        measured_bytes=mine.resident_bytes if mine is not None else measured,
        kept=mine is not None and mine.kept,
    )


def _device(node: Node, needs_bytes: int) -> tuple[DeviceKind, int]:
    """Where the engines of this PC would put the model, and what models may take there: its cards if it fits them."""
    gpus = [gpu for gpu in node.hardware.gpus if gpu.usable]
    cards = [usable_card_bytes(gpu.memory_bytes) for gpu in gpus if gpu.memory_bytes and not gpu.shares_host_memory]
    ram_bytes = usable_ram_bytes(node.hardware.ram_bytes)
    if cards and needs_bytes <= sum(cards):
        return DeviceKind.DISCRETE_GPU, sum(cards)
    shared = next((gpu for gpu in gpus if gpu.shares_host_memory and gpu.flops_per_s), None)
    if shared is not None:
        return DeviceKind.SHARED_GPU, min(shared.memory_bytes or ram_bytes, node.hardware.ram_bytes or ram_bytes)
    return DeviceKind.CPU, ram_bytes


def _estimate(model: ModelSummary, file: ModelFile | None, load: LoadShape, device: DeviceKind) -> Estimate:
    if file is None:
        return estimate(None, model.file_bytes, load, device)
    engine = file.engine if file.engine is EngineKind.TRANSFORMERS else EngineKind.LLAMA_SERVER
    return estimate(file.shape, file.file_bytes, load, device, engine)


def _files(state: ClusterState, model: ModelSummary) -> Iterator[ModelFile]:
    name = normalised(model.alias_of or model.name)
    for node in state.nodes:
        yield from (file for file in node.models if normalised(file.name) == name)
