"""Sockets over real connections, with the library's own client: what is told, to whom, and what strangers get."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from socketio.exceptions import ConnectionError as CannotConnect

from chorus_http.app import create_app
from chorus_http.chats.store import ChatStore
from chorus_http.listen import HttpServer
from chorus_http.live.verbs import Verbs
from chorus_http.rights import SOCKET_RIGHTS
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.errors import SlowConsumer
from chorus_proto.generation import Delta
from chorus_proto.happenings import LoadTold
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.keys import ApiKey, KeyClaim, Scope
from tests.support.fake_cluster import MODEL, FakeCluster, waiting
from tests.support.http_face import http_face, until
from tests.support.live_client import POLLING, UPGRADE, WEBSOCKET, LiveClient, live_client
from tests.support.patience import granted_s

OPEN = HttpSettings(http_port=0, drain_within_s=1.0)
LOCKED = replace(OPEN, require_keys=True)
TRANSPORTS = pytest.mark.parametrize(
    "transports", [WEBSOCKET, POLLING, UPGRADE], ids=["websocket", "polling", "upgrade"]
)
WS_PATH = "/socket.io/?EIO=4&transport=websocket"
PROMPT = {"prompt": "hi", "model": MODEL}


@dataclass(frozen=True, slots=True)
class Face:
    cluster: FakeCluster
    server: HttpServer

    @property
    def url(self) -> str:
        return self.server.url


@asynccontextmanager
async def face(
    settings: HttpSettings = OPEN, cluster: FakeCluster | None = None, *, chats: ChatStore | None = None
) -> AsyncGenerator[Face]:
    cluster = cluster or FakeCluster()
    async with asyncio.timeout(30), http_face(cluster, settings, chats=chats) as server:
        yield Face(cluster, server)


@pytest.fixture
def chats(tmp_path: Path) -> Iterator[ChatStore]:
    store = ChatStore.open(tmp_path / "chats.sqlite")
    yield store
    store.close()


def happening(number: int) -> LoadTold:
    return LoadTold(
        node_id=NodeId("n"), node_name="attic", model=ModelName("m"), waiting=number, reason="somebody waits"
    )


async def refusal(url: str, key: str | None = None, *, transports: tuple[str, ...] = WEBSOCKET) -> str:
    """The code with which a connection is refused."""
    client = LiveClient(url, transports)
    codes: list[Any] = []  # Any: what the library hands over

    async def refused(reason: dict[str, Any]) -> None:  # Any: as above
        codes.append(reason["data"]["code"])

    client.socket.on("connect_error", refused)  # pyright: ignore[reportUnknownMemberType]  # the library has no types
    with pytest.raises(CannotConnect):
        await client.open(key)
    await client.close()
    return str(codes[0])


# The cluster's events -----------------------------------------------------------------------------------------------


@TRANSPORTS
def test_a_page_is_told_what_happens_over_every_transport(transports: tuple[str, ...]) -> None:
    async def run() -> None:
        async with face() as there, live_client(there.url, transports=transports) as page:
            assert await page.ask("watch_cluster") == {"ok": True, "at": "7-0", "resumed": False, "reason": ""}
            there.cluster.happen(happening(1), happening(2))
            one, two = await page.until(2, "cluster")
            assert (one["id"], one["kind"], two["id"]) == ("7-1", "load.demanded", "7-2")
            assert one["body"] == {
                "node_id": "n",
                "node": "attic",
                "model": "m",
                "waiting": 1,
                "reason": "somebody waits",
            }
            assert await page.ask("unwatch", {"topic": "cluster"}) == {"ok": True}
            there.cluster.happen(happening(3))
            await page.ask("unwatch", {"topic": "cluster"})
            assert len(page.events()) == 2

    asyncio.run(run())


@pytest.mark.parametrize("transports", [WEBSOCKET, POLLING], ids=["websocket", "polling"])
def test_a_thousand_events_across_connections_that_drop_come_once_each_in_order(transports: tuple[str, ...]) -> None:
    async def run() -> None:
        async with face(replace(OPEN, live_kept_events=1_000)) as there:
            ids: list[str] = []
            happened = 0
            while len(ids) < 1_000:
                client = LiveClient(there.url, transports)
                await client.open()
                reply = await client.ask("watch_cluster", {"after": ids[-1]} if ids else {})
                assert reply["resumed"] is bool(ids), reply
                fresh = min(150, 1_000 - happened)
                there.cluster.happen(*map(happening, range(fresh)))
                happened += fresh
                # It is cut at any place, often before all has come.
                await client.until(min(40, 1_000 - len(ids)), "cluster")
                ids += [event["id"] for event in client.events()]
                if transports == WEBSOCKET:
                    client.cut()
                    await client.until_closed()
                else:
                    await client.close()
            assert ids == [f"7-{number}" for number in range(1, 1_001)]

    asyncio.run(run())


def test_who_was_away_for_too_long_is_told_so_and_goes_on_from_now() -> None:
    async def run() -> None:
        async with face(replace(OPEN, live_kept_events=10)) as there:
            async with live_client(there.url) as page:
                await page.ask("watch_cluster")
                there.cluster.happen(happening(1))
                await page.until(1, "cluster")
                there.cluster.happen(*map(happening, range(49)))
                assert (await page.until(1, "reset"))[0]["at"] == "7-50"
            there.cluster.happen(*map(happening, range(50)))
            async with live_client(there.url) as page:
                for after in ("7-3", "6-100", "7-101"):
                    reply = await page.ask("watch_cluster", {"after": after})
                    assert (reply["resumed"], bool(reply["reason"])) == (False, True), after
                there.cluster.happen(happening(1))
                assert (await page.until(1, "cluster"))[-1]["id"] == "7-101"
                assert [event["id"] for event in page.events()] == ["7-101"]

    asyncio.run(run())


def test_the_coordinator_is_watched_once_for_all_pages_and_not_for_ever() -> None:
    async def run() -> None:
        settings = replace(OPEN, live_kept_s=1.0)
        async with face(settings) as there:
            async with live_client(there.url) as one, live_client(there.url) as two:
                await one.ask("watch_cluster")
                await two.ask("watch_cluster")
                assert there.cluster.happened.followers == 1
            await until(lambda: there.cluster.happened.followers == 0)

    asyncio.run(run())


# Generations --------------------------------------------------------------------------------------------------------


@TRANSPORTS
def test_a_generation_streams_and_ends_as_execute_answers(transports: tuple[str, ...]) -> None:
    async def run() -> None:
        async with face() as there, live_client(there.url, transports=transports) as page:
            assert await page.ask("generate", {"id": "mine", **PROMPT}) == {"ok": True, "id": "mine"}
            finished = await page.until_stream("finished")
            told = page.of("stream")
            assert [one["seq"] for one in told] == list(range(1, len(told) + 1))
            assert {one["id"] for one in told} == {"mine"}
            assert "".join(one["body"]["text"] for one in told if one["kind"] == "delta") == "The capital is Paris."
            assert (finished["body"]["result"], finished["body"]["usage"]["total_tokens"]) == (
                "The capital is Paris.",
                9,
            )

    asyncio.run(run())


@TRANSPORTS
def test_a_socket_that_goes_away_frees_the_slot(transports: tuple[str, ...]) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        cluster = FakeCluster(waiting(gate, before=(Delta("so "),)))
        async with face(OPEN, cluster) as there:
            async with live_client(there.url, transports=transports) as page:
                await page.ask("generate", PROMPT)
                await page.until_stream("delta")
            await until(lambda: len(cluster.cancelled) == 1)

    asyncio.run(run())


def test_a_generation_that_is_cancelled_says_so_and_frees_the_slot() -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event(), before=(Delta("so "),)))
        async with face(OPEN, cluster) as there, live_client(there.url) as page, live_client(there.url) as other:
            await page.ask("generate", {"id": "g1", **PROMPT})
            await page.until_stream("delta")
            twice = await other.ask("generate", {"id": "g1", **PROMPT})
            assert twice["error"]["code"] == "invalid_request"
            assert await other.ask("cancel", {"id": "g1"}) == {"ok": True, "cancelled": True}
            assert (await page.until_stream("failed"))["body"]["code"] == "cancelled"
            await until(lambda: len(cluster.cancelled) == 1)
            await until(lambda: page.socket.connected)
            assert await page.ask("cancel", {"id": "g1"}) == {"ok": True, "cancelled": False}

    asyncio.run(run())


def test_another_tab_looks_on_from_the_middle() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        cluster = FakeCluster(waiting(gate, before=(Delta("Well: "),)))
        async with face(OPEN, cluster) as there, live_client(there.url) as page, live_client(there.url) as tab:
            await page.ask("generate", {"id": "g1", **PROMPT})
            seq = (await page.until_stream("delta"))["seq"]
            assert await tab.ask("watch_stream", {"id": "g1"}) == {
                "ok": True,
                "text": "Well: ",
                "seq": seq,
                "state": "delta",
            }
            gate.set()
            await tab.until_stream("finished")
            told = tab.of("stream")
            assert [one["seq"] for one in told] == list(range(seq + 1, seq + 1 + len(told)))
            assert told == page.of("stream")[seq:]
            gone = await tab.ask("watch_stream", {"id": "g1"})
            assert gone["error"]["code"] == "not_found"

    asyncio.run(run())


def test_who_looks_on_hears_that_the_socket_that_began_it_has_gone() -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event(), before=(Delta("so "),)))
        async with face(OPEN, cluster) as there, live_client(there.url) as tab:
            async with live_client(there.url) as page:
                await page.ask("generate", {"id": "g1", **PROMPT})
                await page.until_stream("delta")
                assert (await tab.ask("watch_stream", {"id": "g1"}))["text"] == "so "
            assert (await tab.until_stream("failed"))["body"]["code"] == "cancelled"

    asyncio.run(run())


def test_what_is_begun_and_left_in_one_breath_is_freed() -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event()))
        key = cluster.add_key("ann", Scope.INFER)
        async with face(replace(LOCKED, key_parallel=1), cluster) as there, aiohttp.ClientSession(there.url) as http:
            for _ in range(3):
                async with http.get("/socket.io/?EIO=4&transport=polling") as opened:
                    sid = json.loads((await opened.text())[1:])["sid"]
                packets = (
                    "40" + json.dumps({"key": key}),
                    '42["generate",{"id":"g1","prompt":"hi","model":"tiny:1b"}]',
                    "41",
                )
                path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
                async with http.post(path, data="\x1e".join(packets)) as answer:
                    assert answer.status == 200
            await until(lambda: len(cluster.ended) == len(cluster.calls))
            async with live_client(there.url, key) as page:
                assert await page.ask("generate", {"id": "g1", **PROMPT}) == {"ok": True, "id": "g1"}

    asyncio.run(run())


def test_a_client_that_answers_no_pings_is_gone_also_while_it_is_told_something() -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event(), before=(Delta("so "),)))
        async with face(replace(OPEN, live_ping_s=0.2), cluster) as there, raw_socket(there.url) as silent:
            await silent.send_str('42["watch_cluster",{}]')
            await silent.send_str('42["generate",{"id":"g1","prompt":"hi","model":"tiny:1b"}]')
            while not any('"delta"' in one for one in await answered(silent)):
                pass
            ends_s = time.monotonic() + 10
            while not cluster.cancelled:
                assert time.monotonic() < ends_s
                cluster.happen(happening(1))
                await asyncio.sleep(0)
            async with live_client(there.url) as page:
                assert await page.ask("generate", {"id": "g1", **PROMPT}) == {"ok": True, "id": "g1"}

    asyncio.run(run())


# Chats --------------------------------------------------------------------------------------------------------------


def test_tabs_of_one_chat_are_in_step(chats: ChatStore) -> None:
    async def run() -> None:
        async with (
            face(chats=chats) as there,
            live_client(there.url) as one,
            live_client(there.url) as two,
            aiohttp.ClientSession(there.url) as http,
        ):
            async with http.post("/chat/sessions", json={"model": MODEL}) as made:
                session_id = (await made.json())["id"]
            assert await two.ask("watch_chats") == {"ok": True}
            for tab in (one, two):
                assert await tab.ask("watch_chat", {"session_id": session_id}) == {"ok": True}
            async with http.post(f"/chat/sessions/{session_id}/messages", json={"content": "Where?"}) as said:
                assert said.status == 200
            for tab in (one, two):
                await until(lambda tab=tab: any(event["kind"] == "finished" for event in tab.of("chat")))
                kinds = [event["kind"] for event in tab.of("chat")]
                assert kinds[0] == "snapshot"
                assert {"message", "started", "delta"} <= set(kinds)
                assert {event["session_id"] for event in tab.of("chat")} == {session_id}
            assert one.of("chat") == two.of("chat")
            assert two.of("chats")[-1]["body"]["session"]["id"] == session_id
            async with http.delete(f"/chat/sessions/{session_id}") as gone:
                assert gone.status == 200
            await until(lambda: one.of("chat")[-1]["kind"] == "deleted")

    asyncio.run(run())


# The gate -----------------------------------------------------------------------------------------------------------


def test_every_event_has_its_right_and_no_right_is_left_without_its_event() -> None:
    app = create_app(FakeCluster(), OPEN, SystemClock())
    front = app.asgi_app._app  # pyright: ignore  # the walk needs what the front holds
    there = set(front._sockets.server.handlers["/"]) - {"*"}  # pyright: ignore  # as above
    assert there == set(SOCKET_RIGHTS), "name the events in rights.py: until then they are refused to everybody"
    assert set(Verbs.__init__.__annotations__) >= {"feed", "streams", "chats"}


@TRANSPORTS
def test_who_shows_no_key_or_one_that_is_revoked_is_refused(transports: tuple[str, ...]) -> None:
    async def run() -> None:
        async with face(LOCKED) as there:
            good = there.cluster.add_key("ann", Scope.METRICS)
            revoked = there.cluster.add_key("bob", Scope.METRICS)
            await there.cluster.revoke_key("bob")
            for key in (None, revoked, good[:-1] + ("A" if good[-1] != "A" else "B"), "no key at all"):
                assert await refusal(there.url, key, transports=transports) == "invalid_api_key", key
            async with live_client(there.url, good, transports=transports) as page:
                assert (await page.ask("watch_cluster"))["ok"]
            async with live_client(there.url, transports=transports, Authorization=f"Bearer {good}") as page:
                assert (await page.ask("watch_cluster"))["ok"]

    asyncio.run(run())


def test_a_key_opens_only_the_events_of_its_scopes() -> None:
    wanted: dict[str, tuple[dict[str, str], Scope]] = {
        "watch_cluster": ({}, Scope.METRICS),
        "watch_chat": ({"session_id": "x"}, Scope.CHAT),
        "watch_chats": ({}, Scope.CHAT),
        "watch_stream": ({"id": "x"}, Scope.INFER),
        "generate": (PROMPT, Scope.INFER),
        "cancel": ({"id": "x"}, Scope.INFER),
    }
    assert {"connect", "disconnect", "unwatch", *wanted} == set(SOCKET_RIGHTS)

    async def run() -> None:
        async with face(LOCKED) as there:
            for scope in (Scope.METRICS, Scope.CHAT, Scope.INFER, Scope.RAG):
                async with live_client(there.url, there.cluster.add_key(scope, scope)) as page:
                    for event, (argument, right) in wanted.items():
                        reply = await page.ask(event, argument)
                        code = reply.get("error", {}).get("code", "")
                        assert (code == "forbidden") is (scope is not right), (scope, event, reply)

    asyncio.run(run())


def test_a_revoked_key_closes_its_socket_whatever_it_does() -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event(), before=(Delta("so "),)))
        async with face(LOCKED, cluster) as there:
            async with live_client(there.url, cluster.add_key("ann", Scope.INFER)) as page:
                await page.ask("generate", PROMPT)
                await page.until_stream("delta")
                began_s = time.monotonic()
                await cluster.revoke_key("ann")
                await page.until_closed()
                assert time.monotonic() - began_s < granted_s(1.0)
                assert page.of("goodbye")[0]["code"] == "invalid_api_key"
            await until(lambda: len(cluster.cancelled) == 1)

    asyncio.run(run())


def test_a_key_that_lost_a_scope_is_denied_the_next_event() -> None:
    async def run() -> None:
        cluster = FakeCluster()
        key = cluster.add_key("ann", Scope.METRICS, Scope.INFER)
        async with face(LOCKED, cluster) as there, live_client(there.url, key) as page:
            assert (await page.ask("watch_cluster"))["ok"]
            lower(cluster, Scope.INFER)

            async def denied() -> bool:
                reply = await page.ask("watch_cluster")
                return reply.get("error", {}).get("code") == "forbidden"

            began_s = time.monotonic()
            while not await denied():
                assert time.monotonic() - began_s < granted_s(1.5)
                await asyncio.sleep(0.1)

    asyncio.run(run())


def lower(cluster: FakeCluster, *scopes: Scope) -> None:
    keys: dict[KeyClaim, ApiKey] = cluster.keys
    for claim, key in list(keys.items()):
        keys[claim] = replace(key, scopes=scopes)


def test_a_foreign_chat_and_a_foreign_stream_are_not_there(chats: ChatStore) -> None:
    async def run() -> None:
        cluster = FakeCluster(waiting(asyncio.Event(), before=(Delta("secret"),)))
        async with face(LOCKED, cluster, chats=chats) as there, aiohttp.ClientSession(there.url) as http:
            ann = cluster.add_key("ann", Scope.CHAT, Scope.INFER)
            bob = cluster.add_key("bob", Scope.CHAT, Scope.INFER)
            headers = {"Authorization": f"Bearer {ann}"}
            async with http.post("/chat/sessions", json={}, headers=headers) as made:
                session_id = (await made.json())["id"]
            async with live_client(there.url, ann) as hers, live_client(there.url, bob) as his:
                await hers.ask("generate", {"id": "g1", **PROMPT})
                await hers.until_stream("delta")
                for event, argument in (("watch_chat", {"session_id": session_id}), ("watch_stream", {"id": "g1"})):
                    reply = await his.ask(event, argument)
                    assert reply["error"]["code"] == "not_found", event
                assert his.of("refused")[0]["event"] == "watch_chat"
                assert await his.ask("cancel", {"id": "g1"}) == {"ok": True, "cancelled": False}
                assert (await hers.ask("watch_chat", {"session_id": session_id}))["ok"]
                assert not his.of("stream")
                assert not his.of("chat")

    asyncio.run(run())


@pytest.mark.parametrize("path", ["http", "ws"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 400),
    ],
)
def test_a_page_of_another_site_gets_no_socket(path: str, headers: dict[str, str], status: int) -> None:
    async def run() -> None:
        async with face() as there, aiohttp.ClientSession() as http:
            if path == "http":
                async with http.get(f"{there.url}/socket.io/?EIO=4&transport=polling", headers=headers) as answer:
                    assert answer.status == status
                    assert "access-control-allow-origin" not in answer.headers
            else:
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await http.ws_connect(f"{there.url}/socket.io/?EIO=4&transport=websocket", headers=headers)
                assert refused.value.status == status

    asyncio.run(run())


def test_a_key_in_the_address_is_refused_and_so_is_any_other_web_socket() -> None:
    async def run() -> None:
        async with face(LOCKED) as there, aiohttp.ClientSession(there.url) as http:
            key = there.cluster.add_key("ann", Scope.METRICS)
            for path, status in (
                (f"/socket.io/?EIO=4&transport=websocket&auth={key}", 401),
                (f"/socket.io/?EIO=4&transport=websocket&api_key={key}", 401),
                ("/v1/models", 404),
                ("/socket.io/x", 404),
            ):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await http.ws_connect(path)
                assert refused.value.status == status, path

    asyncio.run(run())


# Bad input ----------------------------------------------------------------------------------------------------------

BAD_MESSAGES = (
    '42["watch_cluster",5]',
    '42["watch_cluster"]',
    '42["watch_cluster",{},{}]',
    '42["watch_cluster",{"after":"x"}]',
    '42["watch_cluster",{"after":7}]',
    '42["watch_cluster",{"unknown":1}]',
    '42["watch_chat",{"session_id":null}]',
    '42["generate",{"prompt":"hi","id":"a b"}]',
    '42["generate",{"prompt":"hi","max_tokens":true}]',
    '42["generate",{}]',
    '42["unwatch",{"topic":"chat"}]',
    '42["no_such_event",{}]',
    '42["connect",{}]',
    '42["connect",{"asgi.scope":{"type":"http","client":["127.0.0.1",1],"headers":[]}}]',
    '42["disconnect",{}]',
    '42["*",{}]',
    "42[5,{}]",
    "42[]",
    '42{"a":1}',
    "42",
    "42[NaN]",
    '42["watch_cluster",{"after":"7-1","after":"7-2"}]',
    '42["watch_cluster",{"after":"\\ud800"}]',
    "42" + "[" * 2_000,
    "4" + "[" * 30_000,
    '43999["x"]',
    '42/admin,["watch_cluster",{}]',
    "42" + "9" * 300 + '["watch_cluster",{}]',
    '451-["cancel",{"_placeholder":true,"num":0}]',
    '49["x"]',
    "4",
    "44{}",
    "bAAAA",
)
"""As they travel: 4 is Engine.IO's message, 2 Socket.IO's event."""


def test_whatever_is_sent_the_socket_lives_and_says_what_is_wrong() -> None:
    async def run() -> None:
        async with face(replace(OPEN, live_events_per_s=1_000)) as there, raw_socket(there.url) as ws:
            for message in BAD_MESSAGES:
                await ws.send_str(message)
                reply = await answered(ws)
                # A stray acknowledgement is nobody's business; everything else is answered.
                assert message.startswith("43") or any('["refused",{' in one for one in reply), (message, reply)
            await ws.send_bytes(b"\x00\x01")
            assert any('["refused",{' in one for one in await answered(ws))

    asyncio.run(run())


@asynccontextmanager
async def raw_socket(url: str) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
    """Connected, for packets that no library sends."""
    async with aiohttp.ClientSession(url) as http, http.ws_connect(WS_PATH) as ws:
        await connected(ws)
        yield ws


async def connected(ws: aiohttp.ClientWebSocketResponse) -> None:
    assert (await ws.receive_str()).startswith("0{")
    await ws.send_str("40")
    assert (await ws.receive_str()).startswith("40{")


async def answered(ws: aiohttp.ClientWebSocketResponse) -> list[str]:
    """What comes until a question that is always answered has its answer."""
    await ws.send_str('427["unwatch",{"topic":"chats"}]')
    came: list[str] = []
    while not came or not came[-1].startswith("437["):
        came.append(await ws.receive_str(timeout=10))
    assert came.pop() == '437[{"ok":true}]'
    return came


@pytest.mark.parametrize("packet", ["x", "9", "6", "0{}", "2hello"])
def test_what_no_client_of_the_protocol_sends_ends_that_connection_alone(packet: str) -> None:
    async def run() -> None:
        async with face() as there, live_client(there.url) as other:
            async with raw_socket(there.url) as ws:
                await ws.send_str(packet)
                message = await ws.receive(timeout=10)
                while message.type is aiohttp.WSMsgType.TEXT:
                    message = await ws.receive(timeout=10)
                assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert (await other.ask("watch_cluster"))["ok"]

    asyncio.run(run())


@pytest.mark.parametrize("transports", [WEBSOCKET, POLLING], ids=["websocket", "polling"])
def test_a_message_over_the_limit_is_refused(transports: tuple[str, ...]) -> None:
    async def run() -> None:
        async with face() as there, aiohttp.ClientSession(there.url) as http:
            big = "42" + json.dumps(["generate", {"prompt": "x" * 70_000}])
            if transports == WEBSOCKET:
                async with raw_socket(there.url) as ws:
                    await ws.send_str(big)
                    message = await ws.receive(timeout=10)
                    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1009)
                return
            async with http.get("/socket.io/?EIO=4&transport=polling") as opened:
                sid = json.loads((await opened.text())[1:])["sid"]
            path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
            for body, status in ((big, 413), ("\x1e".join(["3"] * 17), 400), ("x", 400), (b"4\xff", 400), ("3", 200)):
                async with http.post(path, data=body) as answer:
                    assert answer.status == status, body[:20]

    asyncio.run(run())


def test_more_events_than_the_rate_allows_are_refused_and_the_socket_lives() -> None:
    async def run() -> None:
        async with face() as there, raw_socket(there.url) as ws:
            for number in range(100):
                await ws.send_str(f'42{number}["unwatch",{{"topic":"chats"}}]')
            replies: list[str] = []
            while not any("rate_limit_exceeded" in one for one in replies):
                replies.append(await ws.receive_str(timeout=10))
            assert 10 <= sum(one.startswith("43") for one in replies) <= 40
            # The bucket fills again.
            ends_s = time.monotonic() + 10
            while not await is_answered(ws):
                assert time.monotonic() < ends_s

    asyncio.run(run())


async def is_answered(ws: aiohttp.ClientWebSocketResponse) -> bool:
    """Whether one more event is within the rate."""
    await ws.send_str('42999["unwatch",{"topic":"chats"}]')
    try:
        while True:
            if (await ws.receive_str(timeout=0.2)).startswith("43999["):
                return True
    except TimeoutError:
        return False


# Limits -------------------------------------------------------------------------------------------------------------


def test_one_key_has_so_many_sockets_and_one_that_closes_makes_room() -> None:
    async def run() -> None:
        async with face(replace(LOCKED, live_sockets_per_key=2)) as there:
            ann, bob = there.cluster.add_key("ann", Scope.METRICS), there.cluster.add_key("bob", Scope.METRICS)
            async with live_client(there.url, ann), live_client(there.url, bob):
                async with live_client(there.url, ann):
                    assert await refusal(there.url, ann) == "rate_limit_exceeded"
                async with live_client(there.url, ann) as again:
                    assert (await again.ask("watch_cluster"))["ok"]

    asyncio.run(run())


def test_connections_that_never_say_who_they_are_are_few() -> None:
    async def run() -> None:
        async with face() as there, aiohttp.ClientSession(there.url) as http:
            statuses: list[int] = []
            for _ in range(20):
                async with http.get("/socket.io/?EIO=4&transport=polling") as answer:
                    statuses.append(answer.status)
            assert statuses == [200] * 16 + [429] * 4

    asyncio.run(run())


def test_a_server_that_stops_says_goodbye_and_does_not_wait_for_its_sockets() -> None:
    async def run() -> None:
        clients: list[LiveClient] = []
        async with face(replace(OPEN, drain_within_s=20.0)) as there:
            for transports in (WEBSOCKET, POLLING):
                client = LiveClient(there.url, transports)
                await client.open()
                await client.ask("watch_cluster")
                clients.append(client)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < granted_s(3.0)
        for client in clients:
            await client.until_closed()
            assert client.of("goodbye")[0]["code"] == "draining"
            await client.close()

    asyncio.run(run())


def test_a_client_that_reads_nothing_is_cut_and_others_hear_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "chorus_http.live.sockets")

    async def run() -> None:
        settings = replace(OPEN, stall_within_s=1.0, live_kept_events=100_000)
        async with face(settings) as there, raw_socket(there.url) as slow, live_client(there.url) as page:
            await slow.send_str('42["watch_cluster",{}]')
            await page.ask("watch_cluster")
            big = replace(happening(1), reason="x" * 100_000)
            count = 0
            while SlowConsumer.code not in caplog.text:
                # In the end more than the buffers of both ends, and of the kernel between them, hold.
                there.cluster.happen(big)
                count += 1
                await page.until(count, "cluster")
            assert [event["id"] for event in page.events()] == [f"7-{number}" for number in range(1, count + 1)]
            assert len([message async for message in until_end(slow)]) < count

    asyncio.run(run())


async def until_end(ws: aiohttp.ClientWebSocketResponse) -> AsyncGenerator[aiohttp.WSMessage]:
    """What still comes until the connection is closed."""
    while True:
        message = await ws.receive(timeout=10)
        if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR):
            return
        yield message
