from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_cli.commands.agent import ready_words, run
from chorus_cli.settings import CliSettings
from chorus_client.app import only_agent
from chorus_client.settings import AgentSettings
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.settings import SettingsError
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


def test_a_second_agent_of_a_name_is_refused_and_leaves_the_files_of_the_first_alone(tmp_path: Path) -> None:
    settings = AgentSettings(join="127.0.0.1:1", name="one", state_dir=tmp_path, microbench=False)
    pid, ready = tmp_path / "run" / "agent-one.pid", tmp_path / "ready.json"
    pid.parent.mkdir()
    pid.write_text("12345\n")
    ready.write_text("{}\n")

    async def second() -> None:
        await run(settings, CliSettings(), "agent-one", ready, asyncio.Event(), is_child=False)

    with only_agent(settings), pytest.raises(SettingsError, match="already runs"):
        asyncio.run(second())
    assert (pid.read_text(), ready.read_text()) == ("12345\n", "{}\n")
