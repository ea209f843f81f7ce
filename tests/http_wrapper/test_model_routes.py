"""Mirrors chorus_http/routes/model.py (seed 003) and model_control.py."""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import pytest

from chorus_http.settings import HttpSettings
from chorus_proto.errors import ClusterError, ModelNotFound, NodeNotFound, QueueTimeout
from chorus_proto.queue_state import Standing
from chorus_proto.values import ReplicaReport, ReplicaState
from tests.support.fake_cluster import MODEL, FakeCluster, failing
from tests.support.http_face import Reply, get, http_face, post, send_raw
from tests.support.loading_cluster import BIG, LOADS, LoadingCluster, state_with, step
from tests.support.patience import granted_s


def send(cluster: FakeCluster, *sent: bytes, settings: HttpSettings | None = None) -> list[Reply]:
    async def run() -> list[Reply]:
        async with http_face(cluster, settings) as server:
            return [await send_raw(server.port, one) for one in sent]

    return asyncio.run(run())


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def events_of(reply: Reply) -> list[tuple[str, dict[str, object]]]:
    """(event, data) of each, without comments; the closing [DONE] is checked and left out."""
    blocks = [block for block in reply.body.decode().split("\n\n") if block and not block.startswith(":")]
    assert blocks.pop() == "data: [DONE]"
    found: list[tuple[str, dict[str, object]]] = []
    for block in blocks:
        name, _, told = block.partition("\n")
        found.append((name.removeprefix("event: "), json.loads(told.removeprefix("data: "))))
    return found


def test_a_load_answers_at_once_and_its_progress_can_be_polled() -> None:
    cluster = LoadingCluster(*LOADS)
    began_s = time.monotonic()
    path = f"/api/model/status?model={BIG}"
    asked, first, second, last = send(
        cluster, post("/api/model/load", body(model=BIG, keep_alive="5m")), get(path), get(path), get(path)
    )
    assert time.monotonic() - began_s < granted_s(5)
    assert asked.status == 202
    assert cluster.loads == [(BIG, None, 300.0)]
    assert (asked.json()["success"], asked.json()["model"], asked.json()["nodes"]) == (True, BIG, ["attic-pc"])
    assert [(reply.json()["state"], reply.json()["progress"]) for reply in (first, second, last)] == [
        ("loading", 0.4),
        ("loading", 0.9),
        ("loaded", None),
    ]


def test_the_time_left_follows_the_last_load_there_or_else_the_size_of_the_file() -> None:
    half = step(ReplicaState.LOADING, 0.5)
    for cluster, left_s in ((LoadingCluster(half, measured_load_s=30.0), 15.0), (LoadingCluster(half), 5.5)):
        _, told = send(cluster, post("/api/model/load", body(model=BIG)), get(f"/api/model/status?model={BIG}"))
        assert told.json()["expected_s"] == pytest.approx(left_s)


def test_a_load_can_be_streamed_to_its_end() -> None:
    (reply,) = send(LoadingCluster(*LOADS), post("/api/model/load", body(model=BIG, stream=True)))
    assert reply.headers["content-type"].startswith("text/event-stream")
    told = events_of(reply)
    assert [(name, data["progress"]) for name, data in told] == [
        ("progress", 0.0),
        ("progress", 0.4),
        ("progress", 0.9),
        ("loaded", None),
    ]


def test_a_load_that_fails_says_why_in_its_stream_and_in_the_status() -> None:
    why = step(ReplicaState.FAILED, detail="it needs 9.00 GB, 4.00 GB are free", failure="insufficient_memory")
    asked, streamed, polled = send(
        LoadingCluster(LOADS[0], why),
        post("/api/model/load", body(model=BIG)),
        get(f"/api/model/status?model={BIG}&stream=true"),
        get(f"/api/model/status?model={BIG}"),
    )
    assert asked.status == 202
    error = {"code": "insufficient_memory", "message": "it needs 9.00 GB, 4.00 GB are free"}
    assert events_of(streamed)[-1][0] == "failed"
    assert (polled.json()["state"], polled.json()["error"]) == ("failed", error)


def test_the_report_of_an_earlier_failure_does_not_end_a_new_load() -> None:
    cluster = LoadingCluster(step(ReplicaState.FAILED, detail="old"), *LOADS)
    cluster.before = step(ReplicaState.FAILED, detail="old")
    (reply,) = send(cluster, post("/api/model/load", body(model=BIG, stream=True)))
    assert [name for name, _ in events_of(reply)] == ["progress", "progress", "progress", "loaded"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ModelNotFound("no such model", param="model"), 404), (NodeNotFound("no such node", param="node"), 404)],
)
def test_what_cannot_be_loaded_is_refused_before_anything_begins(error: ClusterError, status: int) -> None:
    cluster = LoadingCluster(*LOADS)
    cluster.load_error = error
    (reply,) = send(cluster, post("/api/model/load", body(model="nope", node="cellar")))
    assert (reply.status, reply.json()["error"], reply.json()["param"]) == (status, error.message, error.param)


def test_the_status_of_all_names_the_one_that_is_loaded() -> None:
    cluster = FakeCluster()
    cluster.shown_state = state_with([ReplicaReport(model=MODEL, state=ReplicaState.READY, resident_bytes=7)])
    (reply,) = send(cluster, get("/api/model/status"))
    told = reply.json()
    assert (told["current"], told["loaded"]) == (MODEL, [MODEL])
    models = reply.rows("models")
    assert [one["state"] for one in models] == ["unloaded", "loaded"]
    (copy,) = msgspec.convert(models[1]["nodes"], list[dict[str, object]])
    assert copy["resident_bytes"] == 7


def test_generate_answers_with_the_loaded_model_when_none_is_named() -> None:
    cluster = FakeCluster()
    cluster.shown_state = state_with([ReplicaReport(model=MODEL, state=ReplicaState.READY)])
    (reply,) = send(cluster, post("/api/model/generate", body(prompt="France?", max_tokens=9)))
    assert (reply.json()["text"], reply.json()["model"]) == ("The capital is Paris.", MODEL)
    assert cluster.calls[0].max_tokens == 9


def test_generate_without_a_loaded_model_asks_for_a_name() -> None:
    cluster = FakeCluster()
    cluster.shown_state = state_with([])
    (reply,) = send(cluster, post("/api/model/generate", body(prompt="France?")))
    assert (reply.status, reply.json()["code"]) == (503, "no_replica")
    assert "name one" in str(reply.json()["error"])


def test_the_error_of_a_generation_is_in_its_answer() -> None:
    cluster = FakeCluster(failing(ModelNotFound("model 'x' is on no node", param="model")))
    (reply,) = send(cluster, post("/api/model/generate", body(model="x", prompt="hi")))
    assert (reply.status, reply.json()["error"]) == (404, "model 'x' is on no node")


def test_unload_frees_the_named_model_or_the_only_one() -> None:
    cluster = LoadingCluster()
    cluster.before = step(ReplicaState.READY)
    named, gone = send(cluster, post("/api/model/unload", body(model=BIG)), post("/api/model/unload", b"{}"))
    assert (named.status, cluster.unloads) == (202, [(BIG, None)])
    assert (gone.status, gone.json()["param"]) == (400, "model")
    cluster.before = step(ReplicaState.READY)
    (only,) = send(cluster, post("/api/model/unload", b""))
    assert (only.status, cluster.unloads[-1]) == (202, (BIG, None))


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (post("/api/model/load", b"{}"), "model"),
        (post("/api/model/load", body(model="a\nb")), "model"),
        (post("/api/model/load", body(model=MODEL, keep_alive="soon")), "keep_alive"),
        (post("/api/model/load", body(model=MODEL, nodes=["x"])), "nodes"),
        (post("/api/model/load", body(model=MODEL, stream=1)), "stream"),
        (post("/api/model/generate", b"{}"), "prompt"),
        (post("/api/model/generate", body(prompt="x", task="y")), "prompt"),
        (post("/api/model/generate", body(prompt="x", max_tokens=0)), "max_tokens"),
        (get("/api/model/status?stream=maybe"), "stream"),
        (get("/api/model/status?stream=true"), "model"),
    ],
)
def test_bad_fields_are_400_and_named(sent: bytes, param: str) -> None:
    (reply,) = send(FakeCluster(), sent)
    assert (reply.status, reply.json()["param"]) == (400, param)


def test_the_web_process_answers_while_a_load_goes_on() -> None:
    async def run() -> None:
        endless = LoadingCluster(step(ReplicaState.LOADING, 0.1))
        async with http_face(endless) as server:
            watching = asyncio.create_task(send_raw(server.port, post("/api/model/load", body(model=BIG, stream=True))))
            for _ in range(20):
                began_s = time.monotonic()
                assert (await send_raw(server.port, get("/health"))).status == 200
                assert time.monotonic() - began_s < granted_s(1)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/execute", {"prompt": "hi"}),
        ("/api/model/generate", {"prompt": "hi"}),
    ],
)
def test_who_waits_for_a_load_gets_its_progress_as_comments(path: str, asked: dict[str, object]) -> None:
    async def run() -> None:
        cluster = FakeCluster()
        cluster.slot = asyncio.Event()
        cluster.standing = Standing(
            position=1, of=1, going_on="attic-pc loads it: 40%, reading\nweights, about 12 s left", load_left_s=12.0
        )
        quick = HttpSettings(http_port=0, ping_every_s=0.1, stream_open_after_s=0.1, drain_within_s=1.0)
        async with http_face(cluster, quick) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(post(path, body(model=BIG, stream=True, **asked)))
            words = b": queue position=1 of=1 loading: attic-pc loads it: 40%, reading weights, about 12 s left\n\n"
            head = await asyncio.wait_for(reader.readuntil(words), 5)
            if path == "/v1/chat/completions":
                assert b"x-chorus-expected-load: 12.0" in head
            cluster.slot.set()
            assert b"Paris." in await asyncio.wait_for(reader.read(), 5)
            writer.close()

    asyncio.run(run())


def test_past_the_wait_limit_it_is_503_with_the_percent_and_the_seconds() -> None:
    words = "model org/large:8b was not ready within 5 s: attic-pc loads it: 40%, reading weights, about 12 s left"
    cluster = FakeCluster(failing(QueueTimeout(words, retry_after_s=12.3)))
    sent = body(model=BIG, messages=[{"role": "user", "content": "hi"}])
    openai, ollama = send(cluster, post("/v1/chat/completions", sent), post("/api/chat", sent))
    assert (openai.status, openai.error()["message"]) == (503, words)
    assert (ollama.status, ollama.json()["error"]) == (503, words)
    assert openai.headers["retry-after"] == ollama.headers["retry-after"] == "13"
