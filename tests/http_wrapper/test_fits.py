"""Where a model fits: the arithmetic of one estimate beside what each PC has."""

from __future__ import annotations

from dataclasses import replace

from chorus_http.fits import Fits, NodeFit, Verdict, fits_of
from chorus_proto.catalogue import entry
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sizing import DeviceKind, LoadShape, estimate
from chorus_proto.values import (
    ClusterState,
    EngineKind,
    Gpu,
    Hardware,
    ModelFile,
    ModelSummary,
    Node,
    NodeState,
    Replica,
    ReplicaReport,
    ReplicaState,
    Score,
)

GIB = 1 << 30
NAME = ModelName("llama3.1:8b")
KNOWN = entry(NAME)
assert KNOWN is not None
FILE = ModelFile(name=NAME, file_bytes=KNOWN.file_bytes, engine=EngineKind.LLAMA_SERVER, shape=KNOWN.shape)
CARD = Gpu(name="card", vendor="nvidia", memory_bytes=12 * GIB, flops_per_s=1e13)


def pc(name: str, ram_gib: int, *gpus: Gpu, files: tuple[ModelFile, ...] = (FILE,), **more: object) -> Node:
    node = Node(
        node_id=NodeId(name),
        name=name,
        client_id=f"client-{name}",
        address="10.0.0.1:1",
        state=NodeState.ALIVE,
        hardware=Hardware(os="linux", arch="x86_64", ram_bytes=ram_gib * GIB, gpus=gpus),
        score=Score(score=50, comfortable_parameters=1e9),
        models=files,
    )
    return replace(node, **more)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass


def held(model: str, resident_bytes: int, state: ReplicaState = ReplicaState.READY, **more: object) -> Replica:
    report = ReplicaReport(model=ModelName(model), state=state, resident_bytes=resident_bytes)
    return Replica(report=replace(report, **more))  # pyright: ignore[reportArgumentType]  # as above


def fits(*nodes: Node, context_tokens: int = 4096, slots: int = 1) -> Fits:
    model = ModelSummary(name=NAME, file_bytes=KNOWN.file_bytes if KNOWN else 0, parameters=8_000_000_000)
    state = ClusterState(version="1", epoch=1, uptime_s=1, nodes=nodes, models=(model,))
    return fits_of(state, context_tokens=context_tokens, slots=slots)


def on(*nodes: Node, context_tokens: int = 4096) -> list[NodeFit]:
    return list(fits(*nodes, context_tokens=context_tokens).models[0].nodes)


def verdicts(*nodes: Node) -> list[Verdict]:
    return [one.verdict for one in on(*nodes)]


def test_the_sum_is_the_one_estimate_and_grows_with_context_and_slots() -> None:
    needs = fits(context_tokens=8192, slots=2).models[0].needs
    # No PC has the file, so nothing is known of its shape: weights and a fifth for the rest.
    assert needs.weights_bytes == FILE.file_bytes
    told = fits(pc("a", 16), context_tokens=8192, slots=2).models[0].needs
    expected = estimate(FILE.shape, FILE.file_bytes, LoadShape(context_tokens=8192, slots=2), DeviceKind.CPU)
    assert told.total_bytes == expected.total_bytes
    assert told.weights_bytes + told.kv_bytes + told.buffers_bytes == told.total_bytes
    assert told.words == expected.in_words()
    assert fits(pc("a", 16), context_tokens=16384, slots=2).models[0].needs.kv_bytes == 2 * told.kv_bytes


def test_a_pc_holds_it_or_fits_it_or_fits_it_after_freeing_or_never() -> None:
    full = pc("b", 16, replicas=(held("other", 9 * GIB),))
    assert verdicts(pc("a", 16, replicas=(held(NAME, 6 * GIB),)), full, pc("c", 16), pc("d", 4)) == [
        Verdict.LOADED,
        Verdict.AFTER_FREEING,
        Verdict.FITS,
        Verdict.TOO_BIG,
    ]


def test_a_pc_that_is_gone_is_away_whatever_it_had() -> None:
    assert verdicts(pc("a", 16, state=NodeState.DEAD), pc("b", 16, state=NodeState.ASLEEP)) == [Verdict.AWAY] * 2


def test_a_load_tells_how_far_it_is_and_a_kept_model_that_it_is_kept() -> None:
    loading, kept = on(
        pc("a", 16, replicas=(held(NAME, 1 * GIB, ReplicaState.LOADING, progress=0.4),)),
        pc("b", 16, replicas=(held(NAME, 6 * GIB, kept=True),)),
    )
    assert (loading.verdict, loading.progress, loading.kept) == (Verdict.LOADING, 0.4, False)
    assert (kept.verdict, kept.progress, kept.kept, kept.measured_bytes) == (Verdict.LOADED, None, True, 6 * GIB)


def test_a_card_takes_it_when_it_can_and_the_ram_else() -> None:
    small = replace(CARD, memory_bytes=4 * GIB)
    unusable = replace(CARD, usable=False)
    shared = replace(CARD, shares_host_memory=True, memory_bytes=None)
    found = on(pc("a", 32, CARD), pc("b", 32, small), pc("c", 32, unusable), pc("d", 32, shared))
    assert [one.device for one in found] == [
        DeviceKind.DISCRETE_GPU,
        DeviceKind.CPU,
        DeviceKind.CPU,
        DeviceKind.SHARED_GPU,
    ]
    assert found[0].usable_bytes < 12 * GIB < found[1].usable_bytes


def test_a_model_that_runs_elsewhere_needs_nothing_here() -> None:
    state = ClusterState(
        version="1", epoch=1, uptime_s=1, nodes=(pc("a", 4, files=()),), models=(ModelSummary(name=NAME),)
    )
    (model,) = fits_of(state, context_tokens=4096, slots=1).models
    assert (model.needs.total_bytes, model.nodes[0].verdict) == (0, Verdict.FITS)
    assert not model.nodes[0].on_disk
