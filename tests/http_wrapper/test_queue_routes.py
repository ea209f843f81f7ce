"""Mirrors chorus_http/{routed,wishes}.py and routes/queue.py: what callers see of the queue and of routing."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from chorus_http.settings import HttpSettings
from chorus_proto.errors import QueueFull
from chorus_proto.ids import NodeId, RequestId
from chorus_proto.queue_state import ModelQueue, QueueState, Running, Standing, Waiting
from chorus_proto.values import Priority
from tests.support.fake_cluster import MODEL, NODE, FakeCluster, failing
from tests.support.http_face import Reply, get, http_face, post, send_raw

QUICK = HttpSettings(http_port=0, ping_every_s=0.02, stream_open_after_s=0.05, drain_within_s=1.0)
CHAT: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def ask(cluster: FakeCluster, *sent: bytes) -> list[Reply]:
    async def run() -> list[Reply]:
        async with http_face(cluster, QUICK) as server:
            return [await send_raw(server.port, one) for one in sent]

    return asyncio.run(run())


def chat(extra: str = "", *, path: str = "/v1/chat/completions", **fields: object) -> bytes:
    return post(path, json.dumps(CHAT | fields).encode(), extra=extra)


def test_headers_name_node_model_digest_strategy_and_how_long_it_waited_and_loaded() -> None:
    (reply,) = ask(FakeCluster(), chat())
    told = {name: value for name, value in reply.headers.items() if name.startswith("x-chorus-")}
    assert told == {
        "x-chorus-node": "attic-pc",
        "x-chorus-model": MODEL,
        "x-chorus-model-digest": "sha256-12ab",
        "x-chorus-attempt": "1",
        "x-chorus-strategy": "expected_finish",
        "x-chorus-queue-seconds": "0.250",
        "x-chorus-load-seconds": "0.000",
    }


def test_routing_stands_in_the_answer_of_who_asks_for_it_and_of_nobody_else() -> None:
    plain, asked = ask(FakeCluster(), chat(), chat(x_chorus={"routing": True}))
    assert "_routing" not in plain.json()
    routing = msgspec.convert(asked.json()["_routing"], dict[str, object])
    assert routing.items() >= {"backend": "attic-pc", "model": MODEL, "node_id": NODE, "attempt": 1}.items()
    assert "choices" in asked.json()


def test_a_stream_tells_its_routing_in_an_event_without_choices_before_its_end() -> None:
    (reply,) = ask(FakeCluster(), chat(stream=True, x_chorus={"routing": True}))
    events = [line.removeprefix(b"data: ") for line in reply.body.strip().split(b"\n\n")]
    assert events[-1] == b"[DONE]"
    found = [one for event in events[:-1] if "_routing" in (one := msgspec.json.decode(event, type=dict[str, object]))]
    assert len(found) == 1
    first = msgspec.json.decode(events[0], type=dict[str, object])
    assert (found[0]["id"], found[0]["object"], found[0]["choices"]) == (first["id"], first["object"], [])


def test_a_stream_that_waits_tells_its_place_in_headers_and_comments_and_then_goes_on() -> None:
    async def run() -> None:
        cluster = FakeCluster()
        cluster.slot = asyncio.Event()
        async with http_face(cluster, QUICK) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(chat(stream=True))
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode().lower()
            assert "x-chorus-queue-position: 3\r\n" in head
            assert "x-chorus-queue-length: 12\r\n" in head
            assert "x-chorus-expected-wait: 4.2\r\n" in head
            await asyncio.wait_for(reader.readuntil(b": queue position=3 of=12 expected_wait_s=4.2\n\n"), 5)
            cluster.slot.set()
            rest = await asyncio.wait_for(reader.read(), 5)
            assert b"Paris" in rest and b"[DONE]" in rest
            writer.close()

    asyncio.run(run())


def test_lines_of_json_hold_no_comments_while_they_wait() -> None:
    async def run() -> None:
        cluster = FakeCluster()
        cluster.slot = asyncio.Event()
        async with http_face(cluster, QUICK) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(chat(path="/api/chat", stream=True))
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            await asyncio.sleep(0.1)
            cluster.slot.set()
            body = await asyncio.wait_for(reader.read(), 5)
            assert b"queue position" not in body
            writer.close()

    asyncio.run(run())


def test_a_refusal_says_when_to_come_again() -> None:
    (reply,) = ask(FakeCluster(failing(QueueFull("too many wait", retry_after_s=7.2))), chat())
    assert (reply.status, reply.headers["retry-after"], reply.headers["x-should-retry"]) == (503, "8", "true")


def test_priority_and_patience_come_from_the_body_or_the_headers_and_the_body_goes_first() -> None:
    cluster = FakeCluster()
    ask(
        cluster,
        chat(),
        chat("X-Chorus-Priority: batch\r\nX-Queue-Timeout: 0\r\n"),
        chat("X-Chorus-Priority: batch\r\n", x_chorus={"priority": "interactive", "queue_within_s": 5}),
        chat("X-Chorus-Priority: Batch\r\n", path="/api/chat", stream=False),
    )
    assert [(call.priority, call.queue_within_s) for call in cluster.calls] == [
        (Priority.INTERACTIVE, None),
        (Priority.BATCH, 0.0),
        (Priority.INTERACTIVE, 5.0),
        (Priority.BATCH, None),
    ]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Chorus-Priority", "durable"),
        ("X-Chorus-Priority", ""),
        ("X-Queue-Timeout", "soon"),
        ("X-Queue-Timeout", "-1"),
        ("X-Queue-Timeout", "601"),
        ("X-Queue-Timeout", "nan"),
    ],
)
def test_headers_that_say_what_cannot_be_are_refused_by_name(header: str, value: str) -> None:
    cluster = FakeCluster()
    (reply,) = ask(cluster, chat(f"{header}: {value}\r\n"))
    assert (reply.status, reply.error()["param"]) == (400, header)
    assert not cluster.calls


def test_durable_cannot_be_asked_for_in_the_body_either() -> None:
    (reply,) = ask(FakeCluster(), chat(x_chorus={"priority": "durable"}))
    assert (reply.status, reply.error()["param"]) == (400, "x_chorus.priority")


def test_the_queue_is_shown_with_counts_models_and_who_waits_and_runs() -> None:
    cluster = FakeCluster()
    waiting = Waiting(
        request_id=RequestId("r1"),
        user="ann",
        model=MODEL,
        priority=Priority.BATCH,
        waited_s=2.5,
        standing=Standing(position=1, of=1, expected_wait_s=None),
    )
    running = Running(
        request_id=RequestId("r2"),
        user="ann",
        model=MODEL,
        priority=Priority.BATCH,
        node_id=NODE,
        node_name="attic-pc",
        running_s=1.0,
    )
    cluster.shown_queue = QueueState(
        waiting_total=1,
        running_total=1,
        limit=10,
        models=(ModelQueue(model=MODEL, waiting=1, running=1, slots=1, users=1, expected_wait_s=3.0),),
        waiting=(waiting,),
        running=(running,),
    )
    (reply,) = ask(cluster, get("/queue/status"))
    body = reply.json()
    assert (reply.status, body["waiting"], body["running"], body["limit"]) == (200, 1, 1, 10)
    assert reply.rows("models")[0]["expected_wait_s"] == 3.0
    (one,) = reply.rows("waiting_requests")
    assert (one["request_id"], one["user"], one["position"], one["expected_wait_s"]) == ("r1", "ann", 1, None)
    assert reply.rows("running_requests")[0]["node"] == "attic-pc"


def test_explaining_ranks_and_refuses_and_runs_nothing() -> None:
    cluster = FakeCluster()
    replies = ask(
        cluster,
        chat("X-Chorus-Priority: batch\r\n", path="/route/explain"),
        post("/route/explain", json.dumps({"model": MODEL, "prompt": "hi"}).encode()),
        post("/route/explain", b'{"model": 7, "prompt": "hi"}'),
    )
    body = replies[0].json()
    assert (body["chosen"], body["priority"], body["verdict"]) == (NODE, "batch", "attic-pc would run it at once")
    assert replies[0].rows("ranking")[0]["cost_s"] == 1.5
    assert replies[0].rows("refused") == [
        {"node_id": NodeId("cellar"), "node_name": "cellar-pc", "reason": "does not have it"}
    ]
    assert [reply.status for reply in replies] == [200, 200, 400]
    assert len(cluster.calls) == 2
    assert not cluster.ended
