"""A cookie that stands for a key: begun with the key, good for a while, of no use to another site."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chorus_http.listen import HttpServer
from chorus_http.sessions import SESSION_S, SESSIONS_LIMIT, Sessions, cookie_name, token_in
from chorus_http.settings import HttpSettings
from chorus_proto.keys import KeyClaim, KeyId, Scope
from tests.support.clock import FakeClock
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import Reply, http_face, send_raw

CLAIM = KeyClaim(KeyId("00000001"), b"digest")
LOCKED = HttpSettings(http_port=0, drain_within_s=1.0, require_keys=True)


# The book of sessions -------------------------------------------------------------------------------------------------


def test_a_session_stands_for_its_key_until_its_time_is_over() -> None:
    clock = FakeClock()
    sessions = Sessions(clock)
    token = sessions.begin(CLAIM)
    assert sessions.claim(token) == CLAIM
    clock.advance(SESSION_S - 1)
    assert sessions.claim(token) == CLAIM
    clock.advance(1)
    assert sessions.claim(token) is None


def test_a_session_that_was_ended_or_never_begun_stands_for_nothing() -> None:
    sessions = Sessions(FakeClock())
    token = sessions.begin(CLAIM)
    sessions.end(token)
    sessions.end("never begun")
    assert sessions.claim(token) is None
    assert sessions.claim("") is None


def test_one_session_too_many_ends_the_oldest() -> None:
    sessions = Sessions(FakeClock())
    first = sessions.begin(CLAIM)
    others = [sessions.begin(CLAIM) for _ in range(SESSIONS_LIMIT)]
    assert sessions.claim(first) is None
    assert sessions.claim(others[0]) == CLAIM


def test_a_cookie_counts_only_for_the_port_that_gave_it_and_rubbish_counts_for_nothing() -> None:
    assert token_in([f"a=b; {cookie_name(5001)}=tok".encode()], 5001) == "tok"
    assert token_in([f"{cookie_name(5002)}=tok".encode()], 5001) == ""
    assert token_in([b"\xff\xfe;;==", b"[]=x"], 5001) == ""


# Over HTTP ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Face:
    cluster: FakeCluster
    server: HttpServer

    async def send(self, method: str, path: str, *headers: str) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Length: 0", *headers]
        return await send_raw(self.server.port, "\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def signed_in(self, key: str) -> str:
        """The `Cookie` header of a new session."""
        reply = await self.send("POST", "/session", f"Authorization: Bearer {key}", self.origin)
        assert reply.status == 200, reply
        cookie = reply.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert key not in cookie
        return f"Cookie: {cookie.partition(';')[0]}"

    @property
    def origin(self) -> str:
        return "Origin: http://localhost"


@asynccontextmanager
async def locked() -> AsyncGenerator[Face]:
    cluster = FakeCluster()
    async with http_face(cluster, LOCKED) as server:
        yield Face(cluster, server)


def test_a_session_is_as_good_as_its_key_and_no_better() -> None:
    async def run() -> None:
        async with locked() as face:
            cookie = await face.signed_in(face.cluster.add_key("ada", Scope.METRICS))
            assert (await face.send("GET", "/status", cookie)).status == 200
            assert (await face.send("GET", "/keys", cookie)).status == 403
            who = (await face.send("GET", "/session", cookie)).json()
            assert (who["signed_in"], who["owner"], who["scopes"]) == (True, "ada", ["metrics"])

    asyncio.run(run())


def test_another_site_can_do_nothing_with_the_cookie() -> None:
    async def run() -> None:
        async with locked() as face:
            cookie = await face.signed_in(face.cluster.add_key("ada", Scope.ADMIN))
            foreign = await face.send("POST", "/reassign", cookie, "Origin: https://evil.example")
            silent = await face.send("POST", "/reassign", cookie)
            own = await face.send("POST", "/reassign", cookie, face.origin)
            assert [foreign.status, silent.status, own.status] == [403, 403, 200]

    asyncio.run(run())


def test_signing_out_ends_the_session_and_signing_in_again_the_one_before() -> None:
    async def run() -> None:
        async with locked() as face:
            key = face.cluster.add_key("ada", Scope.METRICS)
            first = await face.signed_in(key)
            again = await face.send("POST", "/session", f"Authorization: Bearer {key}", face.origin, first)
            second = f"Cookie: {again.headers['set-cookie'].partition(';')[0]}"
            assert (await face.send("GET", "/status", first)).status == 401
            assert (await face.send("GET", "/status", second)).status == 200
            assert (await face.send("DELETE", "/session", second, face.origin)).status == 204
            assert (await face.send("GET", "/status", second)).status == 401

    asyncio.run(run())


def test_a_session_ends_with_its_key() -> None:
    async def run() -> None:
        async with locked() as face:
            cookie = await face.signed_in(face.cluster.add_key("ada", Scope.METRICS))
            face.cluster.keys.clear()
            async with asyncio.timeout(5):
                while (await face.send("GET", "/status", cookie)).status != 401:
                    await asyncio.sleep(0.02)

    asyncio.run(run())


def test_a_hub_that_is_open_to_everybody_says_so() -> None:
    async def exposed(settings: HttpSettings) -> object:
        async with http_face(FakeCluster(), settings) as server:
            return (await Face(FakeCluster(), server).send("GET", "/session")).json()["exposed"]

    async def run() -> None:
        assert await exposed(HttpSettings(http_port=0, host="0.0.0.0", insecure=True)) is True
        assert await exposed(HttpSettings(http_port=0)) is False

    asyncio.run(run())


def test_where_no_key_is_needed_nobody_has_to_sign_in() -> None:
    async def run() -> None:
        async with http_face(FakeCluster()) as server:
            face = Face(FakeCluster(), server)
            who = await face.send("GET", "/session")
            assert (who.json()["keys_required"], who.json()["signed_in"]) == (False, False)
            assert "set-cookie" not in (await face.send("POST", "/session", face.origin)).headers

    asyncio.run(run())
