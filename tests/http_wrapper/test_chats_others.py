"""Mirrors chorus_http/chats/others.py: two HTTP addresses on one state folder, each with its own tabs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import cast

import httpx
import pytest

from chorus_http.chats import store as store_module
from chorus_http.chats.store import ChatStore
from chorus_http.settings import HttpSettings
from tests.http_wrapper.test_chat_routes import Json, Watching, made, said
from tests.http_wrapper.test_chats_store import a_session
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import WITHIN_S, http_face, until

Scenario = Callable[[httpx.AsyncClient, httpx.AsyncClient], Awaitable[None]]


@asynccontextmanager
async def address(root: Path, *, every_s: float = 0.02) -> AsyncGenerator[httpx.AsyncClient]:
    settings = HttpSettings(http_port=0, drain_within_s=1.0, chat_others_every_s=every_s)
    with closing(ChatStore.open(root / "chats.sqlite")) as store:
        async with (
            http_face(FakeCluster(), settings, chats=store) as server,
            httpx.AsyncClient(base_url=server.url, timeout=WITHIN_S) as client,
        ):
            yield client


def play(root: Path, scenario: Scenario) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), AsyncExitStack() as stack:
            one = await stack.enter_async_context(address(root))
            await scenario(one, await stack.enter_async_context(address(root)))

    asyncio.run(run())


def test_tabs_of_two_addresses_stay_in_step(tmp_path: Path) -> None:
    async def scenario(one: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
        session = await made(one, title="Cities")
        tab = Watching(other, f"/chat/sessions/{session}/events")
        everything = Watching(other, "/chat/events")
        await until(lambda: "snapshot" in tab.names and "snapshot" in everything.names)
        answer = await said(one, session, "What is the capital of France?")

        def revision() -> int:
            told = [cast("Json", body["session"]) for _, body in tab.events if "session" in body]
            return max(cast("int", session["revision"]) for session in told)

        final = cast("int", cast("Json", answer["session"])["revision"])
        await until(lambda: revision() == final)
        whole = (await other.get(f"/chat/sessions/{session}")).json()
        assert whole["messages"][1]["content"] == cast("Json", answer["message"])["content"]
        # And back: what is changed over there is heard here.
        here = Watching(one, f"/chat/sessions/{session}/events")
        await until(lambda: "snapshot" in here.names)
        await other.put(f"/chat/sessions/{session}/title", json={"title": "Capitals"})
        await until(lambda: "changed" in here.names)
        assert cast("Json", here.events[-1][1]["session"])["title"] == "Capitals"

        second = await made(one)
        await until(lambda: any(_id(body) == second for _, body in everything.events))
        await one.delete(f"/chat/sessions/{session}")
        await until(lambda: tab.names[-1] == "deleted")
        await until(lambda: any(body.get("deleted") == session for _, body in everything.events))
        for watching in (tab, everything, here):
            await watching.close()

    play(tmp_path, scenario)


def _id(body: Json) -> object:
    session = body.get("session")
    return cast("Json", session)["id"] if session is not None else None


def test_ones_own_changes_are_not_told_twice(tmp_path: Path) -> None:
    async def scenario(one: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
        session = await made(one)
        tab = Watching(one, f"/chat/sessions/{session}/events")
        await until(lambda: "snapshot" in tab.names)
        await one.put(f"/chat/sessions/{session}/title", json={"title": "Mine"})
        # What comes from over there comes after: had one's own been told again, it would stand before it.
        await other.put(f"/chat/sessions/{session}/title", json={"title": "Theirs"})
        await until(lambda: len(tab.events) >= 3)
        titles = [cast("Json", body["session"])["title"] for _, body in tab.events]
        assert titles == ["New chat", "Mine", "Theirs"]
        await tab.close()

    play(tmp_path, scenario)


def test_the_record_of_changes_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHANGES_KEPT", 20)

    async def run() -> None:
        with closing(ChatStore.open(tmp_path / "chats.sqlite")) as store:
            session = a_session()
            await store.add(session)
            for at in range(50):
                await store.change(session.owner, session.id, system=str(at), now_unix_s=1.0)
            assert await store.last_change() == 51
            with closing(ChatStore.open(tmp_path / "chats.sqlite")) as other:
                found = await other.changes_of_others(0)
                assert ([one.revision for one in found.changed], found.last) == ([51], 51)
        with closing(sqlite3.connect(tmp_path / "chats.sqlite")) as connection:
            assert connection.execute("SELECT count(*) FROM change").fetchone() == (20,)

    asyncio.run(run())
