"""GET /events: the same events for programs that read server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest

from chorus_http.settings import HttpSettings
from chorus_proto.keys import Scope
from tests.http_wrapper.test_live_sockets import happening
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import WITHIN_S, http_face, until

SETTINGS = HttpSettings(http_port=0, drain_within_s=20.0, live_kept_events=10)


@dataclass(frozen=True, slots=True)
class Told:
    id: str
    event: str
    data: Any  # any JSON


@asynccontextmanager
async def reading(url: str, **headers: str) -> AsyncGenerator[AsyncGenerator[Told]]:
    async with (
        asyncio.timeout(WITHIN_S),
        aiohttp.ClientSession() as http,
        http.get(f"{url}/events", headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        yield _told(answer)


async def _told(answer: aiohttp.ClientResponse) -> AsyncGenerator[Told]:
    fields: dict[str, str] = {}
    async for line in answer.content:
        text = line.decode().rstrip("\n")
        if text.startswith(":"):
            continue
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif fields:
            yield Told(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def test_a_reader_is_told_what_happens_and_comes_back_with_the_last_id() -> None:
    async def run() -> None:
        cluster = FakeCluster()
        async with http_face(cluster, SETTINGS) as server:
            async with reading(server.url) as events:
                assert await anext(events) == Told("7-0", "hello", {"at": "7-0", "resumed": False, "reason": ""})
                cluster.happen(happening(1))
                first = await anext(events)
                assert (first.id, first.event, first.data["body"]["waiting"]) == ("7-1", "load.demanded", 1)
            cluster.happen(happening(2), happening(3))
            async with reading(server.url, **{"Last-Event-ID": first.id}) as events:
                hello = await anext(events)
                assert (hello.id, hello.data["resumed"]) == ("7-1", True)
                assert [(await anext(events)).id for _ in range(2)] == ["7-2", "7-3"]
            cluster.happen(*map(happening, range(30)))
            await until(lambda: cluster.happened.position.id == 33)
            async with reading(server.url, **{"Last-Event-ID": first.id}) as events:
                hello = await anext(events)
                assert (hello.data["resumed"], bool(hello.data["reason"])) == (False, True)

    asyncio.run(run())


def test_a_server_that_stops_ends_the_stream_at_once() -> None:
    async def run() -> None:
        async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession() as http:
            async with http_face(FakeCluster(), SETTINGS) as server:
                events = _told(await http.get(f"{server.url}/events"))
                await anext(events)
            assert [event async for event in events] == []

    asyncio.run(run())


@pytest.mark.parametrize("after", ["x", "7", "7-1-1"])
def test_what_is_no_event_id_is_refused(after: str) -> None:
    async def run() -> None:
        async with (
            http_face(FakeCluster(), SETTINGS) as server,
            aiohttp.ClientSession() as http,
            http.get(f"{server.url}/events", params={"after": after}) as answer,
        ):
            assert (answer.status, (await answer.json())["error"]["code"]) == (400, "invalid_request")

    asyncio.run(run())


def test_only_a_key_that_may_watch_reads() -> None:
    async def run() -> None:
        cluster = FakeCluster()
        async with http_face(cluster, replace(SETTINGS, require_keys=True)) as server, aiohttp.ClientSession() as http:
            for scope, status in ((Scope.METRICS, 200), (Scope.INFER, 403), (Scope.CHAT, 403)):
                headers = {"Authorization": f"Bearer {cluster.add_key(scope, scope)}"}
                async with http.get(f"{server.url}/events", headers=headers) as answer:
                    assert answer.status == status
            async with http.get(f"{server.url}/events") as answer:
                assert answer.status == 401

    asyncio.run(run())
