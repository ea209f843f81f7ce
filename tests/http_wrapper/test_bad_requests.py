"""Bodies and heads that no polite client sends: refused in words, never a 5xx, and the next request is served."""

from __future__ import annotations

import asyncio
import json
import string
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chorus_http.settings import HttpSettings
from tests.support.fake_cluster import MODEL, FakeCluster, council
from tests.support.http_face import Reply, get, http_face, post, send_raw

CHAT = "/v1/chat/completions"
GOOD = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()
SMALL = HttpSettings(
    http_port=0,
    body_limit_bytes=100_000,
    body_within_s=0.2,
    head_within_s=0.3,
    drain_within_s=1.0,
)


def send(*sent: bytes, limits: HttpSettings | None = None) -> list[Reply]:
    """Each on its own connection; then a good request, which must be served."""

    async def run() -> list[Reply]:
        async with http_face(FakeCluster(), limits) as server:
            replies = [await send_raw(server.port, one) for one in sent]
            assert (await send_raw(server.port, post(CHAT, GOOD))).status == 200
            return replies

    return asyncio.run(run())


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/query"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"null", b'"x"', b'{"a":1,"a":2}', b"\xff\xfe{\0}\0", b'{"model":"\xff"}', b"[" * 100_000],
    ids=["empty", "open", "array", "null", "string", "twice", "utf-16", "bad utf-8", "deep"],
)
def test_what_is_not_a_json_object_is_400_invalid_json(path: str, body: bytes) -> None:
    (reply,) = send(post(path, body))
    assert (reply.status, reply.error()["code"]) == (400, "invalid_json")
    assert len(reply.headers["x-request-id"]) == 24


def test_eleven_megabytes_are_413_and_the_sender_gets_to_read_it() -> None:
    (reply,) = send(post(CHAT, b" " * 11 * 1024 * 1024))
    assert (reply.status, reply.error()["code"]) == (413, "body_too_large")


def test_a_chunked_body_over_the_limit_is_413() -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    (reply,) = send(head + chunk * 8 + b"0\r\n\r\n", limits=SMALL)
    assert (reply.status, reply.error()["code"]) == (413, "body_too_large")


def test_a_body_that_never_ends_is_cut_off() -> None:
    async def run() -> None:
        async with http_face(FakeCluster(), SMALL) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(5):
                    while True:
                        writer.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
                        await writer.drain()
                        await asyncio.sleep(0)
            writer.close()

    asyncio.run(run())


def test_a_body_that_does_not_come_in_time_is_refused_in_words() -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 50\r\n\r\n".encode()
    (reply,) = send(head + b'{"model"', limits=SMALL)
    assert (reply.status, reply.error()["code"]) == (400, "invalid_request")
    assert "in time" in str(reply.error()["message"])


def test_a_head_that_does_not_end_is_cut_off() -> None:
    async def run() -> None:
        async with http_face(FakeCluster(), SMALL) as server:
            for opening in (b"", b"GET / HTTP/1.1\r\nHost: "):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(opening)
                assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "head",
    [
        "".join(f"x-{i}: y\r\n" for i in range(101)),
        "".join(f"x-{i}: {'y' * 1000}\r\n" for i in range(20)),
        f"x: {'y' * 20_000}\r\n",
    ],
    ids=["many", "large", "one huge"],
)
def test_too_many_or_too_large_headers_are_431(head: str) -> None:
    (reply,) = send(f"GET /health HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
    assert reply.status == 431
    assert reply.error()["code"] == "invalid_request"


def test_a_header_that_never_ends_is_431() -> None:
    (reply,) = send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 100_000)
    assert reply.status == 431


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"x: a\x00b\r\n",
        b"\xff\xff\r\n",
    ],
)
def test_a_head_that_readers_disagree_on_is_400_and_closed(head: bytes) -> None:
    (reply,) = send(b"POST /query HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n12345")
    assert reply.status == 400


def test_only_json_is_taken_and_a_missing_type_passes() -> None:
    form, text, late, none, charset, foreign = send(
        post(CHAT, GOOD, content_type="application/x-www-form-urlencoded"),
        post(CHAT, GOOD, content_type="text/plain"),
        post(CHAT, GOOD, content_type="multipart/form-data; boundary=x"),
        post(CHAT, GOOD, content_type=None),
        post(CHAT, GOOD, content_type="application/json; charset=UTF-8"),
        post(CHAT, GOOD, content_type="application/json; charset=latin-1"),
    )
    for reply in (form, text, late, foreign):
        assert (reply.status, reply.error()["param"]) == (400, "Content-Type")
    assert "-H 'Content-Type: application/json'" in str(form.error()["message"])
    assert (none.status, charset.status) == (200, 200)


def test_unknown_paths_and_methods_have_the_same_shape_and_tell_nothing() -> None:
    lost, wrong, double, dots, trace, odd = send(
        get("/v1/nope"),
        get(CHAT),
        get("/v1//models"),
        get("/v1/%2e%2e/metrics"),
        get("/", method="TRACE"),
        get("/%00"),
    )
    assert (lost.status, lost.error()["code"]) == (404, "not_found")
    assert (wrong.status, wrong.error()["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["allow"]
    assert (double.status, dots.status, trace.status, odd.status) == (404, 404, 405, 404)
    for reply in (lost, wrong, double, dots, trace, odd):
        assert "server" not in reply.headers
        for word in (b"Quart", b"Werkzeug", b"Traceback", b".py"):
            assert word not in reply.body


def test_head_and_options_are_answered() -> None:
    head, options = send(get("/health", method="HEAD"), get(CHAT, method="OPTIONS"))
    assert (head.status, head.body) == (200, b"")
    assert options.status == 200 and "POST" in options.headers["allow"]
    assert "access-control-allow-origin" not in options.headers


def test_a_web_page_may_call_only_from_an_origin_in_the_settings() -> None:
    page = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: https://page.example\r\n\r\n"
    allowed = HttpSettings(http_port=0, cors_origins=("https://page.example",))
    (closed,), (opened,) = send(page), send(page, limits=allowed)
    assert "access-control-allow-origin" not in closed.headers
    assert opened.headers["access-control-allow-origin"] == "https://page.example"


def test_pipelined_requests_are_answered_in_turn() -> None:
    async def run() -> bytes:
        async with http_face(FakeCluster()) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            keep = get("/health").replace(b"Connection: close\r\n", b"")
            writer.write(keep * 20 + get("/nope"))
            raw = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return raw

    raw = asyncio.run(run())
    assert raw.count(b"HTTP/1.1 200") == 20
    assert raw.count(b"HTTP/1.1 404") == 1


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=20)
    | st.sampled_from(["user", "assistant", MODEL, "vote", "text", "json_schema"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(string.printable, max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(
    """model messages prompt max_tokens max_completion_tokens temperature top_p stop seed logit_bias logprobs n tools
    top_logprobs response_format stream stream_options user metadata x_chorus strategy nodes timeout_s quorum system
    presence_penalty suffix echo""".split()  # noqa: SIM905  # one name a word
)
BODIES = st.one_of(
    st.binary(max_size=100),
    st.dictionaries(NAMES | st.text(max_size=5), JSON_VALUES, max_size=6).map(lambda body: json.dumps(body).encode()),
    st.dictionaries(NAMES, JSON_VALUES, max_size=3).map(
        lambda body: json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]} | body).encode()
    ),
    st.lists(JSON_VALUES, max_size=3).map(
        lambda parts: json.dumps({"model": MODEL, "messages": [{"role": "user", "content": parts}]}).encode()
    ),
)


def test_no_body_at_all_gives_a_5xx() -> None:
    cluster = FakeCluster()
    cluster.ask_events = council()

    def prove(post_raw: Callable[[bytes], Reply]) -> None:
        @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.sampled_from([CHAT, "/v1/completions", "/query"]), BODIES)
        def property_(path: str, body: bytes) -> None:
            reply = post_raw(post(path, body))
            assert reply.status < 500, (body, reply.body)
            if reply.status != 200:
                assert reply.error()["message"]

        property_()

    async def run() -> None:
        async with http_face(cluster) as server:
            loop = asyncio.get_running_loop()

            def post_raw(sent: bytes) -> Reply:
                return asyncio.run_coroutine_threadsafe(send_raw(server.port, sent), loop).result(20)

            await asyncio.to_thread(prove, post_raw)

    asyncio.run(run())


@pytest.mark.parametrize("offer", ["Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", "upgrade:h2c\r\n"])
def test_an_offer_to_change_protocols_is_ignored_and_the_body_is_read(offer: str) -> None:
    async def run() -> int:
        async with http_face(FakeCluster()) as server:
            body = b'{"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}'
            request = post("/v1/chat/completions", body, extra=offer)
            request = request.replace(b"Connection: close", b"Connection: Upgrade, HTTP2-Settings, close")
            return (await send_raw(server.port, request)).status

    assert asyncio.run(run()) == 200
