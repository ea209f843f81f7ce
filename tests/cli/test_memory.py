"""`chorus models --memory`: what is loaded now, what was measured before, and how far the prediction is off."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from click.testing import CliRunner

from chorus_cli.commands import models
from chorus_cli.memory import HEADINGS, MemoryRow, memory_cells, memory_rows
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import (
    ClusterState,
    EngineKind,
    Footprint,
    Hardware,
    Node,
    NodeState,
    Replica,
    ReplicaReport,
    ReplicaState,
    Score,
)

TINY, BIG = ModelName("demo-tiny"), ModelName("big")
READY = ReplicaReport(
    model=TINY,
    state=ReplicaState.READY,
    slots=4,
    context_tokens=4096,
    predicted_bytes=90_000_000,
    expected_bytes=110_000_000,
    resident_bytes=100_000_000,
    arithmetic="needs 110.0 MB = 60.0 weights + 40.0 KV at 4 x 4k + 10.0 buffers",
)
BEFORE = Footprint(
    model=BIG,
    engine=EngineKind.LLAMA_SERVER,
    context_tokens=16384,
    slots=1,
    predicted_bytes=9_800_000_000,
    resident_bytes=10_000_000_000,
    arithmetic="needs 9.8 GB",
)
ATTIC = Node(
    node_id=NodeId("1"),
    name="attic",
    client_id="client-attic-1",
    address="10.0.0.2:1",
    state=NodeState.ALIVE,
    hardware=Hardware(os="linux", arch="x86_64"),
    score=Score(score=61.25, comfortable_parameters=3e9),
    replicas=(Replica(report=READY),),
    footprints=(BEFORE,),
)
STATE = ClusterState(version="1.0", epoch=3, uptime_s=3725, nodes=(ATTIC,))


def shown(state: ClusterState) -> list[dict[str, str]]:
    return [dict(zip(HEADINGS, memory_cells(row), strict=True)) for row in memory_rows(state)]


def with_replica(report: ReplicaReport, *before: Footprint) -> ClusterState:
    return replace(STATE, nodes=(replace(ATTIC, replicas=(Replica(report=report),), footprints=before),))


def test_a_loaded_model_and_one_that_was_measured_before_have_a_row_each() -> None:
    big, tiny = shown(STATE)
    assert tiny["STATE"] == "ready"
    assert tiny["CONTEXT"] == "4k x 4"
    assert (tiny["PREDICTED"], tiny["EXPECTED"], tiny["MEASURED"]) == ("90.0 MB", "110.0 MB", "100.0 MB")
    assert tiny["ERROR"] == "+10.0%"
    assert tiny["ARITHMETIC"].startswith("needs 110.0 MB")
    assert big["STATE"] == "not loaded"
    assert (big["CONTEXT"], big["EXPECTED"], big["ERROR"]) == ("16k x 1", "9.80 GB", "-2.0%")


def test_what_a_loading_model_holds_by_now_is_no_measurement() -> None:
    loading = replace(READY, state=ReplicaState.LOADING, resident_bytes=5, context_tokens=0)
    before = replace(BEFORE, model=TINY, context_tokens=2048)
    (row,) = shown(with_replica(loading, before))
    assert (row["STATE"], row["MEASURED"], row["ERROR"], row["CONTEXT"]) == ("loading", "-", "-", "2k x 4")


def test_a_refused_load_shows_its_words_and_unknown_is_a_dash() -> None:
    failed = ReplicaReport(model=BIG, state=ReplicaState.FAILED, detail="big needs 9.8 GB; free 8.6")
    (row,) = shown(with_replica(failed))
    assert row["ARITHMETIC"] == "big needs 9.8 GB; free 8.6"
    assert {row[name] for name in ("CONTEXT", "PREDICTED", "EXPECTED", "MEASURED", "ERROR")} == {"-"}


def test_the_command_prints_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> ClusterState:
        return STATE

    monkeypatch.setattr(models, "asked", answer)
    table = CliRunner().invoke(models.command, ["--memory"])
    assert table.exit_code == 0, table.output
    assert "demo-tiny" in table.output
    rows = msgspec.json.decode(CliRunner().invoke(models.command, ["--memory", "--json"]).output, type=list[MemoryRow])
    assert rows == memory_rows(STATE)
