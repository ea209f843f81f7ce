from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_cli.commands.queue import model_rows, running_rows, waiting_rows
from chorus_cli.commands.route import only_model, ranking_rows, refused_rows
from chorus_proto.errors import InvalidRequest
from chorus_proto.explained import Explanation, RankedReplica, RefusedNode
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.queue_state import ModelQueue, QueueState, Running, Standing, Waiting
from chorus_proto.values import ClusterState, ModelSummary, Priority, RoutingStrategy

TINY = ModelName("tiny")
ATTIC = NodeId("a")


def test_who_waits_is_shown_with_place_and_expected_wait_and_the_unknown_as_such() -> None:
    one = Waiting(
        request_id=RequestId("r1"),
        user="",
        model=TINY,
        priority=Priority.INTERACTIVE,
        waited_s=3.14,
        standing=Standing(position=2, of=7, expected_wait_s=75.0),
        late=True,
    )
    other = replace(one, user="ann", late=False, standing=Standing(position=3, of=7))
    rows = waiting_rows(QueueState(waiting=(one, other)))
    assert rows[0] == ("2/7", "3.1 s", "1 min 15 s", "interactive, late", "-", "tiny", "r1")
    assert rows[1][2:5] == ("?", "interactive", "ann")


def test_models_and_who_runs_are_rows_too() -> None:
    state = QueueState(
        models=(ModelQueue(model=TINY, waiting=3, running=2, slots=2, users=1, expected_wait_s=0.0),),
        running=(
            Running(
                request_id=RequestId("r2"),
                user="bob",
                model=TINY,
                priority=Priority.BATCH,
                node_id=ATTIC,
                node_name="attic",
                running_s=61,
            ),
        ),
    )
    assert model_rows(state) == [("tiny", "3", "1", "2", "2", "0.0 s")]
    assert running_rows(state) == [("1 min 01 s", "batch", "bob", "tiny", "attic", "r2")]


def test_the_chosen_replica_is_marked_and_the_refused_nodes_say_why() -> None:
    found = Explanation(
        model=TINY,
        strategy=RoutingStrategy.EXPECTED_FINISH,
        priority=Priority.INTERACTIVE,
        verdict="attic would run it at once",
        chosen=ATTIC,
        ranking=(
            RankedReplica(node_id=ATTIC, node_name="attic", slots=4, slots_busy=1, cost_s=1.234, reason="wait 0 s"),
            RankedReplica(node_id=NodeId("b"), node_name="cellar", slots=1, slots_busy=1, reason="no free slot"),
        ),
        refused=(RefusedNode(node_id=NodeId("c"), node_name="shed", reason="does not have the model"),),
    )
    assert ranking_rows(found) == [
        ("1 <-", "attic", "1/4", "1.23 s", "wait 0 s"),
        ("2", "cellar", "1/1", "", "no free slot"),
    ]
    assert refused_rows(found) == [("shed", "does not have the model")]


def test_without_a_name_the_only_ready_chat_model_is_meant_and_else_the_names_are_told() -> None:
    ready = ModelSummary(name=TINY, ready_on=(ATTIC,))
    vectors = ModelSummary(name=ModelName("vectors"), ready_on=(ATTIC,), embedding=True)
    idle = ModelSummary(name=ModelName("large"), on_disk_at=(ATTIC,))
    state = ClusterState(version="1", epoch=1, uptime_s=1, models=(ready, vectors, idle))
    assert only_model(state) == TINY
    other = ModelSummary(name=ModelName("other"), ready_on=(ATTIC,))
    with pytest.raises(InvalidRequest, match="tiny, other"):
        only_model(replace(state, models=(ready, other)))
    with pytest.raises(InvalidRequest, match="none is ready"):
        only_model(replace(state, models=(idle,)))
