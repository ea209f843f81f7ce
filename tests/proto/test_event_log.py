"""Followers of a log miss nothing and get nothing twice, or are told that they missed something."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from chorus_proto.event_log import BATCH_EVENTS, Batch, EventLog, Position
from tests.support.clock import FakeClock


@dataclass(frozen=True, slots=True)
class Numbered:
    id: int


def log_of(
    last: int, *, keep_events: int = 1000, keep_s: float = 60.0, clock: FakeClock | None = None
) -> EventLog[Numbered]:
    log: EventLog[Numbered] = EventLog(clock or FakeClock(), epoch=3, keep_s=keep_s, keep_events=keep_events)
    add(log, last)
    return log


def add(log: EventLog[Numbered], count: int) -> None:
    for _ in range(count):
        log.add(Numbered(log.position.id + 1))


def ids(batch: Batch[Numbered]) -> list[int]:
    return [event.id for event in batch.events]


def test_who_comes_back_gets_what_came_since() -> None:
    batch = log_of(5).since(Position(3, 2))
    assert (ids(batch), batch.position, batch.missed) == ([3, 4, 5], Position(3, 5), "")


def test_who_is_up_to_date_has_missed_nothing() -> None:
    assert log_of(5).since(Position(3, 5)) == Batch(Position(3, 5))


def test_what_is_no_longer_kept_is_said_to_be_missed_and_the_reader_goes_on_from_now() -> None:
    batch = log_of(5, keep_events=2).since(Position(3, 2))
    assert (batch.events, batch.position) == ((), Position(3, 5))
    assert "no longer kept" in batch.missed
    assert ids(log_of(5, keep_events=2).since(Position(3, 3))) == [4, 5]


def test_an_event_is_kept_for_its_time_and_no_longer() -> None:
    clock = FakeClock()
    log = log_of(2, keep_s=60, clock=clock)
    clock.advance(40)
    add(log, 1)
    clock.advance(19)
    assert ids(log.since(Position(3, 0))) == [1, 2, 3]
    clock.advance(2)
    assert log.since(Position(3, 1)).missed
    assert ids(log.since(Position(3, 2))) == [3]


def test_another_epoch_and_a_number_that_never_was_are_missed() -> None:
    log = log_of(5)
    assert "started anew" in log.since(Position(2, 5)).missed
    assert log.since(Position(3, 6)).missed


def test_a_restart_forgets_what_was_and_tells_it() -> None:
    log = log_of(5)
    log.restart(Position(4, 100))
    assert log.since(Position(3, 5)).missed
    assert log.since(Position(4, 100)) == Batch(Position(4, 100))
    add(log, 1)
    assert ids(log.since(Position(4, 100))) == [101]


def test_a_slow_follower_gets_everything_in_order_in_small_batches() -> None:
    async def run() -> None:
        log = log_of(0)
        seen: list[int] = []
        async with asyncio.timeout(10), aclosing(log.follow()) as batches:
            assert (await anext(batches)).events == ()
            add(log, 500)
            while len(seen) < 500:
                batch = await anext(batches)
                assert 0 < len(batch.events) <= BATCH_EVENTS
                assert not batch.missed
                seen += ids(batch)
                await asyncio.sleep(0)
        assert seen == list(range(1, 501))
        assert log.followers == 0

    asyncio.run(run())


def test_a_follower_that_falls_behind_costs_nothing_and_is_told() -> None:
    async def run() -> None:
        log = log_of(0, keep_events=10)
        async with asyncio.timeout(10), aclosing(log.follow()) as batches:
            await anext(batches)
            add(log, 50)
            behind = await anext(batches)
            assert behind.missed
            assert behind.position == Position(3, 50)
            add(log, 1)
            assert ids(await anext(batches)) == [51]

    asyncio.run(run())


def test_silence_is_broken_by_a_sign_of_life_and_an_end_comes_after_everything_was_read() -> None:
    async def run() -> None:
        log = log_of(0)
        async with asyncio.timeout(10), aclosing(log.follow(silence_s=0.01)) as batches:
            await anext(batches)
            assert await anext(batches) == Batch(Position(3, 0))
            add(log, 2)
            log.close()
            assert [ids(batch) async for batch in batches] == [[1, 2]]

    asyncio.run(run())
