"""The wrapper's copy of the coordinator's events: when it is made, and what becomes of it when the coordinator goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec
import pytest

from chorus_http.live.feed import LiveFeed
from chorus_http.live.shown import KINDS, UNKNOWN_KIND, LiveEvent, shown
from chorus_proto.clock import SystemClock
from chorus_proto.errors import CoordinatorUnavailable
from chorus_proto.event_log import Batch, EventLog, Position
from chorus_proto.happenings import HubEvent
from tests.proto.test_convert_happenings import WHATS
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import until

Scenario = Callable[[LiveFeed, FakeCluster], Awaitable[None]]


def play(scenario: Scenario, *, keep_s: float = 60.0, within_s: float = 2.0) -> None:
    async def run() -> None:
        cluster = FakeCluster()
        feed = LiveFeed(cluster, SystemClock(), keep_s=keep_s, keep_events=1000, within_s=within_s)
        try:
            async with asyncio.timeout(20):
                await scenario(feed, cluster)
        finally:
            await feed.aclose()

    asyncio.run(run())


def names(batch: Batch[LiveEvent]) -> list[str]:
    return [event.name for event in batch.events]


def test_who_comes_back_after_this_process_has_stopped_watching_still_misses_nothing() -> None:
    async def scenario(feed: LiveFeed, cluster: FakeCluster) -> None:
        async with aclosing(feed.follow()) as batches:
            await anext(batches)
            cluster.happen(WHATS[2])
            assert names(await anext(batches)) == ["7-1"]
        await until(lambda: not feed.is_watching)
        cluster.happen(WHATS[2], WHATS[2])
        async with aclosing(feed.follow(Position(7, 1))) as batches:
            assert names(await anext(batches)) == ["7-2", "7-3"]

    play(scenario, keep_s=0.05)


def test_a_coordinator_that_went_away_and_came_back_is_followed_on() -> None:
    async def scenario(feed: LiveFeed, cluster: FakeCluster) -> None:
        async with aclosing(feed.follow()) as batches:
            await anext(batches)
            cluster.watch_error = CoordinatorUnavailable("gone")
            cluster.happen(WHATS[2])  # the break shows with it
            cluster.happen(WHATS[2])
            await until(lambda: cluster.happened.followers == 0)
            cluster.watch_error = None
            assert names(await anext(batches)) == ["7-1", "7-2"]

    play(scenario)


def test_a_coordinator_that_began_anew_is_told_as_a_gap() -> None:
    async def scenario(feed: LiveFeed, cluster: FakeCluster) -> None:
        async with aclosing(feed.follow()) as batches:
            await anext(batches)
            cluster.happen(WHATS[2])
            await anext(batches)
            old, cluster.happened = cluster.happened, EventLog(SystemClock(), epoch=8, keep_s=60, keep_events=10)
            old.close()
            assert (await anext(batches)).missed
            cluster.happen(WHATS[2])
            batch = await anext(batches)
            while not batch.events:
                batch = await anext(batches)
            assert names(batch) == ["8-1"]

    play(scenario)


def test_a_coordinator_that_says_nothing_is_said_to_be_away() -> None:
    async def scenario(feed: LiveFeed, cluster: FakeCluster) -> None:
        cluster.watch_error = CoordinatorUnavailable("gone")
        with pytest.raises(CoordinatorUnavailable):
            await anext(feed.follow())

    play(scenario, within_s=0.05)


@pytest.mark.parametrize("what", WHATS, ids=lambda what: type(what).__name__)
def test_every_kind_is_one_that_is_documented_and_is_whole_json(what: object) -> None:
    event = shown(HubEvent(41, 1.5, what), 7)  # pyright: ignore[reportArgumentType]  # a Happening
    assert event.kind in KINDS
    told = msgspec.json.decode(event.object(), type=dict[str, object])
    assert (told["id"], told["at_unix_s"], told["kind"]) == ("7-41", 1.5, event.kind)
    assert told["body"]


def test_an_event_of_tomorrow_keeps_its_number() -> None:
    event = shown(HubEvent(41, 1.5, None), 7)
    assert (event.name, event.kind, event.body) == ("7-41", UNKNOWN_KIND, b"{}")
