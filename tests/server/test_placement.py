from __future__ import annotations

import dataclasses

import pytest

from chorus_proto import catalogue
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import Assignment, EngineKind, Gpu, Hardware, ModelFile
from chorus_server.placement import PlacementNode, PlacementRules, PlacementStrategy, assign

GIB = 1 << 30
RULES = PlacementRules(context_tokens=4096, slots=1)
CARD_6 = Gpu(name="GTX 1060", vendor="nvidia", memory_bytes=6 * GIB)
CARD_24 = Gpu(name="RTX 3090", vendor="nvidia", memory_bytes=24 * GIB, bandwidth_bytes_per_s=936e9, flops_per_s=69e12)


def on_disk(*names: str) -> tuple[ModelFile, ...]:
    """Files as an agent reports them, with the facts of the catalogue."""
    files: list[ModelFile] = []
    for name in names:
        known = catalogue.entry(name)
        assert known is not None, name
        files.append(
            ModelFile(
                name=known.name,
                file_bytes=known.file_bytes,
                engine=EngineKind.LLAMA_SERVER,
                shape=known.shape,
                embedding=known.embedding,
            )
        )
    return tuple(files)


def elsewhere(name: str, engine: EngineKind = EngineKind.REMOTE) -> ModelFile:
    return ModelFile(name=ModelName(name), file_bytes=0, engine=engine)


def node(
    score: float, *models: ModelFile, ram_gib: int = 64, gpu: Gpu | None = None, current: str | None = None
) -> PlacementNode:
    hardware = Hardware(os="Linux", arch="x86_64", ram_bytes=ram_gib * GIB, gpus=() if gpu is None else (gpu,))
    return PlacementNode(
        node_id=NodeId("n"),
        name="attic-pc",
        hardware=hardware,
        score=score,
        models=models,
        current_model=None if current is None else ModelName(current),
    )


def placed(on: PlacementNode, rules: PlacementRules = RULES) -> Assignment:
    (assignment,) = assign([on], rules)
    return assignment


DEMOS = on_disk("demo-tiny", "demo-small", "demo-medium", "all-minilm-l6-v2")


@pytest.mark.parametrize(
    ("score", "model"),
    [
        (95, "demo-medium"),
        (80, "demo-medium"),
        (79.9, "demo-small"),
        (60, "demo-small"),
        (59.9, "demo-tiny"),
        (0, "demo-tiny"),
    ],
)
def test_the_score_decides_the_tier_and_the_tier_the_model(score: float, model: str) -> None:
    assert placed(node(score, *DEMOS)).model == model


def test_the_borders_of_the_tiers_are_the_owners() -> None:
    rules = dataclasses.replace(RULES, large_from=50.0, medium_from=20.0)
    assert placed(node(50, *DEMOS), rules).model == "demo-medium"
    assert placed(node(20, *DEMOS), rules).model == "demo-small"


def test_an_embedding_model_is_never_placed_for_chat() -> None:
    only = placed(node(95, *on_disk("all-minilm-l6-v2")))
    assert only.model is None
    assert "no chat model" in only.reason


def test_within_the_tier_the_largest_model_that_fits_the_card_is_taken() -> None:
    models = on_disk("llama3.1:8b", "gemma3:12b", "qwen3:14b", "qwen3:32b", "llama3.3:70b")
    assigned = placed(node(93, *models, gpu=CARD_24))
    assert assigned.model == "qwen3:32b"
    assert "llama3.3:70b does not fit (needs 45.1 GB" in assigned.reason


def test_memory_comes_before_the_tier() -> None:
    models = on_disk("llama3.2:1b", "llama3.2:3b", "llama3.1:8b")
    assigned = placed(node(85, *models, ram_gib=4))
    assert assigned.model == "llama3.2:1b"
    assert "llama3.2:3b does not fit" in assigned.reason


def test_when_a_tier_has_no_model_the_next_smaller_one_is_used() -> None:
    assert placed(node(90, *on_disk("demo-tiny"))).model == "demo-tiny"
    assert placed(node(90, *on_disk("demo-tiny", "demo-small"))).model == "demo-small"


def test_a_model_above_the_tier_is_refused_with_the_score_it_needs() -> None:
    assigned = placed(node(45, *on_disk("llama3.1:8b")))
    assert assigned.model is None
    assert (
        assigned.reason
        == "No model: score 45.0 allows small, and the smallest here, llama3.1:8b, is large (from score 80)."
    )


def test_a_model_that_fits_nowhere_is_refused_with_the_arithmetic() -> None:
    assigned = placed(node(90, *on_disk("llama3.3:70b"), ram_gib=16))
    assert assigned.model is None
    assert "llama3.3:70b needs 44.6 GB = 43.0 weights + 1.3 KV at 4k + 0.3 buffers; free 12.9" in assigned.reason


def test_the_reason_of_an_assignment_holds_the_score_and_the_arithmetic() -> None:
    assigned = placed(node(65, *DEMOS))
    assert assigned.reason == (
        "Score 65.0 allows medium models; demo-small needs 31.0 MB = 4.2 weights + 2.6 KV at 1k + 24.2 buffers;"
        " free 51.5 GB; demo-medium is large, above this score."
    )


def test_memory_in_use_by_others_counts() -> None:
    on = dataclasses.replace(node(90, *on_disk("llama3.2:1b", "llama3.1:8b")), free_bytes=4 * GIB)
    assert placed(on).model == "llama3.2:1b"


def test_more_slots_need_more_memory() -> None:
    on = node(90, *on_disk("llama3.2:1b", "llama3.1:8b"), ram_gib=12)
    assert placed(on).model == "llama3.1:8b"
    assert placed(on, dataclasses.replace(RULES, slots=16)).model == "llama3.2:1b"


def test_a_model_that_is_there_already_stays_while_nothing_is_larger() -> None:
    twins = on_disk("llama3.3:70b", "deepseek-r1:70b", "qwen3:8b", "deepseek-r1:8b")
    for current in ("qwen3:8b", "deepseek-r1:8b"):
        assigned = placed(node(85, *twins, ram_gib=16, current=current))
        assert (assigned.model, assigned.previous_model) == (current, current)
    assert placed(node(85, *DEMOS, current="demo-tiny")).model == "demo-medium"


def test_of_two_files_of_one_model_the_finer_one_is_taken_first_and_the_present_one_kept() -> None:
    (coarse,) = on_disk("llama3.1:8b")
    fine = dataclasses.replace(coarse, name=ModelName("llama3.1:8b-q8"), file_bytes=8_500_000_000)
    assert placed(node(85, coarse, fine)).model == "llama3.1:8b-q8"
    assert placed(node(85, coarse, fine, current="llama3.1:8b")).model == "llama3.1:8b"


def test_models_that_run_elsewhere_need_no_memory_here() -> None:
    assigned = placed(node(10, elsewhere("gpt-unknown"), ram_gib=1))
    assert assigned.model == "gpt-unknown"
    assert "runs elsewhere" in assigned.reason


def test_a_remote_model_of_the_catalogue_has_its_tier() -> None:
    remote = elsewhere("llama3.1:8b")
    assert placed(node(50, remote)).model is None
    assert placed(node(80, remote, *on_disk("llama3.2:1b"))).model == "llama3.1:8b"


def test_a_file_without_a_shape_is_placed_by_its_size() -> None:
    unknown = ModelFile(name=ModelName("mine:latest"), file_bytes=3 * GIB, engine=EngineKind.OLLAMA)
    assert placed(node(30, unknown, ram_gib=16)).model == "mine:latest"
    assert placed(node(30, unknown, ram_gib=4)).model is None


def test_the_largest_that_fits_ignores_the_score() -> None:
    rules = dataclasses.replace(RULES, strategy=PlacementStrategy.LARGEST_THAT_FITS)
    assigned = placed(node(10, *on_disk("llama3.2:1b", "llama3.1:8b", "llama3.3:70b"), ram_gib=16), rules)
    assert assigned.model == "llama3.1:8b"
    assert assigned.reason.startswith("The largest model that fits; llama3.1:8b needs")


def test_a_small_card_is_filled_rather_than_the_ram_beside_it() -> None:
    models = on_disk("llama3.2:3b", "llama3.1:8b", "gemma3:12b")
    fast_card = dataclasses.replace(CARD_6, bandwidth_bytes_per_s=192e9, flops_per_s=5.6e12)
    assert placed(node(85, *models, gpu=fast_card)).model == "llama3.2:3b"


def test_every_node_gets_one_assignment_in_order_and_always_the_same() -> None:
    nodes = [
        dataclasses.replace(node(score, *models), node_id=NodeId(f"n{score}"))
        for score, models in ((90, DEMOS), (10, tuple(reversed(DEMOS))), (70, ()))
    ]
    found = assign(nodes, RULES)
    assert [one.node_id for one in found] == ["n90", "n10", "n70"]
    assert [one.model for one in found] == ["demo-medium", "demo-tiny", None]
    assert found == assign(nodes, RULES)
    assert assign([], RULES) == []
