"""Nobody passes the gate without a right: every route is walked, and what strangers send is sent over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from quart import Quart

from chorus_http.app import create_app
from chorus_http.chats.store import ChatStore
from chorus_http.dashboard_files import PREFIX, dashboard
from chorus_http.exchange import Exchange
from chorus_http.gate import THIS_PC, WRONG_KEYS_PER_MINUTE, Gate
from chorus_http.listen import HttpServer
from chorus_http.rights import RIGHTS, right_of
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.errors import ClusterError, ErrorCode, Forbidden, RateLimitExceeded
from chorus_proto.ids import RequestId
from chorus_proto.keys import ApiKey, KeyClaim, Scope, key_text
from chorus_proto.tls.authority import PUBLIC_FILE
from chorus_proto.tls.folder import FOLDER
from tests.support.clock import FakeClock
from tests.support.fake_cluster import MODEL, FakeCluster, waiting
from tests.support.http_face import Reply, http_face, send_raw, until
from tests.support.patience import granted_s

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()
STREAMED = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
LOCKED = HttpSettings(http_port=0, drain_within_s=1.0, require_keys=True)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def request(path: str, *headers: str, method: str = "GET", body: bytes = b"", host: str = "localhost") -> bytes:
    """The bytes of one request on a connection that closes after it."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", f"Content-Length: {len(body)}"]
    if body:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"


def refusal(reply: Reply) -> tuple[int, object]:
    return reply.status, reply.error()["code"]


@dataclass(frozen=True, slots=True)
class Face:
    """The wrapper on a real port, with keys asked for."""

    cluster: FakeCluster
    server: HttpServer

    tls: ssl.SSLContext | None = None

    async def send(self, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> Reply:
        return await send_raw(self.server.port, request(path, *headers, method=method, body=body), self.tls)

    async def chat(self, *headers: str) -> Reply:
        return await self.send(CHAT, *headers, method="POST", body=BODY)


@asynccontextmanager
async def locked(settings: HttpSettings = LOCKED, *, chats: ChatStore | None = None) -> AsyncGenerator[Face]:
    cluster = FakeCluster()
    async with http_face(cluster, settings, chats=chats) as server:
        yield Face(cluster, server, trusting(settings, server))


def trusting(settings: HttpSettings, server: HttpServer) -> ssl.SSLContext | None:
    """What a client of `server` connects with; None in clear."""
    if server.url.startswith("http:"):
        return None
    return ssl.create_default_context(cafile=settings.state_dir / FOLDER / PUBLIC_FILE)


@pytest.fixture
def chats(tmp_path: Path) -> Iterator[ChatStore]:
    store = ChatStore.open(tmp_path / "chats.sqlite")
    yield store
    store.close()


def app_of(chats: ChatStore, settings: HttpSettings = LOCKED) -> Quart:
    return create_app(FakeCluster(), settings, SystemClock(), chats=chats)


def routes(app: Quart) -> Iterator[tuple[str, str]]:
    """Every (method, rule) that the app would serve."""
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule.rule


def path_of(rule: str) -> str:
    if rule.startswith(PREFIX):
        return f"{PREFIX}/{dashboard().build}/shell/main.js"
    return re.sub(r"<[^>]+>", "x", rule)


# The walk -----------------------------------------------------------------------------------------------------------


def test_every_route_has_its_right_and_no_right_is_left_without_its_route(chats: ChatStore) -> None:
    there = {f"{method} {rule}" for method, rule in routes(app_of(chats))}
    assert there - set(RIGHTS) == set(), "name these in rights.py: until then they are refused to everybody"
    assert set(RIGHTS) - there == set(), "rights.py names routes that are gone"


def test_only_probes_and_pages_of_fixed_text_are_public() -> None:
    fixed = {"GET /", "GET /docs", "GET /join/ca", f"GET {PREFIX}/<build>/<path:name>"}
    assert {route for route, right in RIGHTS.items() if right is None} == {"GET /health", "GET /readyz"} | fixed


@pytest.mark.parametrize("tls", [False, True])
def test_without_a_key_every_route_and_method_is_401_but_the_public_ones(
    chats: ChatStore, tmp_path: Path, tls: bool
) -> None:
    settings = replace(LOCKED, tls=tls, state_dir=tmp_path)

    async def run() -> None:
        async with locked(settings, chats=chats) as face:
            assert face.server.url.startswith("https:" if tls else "http:")
            paths = {path_of(rule) for _, rule in routes(app_of(chats))} | {"/no/such/path", "/v1/", "/admin"}
            public = {path_of(route.partition(" ")[2]) for route, right in RIGHTS.items() if right is None}
            for path in sorted(paths):
                for method in METHODS:
                    reply = await face.send(path, method=method)
                    expected = 200 if path in public and method in ("GET", "HEAD") else 401
                    if path == "/join/ca" and expected == 200 and not tls:
                        expected = 404  # there is no authority
                    assert reply.status == expected, (method, path, reply)
            assert face.cluster.calls == [] and face.cluster.loads == [] and face.cluster.unloads == []

    asyncio.run(run())


def test_a_key_of_the_wrong_scope_is_403_on_every_route(chats: ChatStore) -> None:
    async def run() -> None:
        async with locked(chats=chats) as face:
            keys = {scope: face.cluster.add_key(scope, scope) for scope in Scope}
            for method, rule in routes(app_of(chats)):
                right = right_of(method, rule)
                for scope, key in keys.items():
                    if right is None or scope in right or scope is Scope.ADMIN:
                        continue
                    reply = await face.send(path_of(rule), bearer(key), method=method)
                    assert reply.status == 403, (method, rule, scope)
            assert face.cluster.calls == []

    asyncio.run(run())


def test_a_route_that_nobody_declared_is_refused_even_to_an_admin() -> None:
    gate = Gate(cluster := FakeCluster(), LOCKED, FakeClock())
    key = cluster.add_key("root", Scope.ADMIN)
    with pytest.raises(Forbidden):
        enter(gate, "/new", rule="/new", headers=(("authorization", f"Bearer {key}"),))


def test_the_right_scope_gets_in_and_the_cluster_hears_who_asks() -> None:
    async def run() -> None:
        async with locked() as face:
            for header in ("Authorization: Bearer {}", "authorization: bearer {}", "x-api-key: {}"):
                key = face.cluster.add_key(f"ann {header[:3]}", Scope.INFER)
                assert (await face.chat(header.format(key))).status == 200
            assert [call.user for call in face.cluster.calls] == ["ann Aut", "ann aut", "ann x-a"]

    asyncio.run(run())


def test_on_loopback_no_key_is_asked_for_and_a_key_of_somebody_elses_service_counts_as_none() -> None:
    async def run() -> None:
        async with locked(HttpSettings(http_port=0, drain_within_s=1.0)) as face:
            assert (await face.chat()).status == 200
            assert (await face.chat(bearer("sk-of-another-service"))).status == 200
            assert refusal(await face.chat(bearer(key_text()[1]))) == (401, "invalid_api_key")

    asyncio.run(run())


# A: keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shown",
    ["\xff\xff", "", "Bearer", "Bearer \xff\xfe", "Bearer chorus_", "Basic dXNlcjpwYXNz", "Bearer " + "a" * 9_000],
)
def test_a_key_that_is_none_is_401_and_never_an_accident(shown: str) -> None:
    async def run() -> None:
        async with locked() as face:
            assert refusal(await face.chat(f"Authorization: {shown}")) == (401, "invalid_api_key")

    asyncio.run(run())


def test_half_a_key_and_two_keys_are_401() -> None:
    async def run() -> None:
        async with locked() as face:
            one, two = face.cluster.add_key("one", Scope.INFER), face.cluster.add_key("two", Scope.INFER)
            assert (await face.chat(bearer(one[:-1]))).status == 401
            assert (await face.chat(bearer(one), f"x-api-key: {two}")).status == 401
            assert (await face.chat(bearer(one), f"x-api-key: {one}")).status == 200

    asyncio.run(run())


def test_wrong_secrets_are_401_then_429_while_the_right_one_still_gets_in() -> None:
    async def run() -> None:
        async with locked() as face:
            good = face.cluster.add_key("ann", Scope.INFER)
            wrong = good[:16] + key_text()[1][16:]
            replies = [await face.chat(bearer(wrong)) for _ in range(WRONG_KEYS_PER_MINUTE + 1)]
            assert [reply.status for reply in replies] == [401] * WRONG_KEYS_PER_MINUTE + [429]
            assert int(replies[-1].headers["retry-after"]) >= 1
            assert (await face.chat(bearer(good))).status == 200

    asyncio.run(run())


def test_a_key_in_the_address_is_401_even_if_it_is_good_and_a_cookie_is_no_key() -> None:
    async def run() -> None:
        async with locked() as face:
            key = face.cluster.add_key("ann", Scope.ADMIN)
            for query in (f"api_key={key}", f"x={key}", f"x=%63{key[1:]}", "API-KEY=sk-1", "a=b&access_token=t"):
                reply = await face.send(f"/v1/models?{query}", bearer(key))
                assert refusal(reply) == (401, "invalid_api_key")
                assert key.encode() not in reply.body
            assert (await face.send("/v1/models", f"Cookie: key={key}; session={key}")).status == 401

    asyncio.run(run())


@pytest.mark.parametrize("tls", [False, True])
def test_a_revoked_key_ends_its_running_stream_within_a_second_and_is_401_from_then_on(
    tmp_path: Path, tls: bool
) -> None:
    # A stream that is opened at once, so that it is the connection that must be cut.
    settings = replace(LOCKED, tls=tls, state_dir=tmp_path, stream_open_after_s=0.05)

    async def run() -> None:
        gate = asyncio.Event()
        cluster = FakeCluster(waiting(gate))
        async with http_face(cluster, settings) as server:
            trust = trusting(settings, server)
            key, other = cluster.add_key("ann", Scope.INFER), cluster.add_key("ben", Scope.INFER)
            sent = [request(CHAT, bearer(k), method="POST", body=STREAMED) for k in (key, other)]
            pairs = [await asyncio.open_connection("127.0.0.1", server.port, ssl=trust) for _ in sent]
            for (reader, writer), one in zip(pairs, sent, strict=True):
                writer.write(one)
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await cluster.revoke_key("ann")
            began_s = time.monotonic()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                async with asyncio.timeout(5):
                    await pairs[0][0].readuntil(b"[DONE]")
            assert time.monotonic() - began_s <= granted_s(1.0)
            await until(lambda: len(cluster.cancelled) == 1)
            again = await send_raw(server.port, request("/v1/models", bearer(key)), trust)
            assert refusal(again) == (401, "invalid_api_key")
            gate.set()
            assert b"[DONE]" in await asyncio.wait_for(pairs[1][0].read(), 5)
            for _, writer in pairs:
                writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models",
        "/V1/models",
        "/v1/..;/reassign",
        "/v1/%2e%2e/reassign",
        "/health/../reassign",
        "/health/..%2freassign",
        "/health;/reassign",
        "/%72eassign",
        "/reassign/",
        "/health%00",
        "/health?/../reassign",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_trick_of_the_path_gets_past_the_gate(path: str, method: str) -> None:
    async def run() -> None:
        async with locked() as face:
            reply = await face.send(path, method=method)
            health = path.startswith("/health?") and method == "GET"
            assert reply.status in ((200,) if health else (400, 401, 404)), reply

    asyncio.run(run())


def test_when_nobody_can_tell_whether_a_key_is_good_it_is_503() -> None:
    class Away(FakeCluster):
        async def check_key(self, claim: KeyClaim) -> ApiKey:
            await asyncio.Event().wait()
            return await super().check_key(claim)

    async def run() -> None:
        cluster = Away()
        settings = HttpSettings(http_port=0, drain_within_s=1.0, require_keys=True, metadata_within_s=0.2)
        async with http_face(cluster, settings) as server:
            reply = await send_raw(server.port, request("/v1/models", bearer(cluster.add_key("ann", Scope.INFER))))
            assert refusal(reply) == (503, "coordinator_unavailable")

    asyncio.run(run())


# B: browsers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "", "8.8.8.8", "[::2]"],
)
@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_a_host_that_is_not_ours_is_400_before_anything_else(host: str, path: str) -> None:
    async def run() -> Reply:
        async with http_face(FakeCluster()) as server:
            return await send_raw(server.port, request(path, host=host))

    assert refusal(asyncio.run(run())) == (400, "bad_host")


def test_two_hosts_or_none_are_refused() -> None:
    async def run() -> list[Reply]:
        async with http_face(FakeCluster()) as server:
            twice = request("/health", "Host: evil.example")
            none = b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
            return [await send_raw(server.port, one) for one in (twice, none)]

    assert [reply.status for reply in asyncio.run(run())] == [400, 400]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://localhost.evil", ""])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_page_of_another_site_may_not_write_even_with_a_cookie(origin: str, method: str) -> None:
    async def run() -> None:
        async with locked(HttpSettings(http_port=0, drain_within_s=1.0)) as face:
            reply = await face.send(CHAT, f"Origin: {origin}", "Cookie: session=1", method=method, body=BODY)
            assert refusal(reply) == (403, "forbidden")
            assert face.cluster.calls == []

    asyncio.run(run())


def test_a_page_of_this_server_may_write() -> None:
    async def run() -> None:
        async with http_face(FakeCluster()) as server:
            own = f"localhost:{server.port}"
            sent = request(CHAT, f"Origin: http://{own}", method="POST", body=BODY, host=own)
            assert (await send_raw(server.port, sent)).status == 200

    asyncio.run(run())


PREFLIGHT = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, content-type")


def test_a_preflight_from_elsewhere_is_granted_nothing() -> None:
    async def run() -> None:
        async with locked() as face:
            reply = await face.send(CHAT, "Origin: https://evil.example", *PREFLIGHT, method="OPTIONS")
            assert reply.status == 403
            assert not [name for name in reply.headers if name.startswith("access-control-")]
            # Without an Origin it is no browser's, and so needs a key like everything.
            assert (await face.send(CHAT, *PREFLIGHT, method="OPTIONS")).status == 401

    asyncio.run(run())


def test_a_page_that_the_settings_name_may_ask_and_call_but_never_into_a_private_network() -> None:
    origin = "https://chat.example"
    settings = HttpSettings(http_port=0, drain_within_s=1.0, require_keys=True, cors_origins=(origin,))

    async def run() -> None:
        async with locked(settings) as face:
            private = "Access-Control-Request-Private-Network: true"
            asked = await face.send(CHAT, f"Origin: {origin}", *PREFLIGHT, private, method="OPTIONS")
            assert asked.headers["access-control-allow-origin"] == origin
            assert "authorization" in asked.headers["access-control-allow-headers"]
            assert "access-control-allow-private-network" not in asked.headers
            assert "access-control-allow-credentials" not in asked.headers
            key = face.cluster.add_key("ann", Scope.INFER)
            assert (await face.chat(f"Origin: {origin}", bearer(key))).status == 200
            keyless = await face.chat(f"Origin: {origin}")
            assert keyless.status == 401
            assert keyless.headers["access-control-allow-origin"] == origin, "the page must be able to read why"
            other = await face.chat("Origin: https://evil.example", bearer(key))
            assert other.status == 403 and "access-control-allow-origin" not in other.headers

    asyncio.run(run())


def test_a_form_of_another_page_cannot_pose_as_json() -> None:
    async def run() -> None:
        async with http_face(cluster := FakeCluster()) as server:
            sent = request(CHAT, method="POST", body=BODY).replace(b"application/json", b"text/plain")
            assert (await send_raw(server.port, sent)).status == 400
            assert cluster.calls == []

    asyncio.run(run())


# Rates and users ----------------------------------------------------------------------------------------------------


def enter(
    gate: Gate,
    path: str = CHAT,
    *,
    rule: str = CHAT,
    method: str = "POST",
    headers: tuple[tuple[str, str], ...] = (),
    client: str = "192.0.2.9",
) -> Exchange:
    """Through the gate in memory; the exchange is left open."""
    exchange = Exchange(request_id=RequestId("1"), started_s=0.0)
    scope: dict[str, object] = {
        "type": "http",
        "method": method,
        "path": path,
        "http_version": "1.1",
        "query_string": b"",
        "client": (client, 1),
        "headers": [(b"host", b"localhost"), *((name.encode(), value.encode()) for name, value in headers)],
    }

    async def run() -> None:
        await gate.enter(exchange, scope, rule)

    asyncio.run(run())
    return exchange


def code_of(
    gate: Gate, *, key: str = "", client: str = "192.0.2.9", user: str = "", method: str = "POST"
) -> ErrorCode | None:
    headers = (("authorization", f"Bearer {key}"),) if key else ()
    headers += (("x-openwebui-user-id", user),) if user else ()
    try:
        exchange = enter(gate, headers=headers, client=client)
    except ClusterError as error:
        return error.code
    asyncio.run(exchange.closing.aclose())
    return None


def test_a_key_may_send_so_many_requests_a_minute_and_reading_is_free() -> None:
    clock, cluster = FakeClock(), FakeCluster()
    settings = HttpSettings(require_keys=True, key_requests_per_minute=3)
    gate = Gate(cluster, settings, clock)
    ann, ben = cluster.add_key("ann", Scope.INFER), cluster.add_key("ben", Scope.INFER, requests_per_minute=5)
    assert [code_of(gate, key=ann) for _ in range(4)] == [None] * 3 + [ErrorCode.RATE_LIMIT_EXCEEDED]
    assert [code_of(gate, key=ben) for _ in range(6)] == [None] * 5 + [ErrorCode.RATE_LIMIT_EXCEEDED]
    for _ in range(10):
        headers = (("authorization", f"Bearer {ann}"),)
        asyncio.run(enter(gate, "/v1/models", rule="/v1/models", method="GET", headers=headers).closing.aclose())
    clock.advance(20)
    assert [code_of(gate, key=ann) for _ in range(2)] == [None, ErrorCode.RATE_LIMIT_EXCEEDED]


def test_a_refusal_says_when_to_come_back() -> None:
    gate = Gate(cluster := FakeCluster(), HttpSettings(require_keys=True, key_requests_per_minute=1), FakeClock())
    headers = (("authorization", f"Bearer {cluster.add_key('ann', Scope.INFER)}"),)
    enter(gate, headers=headers)
    with pytest.raises(RateLimitExceeded) as caught:
        enter(gate, headers=headers)
    assert caught.value.retry_after_s == pytest.approx(60)


def test_a_key_may_have_so_many_requests_at_once() -> None:
    gate = Gate(cluster := FakeCluster(), HttpSettings(require_keys=True, key_parallel=2), FakeClock())
    headers = (("authorization", f"Bearer {cluster.add_key('ann', Scope.INFER)}"),)
    first, _second = enter(gate, headers=headers), enter(gate, headers=headers)
    with pytest.raises(RateLimitExceeded, match="at once"):
        enter(gate, headers=headers)
    asyncio.run(first.closing.aclose())
    enter(gate, headers=headers)


def test_other_pcs_without_a_key_are_counted_by_address_and_this_one_is_not() -> None:
    gate = Gate(FakeCluster(), HttpSettings(require_keys=False, address_requests_per_minute=2), FakeClock())
    late = ErrorCode.RATE_LIMIT_EXCEEDED
    assert [code_of(gate, client="192.0.2.9") for _ in range(3)] == [None, None, late]
    assert code_of(gate, client="::ffff:192.0.2.9") is late
    assert [code_of(gate, client=f"2001:db8::{i}") for i in range(3)] == [None, None, late]
    assert code_of(gate, client="2001:db8:0:1::1") is None
    assert {code_of(gate, client=client) for client in ("127.0.0.1", "::1", "127.0.0.7") for _ in range(5)} == {None}
    assert enter(gate, client="192.0.2.10").user == "@192.0.2.10"
    assert enter(gate, client=THIS_PC).user == ""


def test_only_a_trusted_key_may_name_its_user_and_each_of_those_has_its_own_limits() -> None:
    cluster = FakeCluster()
    gate = Gate(cluster, HttpSettings(require_keys=True, key_requests_per_minute=1), FakeClock())
    front, plain = cluster.add_key("webui", Scope.INFER, trusted=True), cluster.add_key("ann", Scope.INFER)

    def user(key: str, name: str) -> str:
        return enter(gate, headers=(("authorization", f"Bearer {key}"), ("x-openwebui-user-id", name))).user

    assert user(front, "u-1") == "webui/u-1"
    assert user(front, "u-2") == "webui/u-2"
    assert code_of(gate, key=front, user="u-2") is ErrorCode.RATE_LIMIT_EXCEEDED
    assert user(plain, "root") == "ann"
    for bad in ("x" * 129, "a\x7fb", "é"):
        assert code_of(gate, key=front, user=bad) is ErrorCode.INVALID_REQUEST


def test_the_forwarded_identity_reaches_the_cluster_over_a_real_socket() -> None:
    async def run() -> None:
        async with locked() as face:
            key = face.cluster.add_key("webui", Scope.INFER, trusted=True)
            reply = await face.chat(bearer(key), "X-OpenWebUI-User-Id: 7f", "X-OpenWebUI-User-Email: a@example.org")
            assert reply.status == 200
            assert face.cluster.calls[0].user == "webui/7f"

    asyncio.run(run())


def test_what_a_proxy_says_of_the_caller_is_not_believed() -> None:
    async def run() -> None:
        async with http_face(cluster := FakeCluster()) as server:
            sent = request(CHAT, "X-Forwarded-For: 203.0.113.5", method="POST", body=BODY)
            assert (await send_raw(server.port, sent)).status == 200
            assert cluster.calls[0].user == ""

    asyncio.run(run())


def test_many_wrong_keys_at_once_leave_the_next_good_request_quick() -> None:
    async def run() -> None:
        async with locked() as face:
            good = face.cluster.add_key("ann", Scope.INFER)
            replies = await asyncio.gather(*(face.chat(bearer(key_text()[1])) for _ in range(100)))
            assert {reply.status for reply in replies} == {401, 429}
            began_s = time.monotonic()
            assert (await face.chat(bearer(good))).status == 200
            assert time.monotonic() - began_s < granted_s(1.0)

    asyncio.run(run())


def test_pages_of_refusals_tell_nothing_of_what_runs_here() -> None:
    async def run() -> None:
        async with locked() as face:
            raw = [await face.send("/metrics"), await face.send("/nope"), await face.chat(bearer("chorus_00000000_x"))]
            for reply in raw:
                for word in (b"Quart", b"Werkzeug", b"Traceback", b".py", b"chorus_0"):
                    assert word not in reply.body
                assert len(reply.headers["x-request-id"]) == 24

    asyncio.run(run())
