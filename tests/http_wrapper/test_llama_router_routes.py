"""Mirrors chorus_http/routes/llama_router.py: what programs that manage a llama.cpp router send."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from chorus_proto.ids import ModelName
from chorus_proto.transfers import Transfer, TransferKind, TransferState
from chorus_proto.values import ReplicaState
from tests.support.fake_cluster import NODE, FakeCluster
from tests.support.http_face import Reply, get, http_face, post, send_raw, until
from tests.support.loading_cluster import BIG, LOADS, LoadingCluster, step


def send(cluster: FakeCluster, *sent: bytes) -> list[Reply]:
    async def run() -> list[Reply]:
        async with http_face(cluster) as server:
            return [await send_raw(server.port, one) for one in sent]

    return asyncio.run(run())


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("state", "value", "failed"),
    [
        (None, "unloaded", None),
        (ReplicaState.LOADING, "loading", None),
        (ReplicaState.READY, "loaded", None),
        (ReplicaState.UNLOADING, "unloaded", None),
        (ReplicaState.FAILED, "unloaded", True),
    ],
)
def test_the_list_says_of_each_model_whether_it_is_loaded(
    state: ReplicaState | None, value: str, failed: bool | None
) -> None:
    cluster = LoadingCluster()
    cluster.before = None if state is None else step(state)
    (reply,) = send(cluster, get("/models"))
    (row,) = [one for one in reply.rows("data") if one["id"] == BIG]
    status = msgspec.convert(row["status"], dict[str, object])
    assert (status["value"], status.get("failed")) == (value, failed)
    assert row["name"] == BIG  # Open WebUI fails on a null name


def test_load_and_unload_answer_success_and_refuse_what_is_so_already() -> None:
    cluster = LoadingCluster(LOADS[-1])
    early, load, again, unload = send(
        cluster,
        post("/models/unload", body(model=BIG)),
        post("/models/load", body(model=BIG)),
        post("/models/load", body(model=BIG)),
        post("/models/unload", body(model=BIG)),
    )
    assert [reply.status for reply in (early, load, again, unload)] == [400, 200, 400, 200]
    assert load.json() == unload.json() == {"success": True}
    assert (cluster.loads, cluster.unloads) == ([(BIG, None, None)], [(BIG, None)])
    assert early.error()["message"] == "model is not running"


def test_an_unknown_model_is_404() -> None:
    (reply,) = send(FakeCluster(), post("/models/load", body(model="nope")))
    assert (reply.status, reply.error()["code"]) == (404, "model_not_found")


def test_the_events_tell_of_a_load_from_its_begin_to_its_end() -> None:
    async def run() -> list[dict[str, object]]:
        cluster = LoadingCluster(*LOADS)
        told: list[dict[str, object]] = []
        async with http_face(cluster) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(get("/models/sse").replace(b"close", b"keep-alive"))
            async with asyncio.timeout(10):
                while b": listening" not in await reader.readline():
                    pass
                await until(lambda: cluster.looks >= 2)
                assert (await send_raw(server.port, post("/models/load", body(model=BIG)))).status == 200
                while not told or told[-1]["data"] != {"status": "loaded"}:
                    line = await reader.readline()
                    if line.startswith(b"data: "):
                        told.append(json.loads(line[6:]))
                        data = msgspec.convert(told[-1]["data"], dict[str, object])
                        told[-1]["data"] = {name: value for name, value in data.items() if name != "info"}
            writer.close()
        return told

    told = asyncio.run(run())
    assert {(one["model"], one["event"]) for one in told} == {(BIG, "status_change")}
    assert told[0]["data"] == {
        "status": "loading",
        "progress": {"stages": ["text_model"], "current": "text_model", "value": 0.0},
    }


def test_the_events_tell_of_a_download() -> None:
    def moving(state: TransferState, done_bytes: int) -> Transfer:
        return Transfer(
            transfer_id="abc",
            kind=TransferKind.PULL,
            state=state,
            model=ModelName("llama3.2:1b"),
            node_id=NODE,
            node_name="attic-pc",
            source="llama3.2:1b",
            done_bytes=done_bytes,
            total_bytes=100,
        )

    async def run() -> list[str]:
        cluster = FakeCluster()
        cluster.pull_steps = [moving(TransferState.RUNNING, 10)] * 2 + [moving(TransferState.DONE, 100)]
        async with http_face(cluster) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(get("/models/sse").replace(b"close", b"keep-alive"))
            async with asyncio.timeout(10):
                while b": listening" not in await reader.readline():
                    pass
                await until(lambda: cluster.looks >= 2)
                assert (await send_raw(server.port, post("/models", body(model="llama3.2:1b")))).status == 200
                told: list[str] = []
                while "download_finished" not in told:
                    line = await reader.readline()
                    if line.startswith(b"data: "):
                        told.append(json.loads(line[6:])["event"])
            writer.close()
        return told

    assert asyncio.run(run()) == ["download_progress", "download_finished"]


def test_it_calls_itself_a_router() -> None:
    (reply,) = send(FakeCluster(), get("/props"))
    assert (reply.json()["role"], reply.json()["models_autoload"]) == ("router", True)
