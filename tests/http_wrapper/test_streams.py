"""Mirrors chorus_http/{sse,calls,exchange}.py: pings, errors after the start, and callers who leave or stop reading."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys

import msgspec
import pytest

from chorus_http.settings import HttpSettings
from chorus_proto.cluster import Call
from chorus_proto.errors import NodeLost, QueueTimeout
from chorus_proto.generation import Delta, Done, Piece
from tests.support.fake_cluster import MODEL, FakeCluster, council, failing, waiting
from tests.support.http_face import Reply, get, http_face, parse, post, send_raw, until
from tests.support.patience import granted_s

QUICK = HttpSettings(http_port=0, ping_every_s=0.02, stream_open_after_s=0.05, drain_within_s=1.0)
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
WHOLE = post("/v1/chat/completions", json.dumps(CHAT).encode())
STREAM = post("/v1/chat/completions", json.dumps(CHAT | {"stream": True}).encode())
# struct linger is two shorts on Windows and two ints elsewhere.
RESET_ON_CLOSE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
QUERY = post("/query", b'{"prompt":"hi","stream":true}')


def ask(cluster: FakeCluster, sent: bytes, settings: HttpSettings = QUICK) -> Reply:
    async def run() -> Reply:
        async with http_face(cluster, settings) as server:
            return await send_raw(server.port, sent)

    return asyncio.run(run())


def last_event(reply: Reply) -> dict[str, object]:
    line = reply.body.strip().split(b"\n\n")[-1]
    return msgspec.json.decode(line.removeprefix(b"data: "), type=dict[str, object])


def test_a_stream_says_who_answers_and_forbids_buffering() -> None:
    reply = ask(FakeCluster(), STREAM)
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert reply.headers["x-chorus-node"] == "attic-pc"
    assert reply.headers["x-chorus-model"] == MODEL
    assert (reply.headers["x-chorus-attempt"], reply.headers["x-chorus-queue-seconds"]) == ("1", "0.250")
    assert len(reply.headers["x-request-id"]) == 24
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_a_silent_stream_pings_and_then_goes_on() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        async with http_face(FakeCluster(waiting(gate)), QUICK) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(STREAM)
            for _ in range(3):
                await asyncio.wait_for(reader.readuntil(b": ping\n\n"), 5)
            gate.set()
            rest = await asyncio.wait_for(reader.read(), 5)
            assert b"Paris" in rest and b"[DONE]" in rest
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("partial", [True, False])
def test_a_failure_after_the_status_is_an_error_event_without_done(partial: bool) -> None:
    shown: tuple[Piece, ...] = (Delta("The "),) if partial else ()

    async def run() -> Reply:
        opened = asyncio.Event()

        async def late(call: Call):  # an engine of the fake
            for piece in shown:
                yield piece
            await opened.wait()
            raise NodeLost("the PC went away", param=None)

        async with http_face(FakeCluster(late), QUICK) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                async with asyncio.timeout(10):
                    writer.write(STREAM)
                    head = await reader.readuntil(b"\r\n\r\n")  # the status is on its way, output or not
                    opened.set()
                    return parse(head + await reader.read())
            finally:
                writer.close()

    reply = asyncio.run(run())
    assert reply.status == 200
    assert b"[DONE]" not in reply.body
    assert last_event(reply)["error"] == {
        "message": "the PC went away",
        "type": "server_error",
        "code": "node_lost",
        "param": None,
        "partial": partial,
        "request_id": reply.headers["x-request-id"],
    }


def test_an_answer_cut_off_without_an_end_is_an_error_not_silence() -> None:
    async def cut(call: Call):  # an engine of the fake
        yield Delta("The ")

    streamed = ask(FakeCluster(cut), STREAM)
    assert b"[DONE]" not in streamed.body and "error" in last_event(streamed)
    assert ask(FakeCluster(cut), WHOLE).status == 500


def test_a_bug_in_mid_stream_shows_only_the_request_id() -> None:
    reply = ask(FakeCluster(failing(RuntimeError("secret"), after=(Delta("a"),))), STREAM)
    assert b"secret" not in reply.body
    assert reply.headers["x-request-id"].encode() in reply.body.split(b"\n\n")[-2]


@pytest.mark.parametrize("sent", [WHOLE, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("shown", [(), (Delta("The "),)], ids=["before output", "after output"])
def test_a_caller_who_leaves_cancels_the_work_at_once(sent: bytes, shown: tuple[Piece, ...]) -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event(), before=shown))
        settings = HttpSettings(http_port=0, drain_within_s=1.0, stream_open_after_s=60.0)
        async with http_face(cluster, settings) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            await until(lambda: len(cluster.calls) == 1)
            assert cluster.ended == []
            writer.close()
            took_s = await until(lambda: cluster.cancelled == [cluster.calls[0].request_id])
            assert took_s < granted_s(1.0)
            scraped = (await send_raw(server.port, get("/metrics"))).body
            assert b"chorus_http_streams_open 0.0" in scraped

    asyncio.run(run())


def test_a_reset_connection_counts_as_leaving() -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event(), before=(Delta("a"),)))
        async with http_face(cluster, QUICK) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as caller:
                caller.sendall(STREAM)
                await until(lambda: len(cluster.calls) == 1)
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            assert await until(lambda: len(cluster.cancelled) == 1) < granted_s(1.0)

    asyncio.run(run())


def test_a_caller_who_stops_reading_is_slowed_and_then_cut_off() -> None:
    produced = 0

    async def endless(call: Call):  # an engine of the fake
        nonlocal produced
        while True:
            produced += 1
            yield Delta("x" * 10_000)
            await asyncio.sleep(0)

    async def run() -> None:
        cluster = FakeCluster(endless)
        settings = HttpSettings(http_port=0, stall_within_s=1.0, stream_buffer_bytes=65_536, drain_within_s=1.0)
        async with http_face(cluster, settings) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as caller:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                caller.sendall(STREAM)
                await until(lambda: len(cluster.ended) == 1)
                # Its connection goes with it, not only its work: the next scrape sees no open stream.
                scraped = await send_raw(server.port, get("/metrics"))
                assert b"chorus_http_streams_open 0.0" in scraped.body

    asyncio.run(run())
    # What the kernel took plus our buffer: nothing like what an unbounded stream would hold by then.
    assert produced < 2_000


def test_what_came_while_a_write_was_in_flight_goes_out_joined() -> None:
    async def burst(call: Call):  # an engine of the fake
        for number in range(50):
            yield Delta(f"{number} ")
        yield Done(finish_reason="stop")

    async def run() -> bytes:
        async with http_face(FakeCluster(burst), QUICK) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(STREAM)
            raw = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return raw

    raw = asyncio.run(run())
    assert parse(raw).body.count(b"data: ") == 52
    _, _, chunked = raw.partition(b"\r\n\r\n")
    assert int(chunked.partition(b"\r\n")[0], 16) > 5_000  # the first HTTP chunk holds the whole burst


def test_a_query_stream_joins_a_character_that_was_cut_in_two() -> None:
    cluster = FakeCluster()
    cluster.ask_events = council()
    reply = ask(cluster, QUERY)
    events = [event.split(b"\n") for event in reply.body.strip().split(b"\n\n")]
    names = [lines[0].decode().removeprefix("event: ") for lines in events]
    assert names == ["member_started", "member_delta", "member_answer", "member_answer", "finished"]
    assert json.loads(events[1][1].removeprefix(b"data: "))["text"] == "é!"
    assert json.loads(events[4][1].removeprefix(b"data: "))["missing"] == ["cellar-pc"]


def test_a_refusal_within_the_opening_wait_keeps_its_status() -> None:
    reply = ask(FakeCluster(failing(QueueTimeout("no slot came free"))), STREAM)
    assert (reply.status, reply.error()["code"]) == (503, "queue_timeout")
    assert reply.headers["x-should-retry"] == "false"


def test_shutdown_lets_a_running_stream_finish() -> None:
    async def run() -> Reply:
        gate = asyncio.Event()
        cluster = FakeCluster(waiting(gate, before=(Delta("The "),)))
        async with (
            asyncio.TaskGroup() as group,
            http_face(cluster, HttpSettings(http_port=0, drain_within_s=5.0)) as server,
        ):
            answer = group.create_task(send_raw(server.port, STREAM))
            await until(lambda: len(cluster.calls) == 1)
            asyncio.get_running_loop().call_later(0.2, gate.set)
        return await answer

    assert asyncio.run(run()).body.endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("sent", [WHOLE, STREAM, QUERY], ids=["whole", "stream", "query"])
def test_shutdown_cancels_what_stays_longer_than_the_drain_time(sent: bytes) -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event(), before=(Delta("The "),)))
        cluster.ask_gate = asyncio.Event()
        async with http_face(cluster, QUICK) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            await until(lambda: len(cluster.calls) + len(cluster.asks) == 1)
        await until(lambda: len(cluster.cancelled) == 1)
        writer.close()

    asyncio.run(run())
