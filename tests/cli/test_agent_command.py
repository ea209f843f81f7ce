from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_cli.commands.agent import ready_words
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import (
    ClusterState,
    Hardware,
    Node,
    NodeState,
    Replica,
    ReplicaReport,
    ReplicaState,
    Score,
)

ME = NodeId("me")
MODEL = ModelName("demo-tiny")


def state(*, node: NodeState, assigned: ModelName | None, replica: ReplicaState) -> ClusterState:
    report = ReplicaReport(model=MODEL, state=replica)
    mine = Node(
        node_id=ME,
        name="attic",
        client_id="client-attic",
        address="10.0.0.2:1",
        state=node,
        hardware=Hardware(os="linux", arch="x86_64"),
        score=Score(score=42.0, comfortable_parameters=1e9),
        assigned_model=assigned,
        assignment_reason="No model: too little memory",
        replicas=(Replica(report=report),),
    )
    return ClusterState(version="1", epoch=1, uptime_s=1, nodes=(replace(mine, node_id=NodeId("other")), mine))


@pytest.mark.parametrize(
    ("node", "assigned", "replica", "said"),
    [
        (NodeState.ALIVE, MODEL, ReplicaState.READY, "joined, score 42.0; demo-tiny is ready"),
        (NodeState.ALIVE, None, ReplicaState.GONE, "joined, score 42.0. No model: too little memory"),
        (NodeState.ALIVE, MODEL, ReplicaState.LOADING, None),
        (NodeState.ALIVE, ModelName("another"), ReplicaState.READY, None),
        (NodeState.SUSPECT, MODEL, ReplicaState.READY, None),
    ],
)
def test_an_agent_is_ready_when_the_coordinator_counts_on_it(
    node: NodeState, assigned: ModelName | None, replica: ReplicaState, said: str | None
) -> None:
    assert ready_words(state(node=node, assigned=assigned, replica=replica), ME) == said


def test_an_agent_that_the_coordinator_has_not_heard_of_is_not_ready() -> None:
    assert ready_words(ClusterState(version="1", epoch=1, uptime_s=1), ME) is None
