"""What watchers of the coordinator are told, through the real coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from chorus_proto.errors import NodeLost
from chorus_proto.event_log import Batch, Position
from chorus_proto.happenings import (
    Happening,
    HubEvent,
    NodeNews,
    NodeTold,
    Outcome,
    QueueTold,
    Readings,
    ReplicaTold,
    RequestEnded,
    RequestStarted,
)
from chorus_proto.values import Courtesy, Heartbeat, NodeState, ReplicaState
from chorus_server.coordinator import Coordinator
from tests.server.test_dispatch import call_for, play, text_of
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode

What = TypeVar("What")


def watched(
    tmp_path: Path, scenario: Callable[[Coordinator, FakeClock, Watch], Awaitable[None]], **settings: object
) -> None:
    async def run(coordinator: Coordinator, clock: FakeClock) -> None:
        async with aclosing(coordinator.watch()) as batches:
            watch = Watch(batches)
            assert (await watch.batch()).events == ()
            await scenario(coordinator, clock, watch)

    play(tmp_path, run, **settings)


class Watch:
    """A watcher and what it was told and has not been asked for."""

    def __init__(self, batches: AsyncGenerator[Batch[HubEvent]]) -> None:
        self._batches = batches
        self._events: list[HubEvent] = []

    async def batch(self) -> Batch[HubEvent]:
        return await anext(self._batches)

    async def next(self, kind: type[What]) -> What:
        """The next of this kind; others before it are skipped."""
        while True:
            while self._events:
                what = self._events.pop(0).what
                if isinstance(what, kind):
                    return what
            self._events = list((await self.batch()).events)

    async def event(self) -> HubEvent:
        while not self._events:
            self._events = list((await self.batch()).events)
        return self._events.pop(0)


def look(coordinator: Coordinator) -> None:
    coordinator._sweep()  # pyright: ignore[reportPrivateUsage]  # its task would wait on the real clock


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_node_that_joins_changes_and_goes_is_told_whole_each_time(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock, watch: Watch) -> None:
        node = FakeNode(coordinator, clock, "attic")
        assert (await watch.next(NodeTold)).news is NodeNews.ASSIGNED
        joined = await watch.next(NodeTold)
        assert (joined.news, joined.node.name, joined.node.state) == (NodeNews.JOINED, "attic", NodeState.ALIVE)
        coordinator.courtesy_reported(node.record, Courtesy(paused=True, reason="its owner is at the keyboard"))
        polite = await watch.next(NodeTold)
        assert (polite.news, polite.node.courtesy.paused) == (NodeNews.POLITE, True)
        assert "at the keyboard" in polite.reason
        coordinator.inventory_reported(node.record, [])
        models = await watch.next(NodeTold)
        assert (models.news, models.node.models) == (NodeNews.MODELS, ()) or models.news is NodeNews.ASSIGNED
        node.lose()
        suspect = await watch.next(NodeTold)
        while suspect.news is not NodeNews.STATE:
            suspect = await watch.next(NodeTold)
        assert (suspect.node.state, suspect.reason) == (NodeState.SUSPECT, "lost its connection")
        clock.advance(60)
        look(coordinator)
        assert (await watch.next(NodeTold)).node.state is NodeState.DEAD

    watched(tmp_path, scenario)


def test_a_load_is_told_with_its_progress_and_nothing_is_told_twice(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock, watch: Watch) -> None:
        node = FakeNode(coordinator, clock, "attic")
        for progress in (0.1, 0.5, 0.5):
            node.report(ReplicaState.LOADING, progress=progress)
        node.ready()
        told = [await watch.next(ReplicaTold) for _ in range(3)]
        assert [(one.replica.report.state, one.replica.report.progress) for one in told] == [
            (ReplicaState.LOADING, 0.1),
            (ReplicaState.LOADING, 0.5),
            (ReplicaState.READY, None),
        ]
        node.report(ReplicaState.GONE)
        assert (await watch.next(ReplicaTold)).replica.report.state is ReplicaState.GONE

    watched(tmp_path, scenario)


def test_who_serves_whom_is_told_from_start_to_end(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock, watch: Watch) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        call = replace(call_for(), user="ann")
        answer = asyncio.create_task(text_of(coordinator.submit(call)))
        order = await node.next_execute()
        started = await watch.next(RequestStarted)
        assert (started.request_id, started.user, started.node_name, started.attempt) == (
            call.request_id,
            "ann",
            "attic",
            1,
        )
        clock.advance(2)
        node.finish(order.execution_id, "hello", tokens=5)
        assert await answer == "hello"
        ended = await watch.next(RequestEnded)
        assert (ended.request_id, ended.outcome, ended.completion_tokens) == (call.request_id, Outcome.FINISHED, 5)
        assert (ended.seconds, ended.decode_tokens_per_s) == (2, 100.0)

    watched(tmp_path, scenario)


def test_a_request_that_moves_fails_or_is_given_up_ends_on_its_node_in_words(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock, watch: Watch) -> None:
        attic, cellar = FakeNode(coordinator, clock, "attic"), FakeNode(coordinator, clock, "cellar")
        attic.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        await attic.next_execute()
        cellar.ready()
        attic.lose()
        order = await cellar.next_execute()
        assert (await watch.next(RequestStarted)).node_name == "attic"
        moved = await watch.next(RequestEnded)
        assert (moved.node_name, moved.outcome, moved.code) == ("attic", Outcome.MOVED, "node_lost")
        assert (await watch.next(RequestStarted)).attempt == 2
        cellar.say(order.execution_id, "half", tokens=3)
        await settled()
        cellar.fail(order.execution_id, NodeLost("gone"))
        await asyncio.wait([answer])
        assert isinstance(answer.exception(), NodeLost)
        failed = await watch.next(RequestEnded)
        assert (failed.outcome, failed.completion_tokens) == (Outcome.FAILED, 3)

        given_up = asyncio.create_task(text_of(coordinator.submit(call_for())))
        await cellar.next_execute()
        given_up.cancel()
        await asyncio.wait([given_up])
        assert (await watch.next(RequestEnded)).outcome is Outcome.CANCELLED

    watched(tmp_path, scenario)


def test_readings_and_the_queue_are_told_while_somebody_watches(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock, watch: Watch) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=2)
        node.beat(1, free_bytes=1 << 30)
        look(coordinator)
        first = await watch.next(Readings)
        assert [(one.node_name, one.slots, one.tokens_per_s) for one in first.nodes] == [("attic", 2, None)]
        assert first.nodes[0].ram_available_bytes == 1 << 30
        look(coordinator)  # within the second: nothing new
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await node.next_execute()
        clock.advance(1)
        coordinator.heartbeat(node.record, Heartbeat(sequence=2, uptime_s=3.0, tokens_total=90))
        look(coordinator)
        queue = await watch.next(QueueTold)
        assert (queue.queue.running_total, queue.queue.waiting, queue.queue.running) == (1, (), ())
        second = (await watch.next(Readings)).nodes[0]
        assert (second.tokens_per_s, second.slots_busy, second.tokens_total) == (45.0, 1, 90)
        node.finish(order.execution_id)
        await answer

    watched(tmp_path, scenario)


def test_nothing_is_sampled_while_nobody_watches(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        FakeNode(coordinator, clock, "attic").ready()
        async with aclosing(coordinator.watch()) as batches:
            before = (await anext(batches)).position
        for _ in range(20):
            clock.advance(1)
            look(coordinator)
        async with aclosing(coordinator.watch()) as batches:
            told = [event async for batch in _until_empty(batches) for event in batch.events]
        assert not told
        async with aclosing(coordinator.watch(before)) as batches:
            whats: list[Happening | None] = [event.what for event in (await anext(batches)).events]
        assert not [what for what in whats if isinstance(what, Readings | QueueTold)]

    play(tmp_path, scenario, suspect_after_s=1000, dead_after_s=2000, forget_after_s=3000, forget_asleep_after_s=4000)


async def _until_empty(batches: AsyncGenerator[Batch[HubEvent]]) -> AsyncGenerator[Batch[HubEvent]]:
    batch = await anext(batches)
    while batch.events:
        yield batch
        batch = await anext(batches)


def test_who_comes_back_goes_on_after_the_last_event_that_was_seen(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock, watch: Watch) -> None:
        FakeNode(coordinator, clock, "attic")
        seen = (await watch.event()).id
        FakeNode(coordinator, clock, "cellar")
        epoch = (await coordinator.state()).epoch
        async with aclosing(coordinator.watch(Position(epoch, seen))) as batches:
            rest = [event.id for event in (await anext(batches)).events]
        assert rest == list(range(seen + 1, seen + 1 + len(rest)))
        assert len(rest) >= 2
        async with aclosing(coordinator.watch(Position(epoch - 1, seen))) as batches:
            assert (await anext(batches)).missed

    watched(tmp_path, scenario)


def test_a_coordinator_that_stops_ends_every_watch(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock, watch: Watch) -> None:
        await coordinator.drain()
        ended = False
        try:
            await watch.batch()
        except StopAsyncIteration:
            ended = True
        assert ended

    watched(tmp_path, scenario)
