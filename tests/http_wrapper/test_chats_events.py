"""Who watches a session hears all of it, or that something was missed."""

from __future__ import annotations

import asyncio

import pytest

from chorus_http.chats import events as events_module
from chorus_http.chats.events import PENDING_EVENTS, ChatEvent, ChatEventKind, ChatEvents, LastEvent
from chorus_proto.errors import QueueFull


async def snapshot() -> ChatEvent:
    return ChatEvent(ChatEventKind.SNAPSHOT, {})


def delta(number: int) -> ChatEvent:
    return ChatEvent(ChatEventKind.DELTA, {"number": number})


def test_a_watcher_who_falls_behind_is_told_so_and_holds_up_nobody() -> None:
    async def scenario() -> None:
        hub = ChatEvents()
        slow, quick = hub.watch("s", snapshot, within_s=9), hub.watch("s", snapshot, within_s=9)
        assert (await anext(slow), await anext(quick)) == (await snapshot(), await snapshot())
        for number in range(PENDING_EVENTS + 1):
            hub.tell("s", delta(number))
            assert await anext(quick) == delta(number)
        seen = [event async for event in slow]
        assert seen[:-1] == [delta(number) for number in range(PENDING_EVENTS)]
        assert seen[-1] == LastEvent(ChatEventKind.BEHIND, {})
        await quick.aclose()

    asyncio.run(scenario())


def test_what_happens_while_the_first_word_is_looked_up_is_not_missed() -> None:
    async def scenario() -> None:
        hub = ChatEvents()

        async def slowly() -> ChatEvent:
            hub.tell("s", delta(1))
            return await snapshot()

        watching = hub.watch("s", slowly, within_s=9)
        assert [await anext(watching), await anext(watching)] == [await snapshot(), delta(1)]
        await watching.aclose()

    asyncio.run(scenario())


def test_a_watch_ends_after_its_time_and_with_its_session() -> None:
    async def scenario() -> None:
        hub = ChatEvents()
        assert [event.kind async for event in hub.watch("s", snapshot, within_s=0)] == ["snapshot", "behind"]
        watching = hub.watch("s", snapshot, within_s=9)
        await anext(watching)
        hub.tell("s", ChatEvent(ChatEventKind.DELETED, {}))
        assert [event async for event in watching] == [LastEvent(ChatEventKind.DELETED, {})]

    asyncio.run(scenario())


def test_watchers_are_limited_and_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "WATCHERS_LIMIT", 2)

    async def scenario() -> None:
        hub = ChatEvents()
        for _ in range(3):
            both = [hub.watch(topic, snapshot, within_s=9) for topic in ("s", "t")]
            for one in both:
                await anext(one)
            with pytest.raises(QueueFull):
                await anext(hub.watch("s", snapshot, within_s=9))
            for one in both:
                await one.aclose()

    asyncio.run(scenario())
