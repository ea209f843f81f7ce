"""Mirrors chorus_http/hot_routes.py: what is answered in front of Quart is answered as Quart would."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from chorus_http.settings import HttpSettings
from chorus_proto.cluster import Call
from chorus_proto.generation import Delta
from tests.support.fake_cluster import MODEL, FakeCluster
from tests.support.http_face import Reply, get, http_face, post, send_raw

SETTINGS = HttpSettings(http_port=0, drain_within_s=1.0, body_limit_bytes=2_000)
MESSAGES = [{"role": "user", "content": "hi"}]
CHAT: dict[str, object] = {"model": MODEL, "messages": MESSAGES}
ASKED: dict[str, dict[str, object]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": MODEL, "prompt": "hi"},
    "/v1/messages": CHAT | {"max_tokens": 5},
    "/api/chat": CHAT,
    "/api/generate": {"model": MODEL, "prompt": "hi"},
    "/v1/embeddings": {"model": MODEL, "input": "hi"},
}
# What differs from one request to the next: its id, and the times.
_VARIES = re.compile(rb'[0-9a-f]{24}|"created(_at)?":("[^"]*"|\d+)|"\w*duration":\d+|"_routing"|\d+\.\d{3}')


def plain(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    varied = ("x-request-id", "request-id", "date", "content-length")
    headers = {name: value for name, value in reply.headers.items() if name not in varied}
    return reply.status, headers, _VARIES.sub(b"", reply.body)


def both(path: str, body: bytes, *, content_type: str = "application/json", extra: str = "") -> tuple[Reply, Reply]:
    """In front of Quart, and by Quart, which takes a slash at the end too."""

    async def run() -> tuple[Reply, Reply]:
        async with http_face(FakeCluster(), SETTINGS) as server:
            hot, quarts = (post(at, body, content_type=content_type, extra=extra) for at in (path, f"{path}/"))
            return await send_raw(server.port, hot), await send_raw(server.port, quarts)

    return asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ASKED)
def test_a_hot_route_and_its_twin_in_quart_answer_alike(path: str, stream: bool) -> None:
    body = ASKED[path] if path == "/v1/embeddings" else ASKED[path] | {"stream": stream}
    hot, quarts = both(path, json.dumps(body).encode())
    assert hot.status == 200
    assert plain(hot) == plain(quarts)


@pytest.mark.parametrize("path", ASKED)
def test_they_refuse_alike_what_is_no_json(path: str) -> None:
    hot, quarts = both(path, b"{")
    assert hot.status == 400
    assert plain(hot) == plain(quarts)


@pytest.mark.parametrize("path", ASKED)
def test_they_refuse_alike_what_a_form_of_another_site_could_send(path: str) -> None:
    form = "application/x-www-form-urlencoded"
    hot, quarts = both(path, b"{}", content_type=form, extra="Origin: http://localhost\r\n")
    assert hot.status in (400, 403)
    assert plain(hot) == plain(quarts)


def test_they_refuse_alike_a_body_over_the_limit() -> None:
    hot, quarts = both("/v1/chat/completions", b" " * 3_000)
    assert hot.status == 413
    assert plain(hot) == plain(quarts)


def test_a_body_of_unknown_length_is_refused_once_it_is_over_the_limit() -> None:
    async def run() -> Reply:
        async with http_face(FakeCluster(), SETTINGS) as server:
            chunked = "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{chunked}".encode()
            return await send_raw(server.port, head + b"bb8\r\n" + b" " * 3_000 + b"\r\n0\r\n\r\n")

    assert asyncio.run(run()).status == 413


def test_a_body_that_does_not_arrive_is_refused_in_words() -> None:
    impatient = HttpSettings(http_port=0, drain_within_s=1.0, body_within_s=0.2)

    async def run() -> Reply:
        async with http_face(FakeCluster(), impatient) as server:
            return await send_raw(server.port, post("/v1/chat/completions", b"{" * 100)[:-50])

    reply = asyncio.run(run())
    assert (reply.status, reply.error()["message"]) == (400, "The body did not arrive in time.")


def test_other_methods_of_a_hot_route_are_quarts_to_refuse() -> None:
    async def run() -> Reply:
        async with http_face(FakeCluster(), SETTINGS) as server:
            return await send_raw(server.port, get("/v1/chat/completions"))

    reply = asyncio.run(run())
    assert (reply.status, set(reply.headers["allow"].split(", "))) == (405, {"OPTIONS", "POST"})


def test_pages_of_an_allowed_site_may_read_the_answer() -> None:
    site = "http://pages.example"
    settings = HttpSettings(http_port=0, drain_within_s=1.0, cors_origins=(site,))

    async def run() -> Reply:
        async with http_face(FakeCluster(), settings) as server:
            asked = post("/v1/chat/completions", json.dumps(CHAT).encode(), extra=f"Origin: {site}\r\n")
            return await send_raw(server.port, asked)

    reply = asyncio.run(run())
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, site)


def test_a_bug_ends_its_request_alone_and_the_log_has_it(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(call: Call):  # an engine of the fake
        if call.model:
            raise RuntimeError("a bug")
        yield Delta("")

    async def run() -> tuple[Reply, Reply]:
        async with http_face(FakeCluster(broken), SETTINGS) as server:
            asked = post("/v1/chat/completions", json.dumps(CHAT).encode())
            return await send_raw(server.port, asked), await send_raw(server.port, get("/health"))

    reply, after = asyncio.run(run())
    assert (reply.status, after.status) == (500, 200)
    assert reply.headers["x-request-id"] in str(reply.error()["message"])
    assert "a bug" in caplog.text


def test_a_caller_who_leaves_before_its_body_has_come_is_counted_and_not_worked_for() -> None:
    cluster = FakeCluster()
    settings = HttpSettings(http_port=0, drain_within_s=1.0)

    async def run() -> None:
        async with http_face(cluster, settings) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(post("/v1/chat/completions", b"{" * 100)[:-50])
            await writer.drain()
            writer.close()

            async def counted() -> bool:
                reply = await send_raw(server.port, get("/metrics"))
                return b'chorus_http_requests_total{route="/v1/chat/completions",status="499"} 1.0' in reply.body

            async with asyncio.timeout(10):
                while not await counted():
                    await asyncio.sleep(0.01)

    asyncio.run(run())
    assert cluster.calls == []
