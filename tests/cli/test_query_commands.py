from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_cli.commands.ask import print_aggregate, print_member, reply_fields
from chorus_cli.commands.models import model_rows
from chorus_cli.commands.nodes import HEADINGS, node_row
from chorus_cli.commands.status import summary
from chorus_cli.tables import count, duration, print_table
from chorus_proto.cluster import AskFinished, MemberAnswer
from chorus_proto.errors import NodeLost
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import (
    AggregateStrategy,
    ClusterState,
    Courtesy,
    Hardware,
    ModelSummary,
    Node,
    NodeState,
    Replica,
    ReplicaReport,
    ReplicaState,
    Score,
    Tier,
)

SMALL = ModelName("demo-small")
ATTIC = Node(
    node_id=NodeId("1"),
    name="attic\x1b[2J",
    client_id="client-attic-1",
    address="10.0.0.2:1",
    state=NodeState.ALIVE,
    hardware=Hardware(os="linux", arch="x86_64"),
    score=Score(score=61.25, comfortable_parameters=3e9, decode_tokens_per_s=40.0),
    assigned_model=SMALL,
    replicas=(Replica(report=ReplicaReport(model=SMALL, state=ReplicaState.LOADING, slots=4, progress=0.4)),),
)
STATE = ClusterState(
    version="1.0",
    epoch=3,
    uptime_s=3725,
    nodes=(ATTIC,),
    models=(ModelSummary(name=SMALL, tier=Tier.MEDIUM, parameters=4_000_000, on_disk_at=(NodeId("1"), NodeId("9"))),),
)


def test_a_node_row_shows_progress_and_a_predicted_speed_as_such() -> None:
    row = dict(zip(HEADINGS, node_row(ATTIC), strict=True))
    assert row["REPLICA"] == "loading 40%"
    assert row["TOK/S"] == "~40"
    assert row["BUSY"] == "0/4"
    assert row["COMPUTES ON"] == "x86_64"


def test_a_node_row_shows_what_was_loaded_on_demand_and_how_long_it_stays() -> None:
    warm = ReplicaReport(model=ModelName("demo-tiny"), state=ReplicaState.READY, keep_alive_s=300)
    row = dict(zip(HEADINGS, node_row(replace(ATTIC, replicas=(Replica(report=warm),))), strict=True))
    assert row["WARM COPIES"] == "demo-tiny ready, stays 5 min 00 s"
    assert dict(zip(HEADINGS, node_row(ATTIC), strict=True))["WARM COPIES"] == ""


def test_a_node_row_says_why_a_pc_yields_to_its_owner_that_it_sleeps_and_that_it_is_slow() -> None:
    slow = ReplicaReport(model=SMALL, state=ReplicaState.READY, degraded=True)
    polite = replace(ATTIC, courtesy=Courtesy(paused=True, reason="on battery, 20 %"), replicas=(Replica(report=slow),))
    row = dict(zip(HEADINGS, node_row(polite), strict=True))
    assert row["COURTESY"] == "polite pause: on battery, 20 %"
    assert row["REPLICA"] == "ready, degraded"
    asleep = dict(zip(HEADINGS, node_row(replace(ATTIC, state=NodeState.ASLEEP)), strict=True))
    assert (asleep["STATE"], asleep["COURTESY"]) == ("asleep", "")


def test_a_model_row_names_nodes_and_falls_back_to_the_id_of_one_that_is_unknown() -> None:
    assert model_rows(STATE) == [("demo-small", "medium", "4.0 M", "-", "-", "9, attic\x1b[2J")]


def test_the_summary_tells_alive_from_known() -> None:
    lines = dict(summary(STATE))
    assert lines["PCs"] == "1 alive of 1 known"
    assert lines["Chorus"] == "1.0, up 1 h 02 min, epoch 3"
    assert lines["Models"] == "none ready, 1 known"


def test_a_piped_table_is_plain_aligned_and_cannot_drive_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "STATE"), [(ATTIC.name, "alive"), ("b", "dead")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert len({line.index(word) for line, word in zip(lines, ("STATE", "alive", "dead"), strict=True)}) == 1


def test_a_member_without_an_answer_is_named_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    lost = MemberAnswer(node_id=NodeId("1"), node_name="attic", model=SMALL, error=NodeLost("it went away"))
    good = MemberAnswer(node_id=NodeId("2"), node_name="cellar", model=SMALL, text="Paris\x07", seconds=1.5)
    finished = AskFinished(
        strategy=AggregateStrategy.VOTE, text="Paris", members=(lost, good), seconds=2, agreement=1.0
    )
    for member in finished.members:
        print_member(member)
    print_aggregate(finished)
    out = capsys.readouterr().out
    assert "--- attic (demo-small)" in out
    assert "no answer: it went away" in out
    assert "=== vote: 1 of 2 answered" in out
    assert "\x07" not in out
    members = reply_fields(finished)["members"]
    assert isinstance(members, list)
    assert members[0]["error"] == {"code": "node_lost", "message": "it went away"}


def test_numbers_for_people() -> None:
    assert [count(one) for one in (0, 918, 918_656, 3_200_000_000)] == ["", "918", "918.7 K", "3.2 B"]
    assert [duration(one) for one in (9.9, 61, 3725)] == ["9 s", "1 min 01 s", "1 h 02 min"]
