"""Mirrors chorus_http/routes/execute.py and tasks.py (seed 001, 7.4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace

import msgspec
import pytest

from chorus_proto.cluster import Call
from chorus_proto.errors import CoordinatorUnavailable, NodeLost
from chorus_proto.generation import Channel, Delta, Done, Generation, Piece
from chorus_proto.ids import NodeId
from chorus_proto.queue_state import ModelQueue, QueueState
from chorus_proto.values import Courtesy, NodeState, ReplicaReport, ReplicaState, RoutingStrategy
from tests.support.fake_cluster import MODEL, NODE, FakeCluster, failing
from tests.support.http_face import Reply, get, http_face, post, send_raw
from tests.support.loading_cluster import BIG, state_with


def send(cluster: FakeCluster, *sent: bytes) -> list[Reply]:
    async def run() -> list[Reply]:
        async with http_face(cluster) as server:
            return [await send_raw(server.port, one) for one in sent]

    return asyncio.run(run())


def execute(**fields: object) -> bytes:
    return post("/v1/execute", json.dumps(fields).encode())


def test_a_task_comes_back_with_where_it_ran_and_what_each_stage_took() -> None:
    cluster = FakeCluster()
    (reply,) = send(
        cluster,
        execute(model=MODEL, task="France?", system="Be brief.", max_tokens=9, node="attic-pc", strategy="sticky"),
    )
    told = reply.json()
    assert (told["result"], told["status"], told["model"]) == ("The capital is Paris.", "completed", MODEL)
    assert (told["node"], told["node_id"], told["attempt"]) == ("attic-pc", NODE, 1)
    assert told["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "cached_tokens": 0}
    stages = reply.rows("stages")
    assert [stage["name"] for stage in stages] == ["queue", "load", "prefill", "decode"]
    assert stages[0]["seconds"] == 0.25
    call = cluster.calls[0]
    assert (call.node, call.strategy, call.max_tokens) == ("attic-pc", RoutingStrategy.STICKY, 9)
    messages = Generation.decoded(call.generation).messages
    assert messages and [message.role for message in messages] == ["system", "user"]


def test_a_streamed_task_tells_start_text_and_end() -> None:
    async def thinker(call: Call) -> AsyncGenerator[Piece, None]:
        yield Delta("hm", channel=Channel.ANALYSIS)
        yield Delta("Par")
        yield Delta("is")
        yield Done(finish_reason="stop", completion_tokens=3)

    (reply,) = send(FakeCluster(thinker), execute(model=MODEL, prompt="France?", stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in reply.body.decode().split("\n\n") if block and block[0] != ":"]
    names = [lines[0].removeprefix("event: ") for lines in blocks]
    told = [json.loads(lines[1].removeprefix("data: ")) for lines in blocks]
    assert names == ["started", "delta", "delta", "finished"]
    assert told[0]["node"] == "attic-pc"
    assert [one["text"] for one in told[1:3]] == ["Par", "is"]
    assert (told[3]["result"], told[3]["finish_reason"]) == ("Paris", "stop")


def test_the_largest_loaded_model_is_taken_when_none_is_named() -> None:
    cluster = FakeCluster()
    cluster.shown_state = state_with([ReplicaReport(model=name, state=ReplicaState.READY) for name in (MODEL, BIG)])
    (reply,) = send(cluster, execute(prompt="hi"))
    assert reply.json()["model"] == BIG


def test_many_tasks_at_once_are_all_answered() -> None:
    async def run() -> list[Reply]:
        async with http_face(FakeCluster()) as server:
            return await asyncio.gather(
                *(send_raw(server.port, execute(model=MODEL, prompt=f"{n}", stream=n % 2 == 0)) for n in range(40))
            )

    replies = asyncio.run(run())
    assert [reply.status for reply in replies] == [200] * 40
    assert len({reply.headers["x-request-id"] for reply in replies}) == 40


def test_a_failure_has_its_status_before_and_an_event_after_the_first_text() -> None:
    before, after = (
        send(FakeCluster(failing(NodeLost("gone"), after=pieces)), execute(model=MODEL, prompt="hi", stream=True))[0]
        for pieces in ((), (Delta("Par"),))
    )
    assert after.status == 200
    assert b'"node_lost"' in after.body
    assert b"event: finished" not in after.body
    assert b'"node_lost"' in before.body


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x", "messages": []}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "system": "y"}, "system"),
        ({"prompt": "x", "temperature": 3}, "temperature"),
        ({"prompt": "x", "stop": ["a"] * 17}, "stop"),
        ({"prompt": "x", "timeout_s": 0}, "timeout_s"),
        ({"prompt": "x", "strategy": "best"}, "strategy"),
        ({"prompt": "x", "profile": "DEV"}, "profile"),
    ],
)
def test_a_bad_field_is_400_and_named(fields: dict[str, object], param: str) -> None:
    (reply,) = send(FakeCluster(), execute(**fields))
    assert (reply.status, reply.error()["param"]) == (400, param)


def test_the_status_tells_models_queue_depths_metrics_and_nodes() -> None:
    cluster = FakeCluster()
    cluster.shown_state = replace(
        state_with([ReplicaReport(model=MODEL, state=ReplicaState.READY)]), finished_total=5, failed_total=1
    )
    cluster.shown_queue = QueueState(
        waiting_total=3,
        running_total=2,
        limit=1000,
        models=(ModelQueue(model=MODEL, waiting=3, running=2, slots=2, users=1, expected_wait_s=4.5),),
    )
    (reply,) = send(cluster, get("/v1/status"))
    told = reply.json()
    assert told["health"] == {"status": "ok", "reasons": []}
    queue = {"model": MODEL, "waiting": 3, "running": 2, "slots": 2, "expected_wait_s": 4.5}
    assert told["queue"] == {"waiting": 3, "running": 2, "limit": 1000, "models": [queue]}
    metrics = msgspec.convert(told["metrics"], dict[str, float])
    assert (metrics["finished_total"], metrics["failed_total"]) == (5, 1)
    states = {(one["model"], one["state"]) for one in reply.rows("models")}
    assert states == {(MODEL, "loaded"), (BIG, "unloaded")}
    (node,) = reply.rows("nodes")
    assert (node["node"], node["state"]) == ("attic-pc", "alive")


def test_the_health_says_what_is_wrong() -> None:
    well = state_with([ReplicaReport(model=MODEL, state=ReplicaState.READY)])
    slow = ReplicaReport(model=MODEL, state=ReplicaState.READY, degraded=True, detail="a tenth of its speed")
    away = replace(well.nodes[0], state=NodeState.DEAD)
    cases = {
        "degraded": state_with([slow]),
        "no_model": state_with([]),
        "no_nodes": replace(well, nodes=(away,)),
        "draining": replace(well, draining=True),
    }
    for status, state in cases.items():
        cluster = FakeCluster()
        cluster.shown_state = state
        (reply,) = send(cluster, get("/v1/status"))
        health = reply.json()["health"]
        assert isinstance(health, dict)
        assert health["status"] == status
        assert health["reasons"]


def test_a_pc_that_yields_to_its_owner_or_sleeps_says_so_and_is_no_fault() -> None:
    well = state_with([ReplicaReport(model=MODEL, state=ReplicaState.READY)])
    polite = replace(well.nodes[0], courtesy=Courtesy(paused=True, reason="its owner is at the keyboard"))
    asleep = replace(well.nodes[0], node_id=NodeId("2"), name="cellar", state=NodeState.ASLEEP)
    cluster = FakeCluster()
    cluster.shown_state = replace(well, nodes=(polite, asleep))
    (reply,) = send(cluster, get("/v1/status"))
    assert reply.json()["health"] == {"status": "ok", "reasons": []}
    told = [(node["state"], node["courtesy"]) for node in reply.rows("nodes")]
    assert told == [("alive", "polite pause: its owner is at the keyboard"), ("asleep", "")]


def test_the_status_without_a_coordinator_is_503() -> None:
    cluster = FakeCluster()
    cluster.state_error = CoordinatorUnavailable("the coordinator is away")
    (reply,) = send(cluster, get("/v1/status"))
    assert (reply.status, reply.error()["code"]) == (503, "coordinator_unavailable")
    assert "retry-after" in reply.headers
