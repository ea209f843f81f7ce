from __future__ import annotations

import asyncio

from chorus_proto.clock import Clock
from chorus_server.relay import WAITING_FRAMES, Relay, Throttle
from tests.support.clock import FakeClock


def test_a_sender_waits_while_the_receiver_takes_nothing() -> None:
    async def scenario() -> None:
        relay: Relay[int] = Relay()
        for number in range(WAITING_FRAMES):
            assert await relay.put(number)
        third = asyncio.create_task(relay.put(99))
        await asyncio.sleep(0)
        assert not third.done()
        assert await relay.take() == 0
        assert await third
        assert [await relay.take(), await relay.take()] == [1, 99]

    asyncio.run(scenario())


def test_a_close_ends_who_puts_and_who_takes() -> None:
    async def scenario() -> None:
        full: Relay[int] = Relay(limit=1)
        await full.put(1)
        putting = asyncio.create_task(full.put(2))
        empty: Relay[int] = Relay()
        taking = asyncio.create_task(empty.take())
        await asyncio.sleep(0)
        full.close()
        empty.close()
        assert await putting is False
        assert await taking is None
        assert await full.take() is None
        assert await empty.put(3) is False

    asyncio.run(scenario())


def test_what_a_given_up_sender_left_is_dropped_and_another_goes_on() -> None:
    async def scenario() -> None:
        relay: Relay[str] = Relay()
        await relay.put("of the bad one")
        relay.clear()
        await relay.put("of the good one")
        assert await relay.take() == "of the good one"

    asyncio.run(scenario())


def waits(throttle: Throttle, *counts: int) -> list[float]:
    """Seconds that each would wait, asked one right after the other."""
    waited: list[float] = []

    async def scenario() -> None:
        original = asyncio.sleep

        async def noted(seconds: float) -> None:
            waited.append(seconds)
            await original(0)

        asyncio.sleep = noted  # pyright: ignore[reportAttributeAccessIssue]  # the clock stands still
        try:
            for count in counts:
                await throttle.take(count)
        finally:
            asyncio.sleep = original

    asyncio.run(scenario())
    return waited


def test_a_limit_is_shared_by_all_who_send() -> None:
    clock: Clock = FakeClock()
    assert waits(Throttle(100, clock), 50, 100, 100) == [0.0, 0.5, 1.5]


def test_time_that_passed_is_not_saved_up() -> None:
    clock = FakeClock()
    throttle = Throttle(100, clock)
    assert waits(throttle, 100) == [0.0]
    clock.advance(60)
    assert waits(throttle, 100, 100) == [0.0, 1.0]


def test_without_a_limit_nobody_waits() -> None:
    assert waits(Throttle(0, FakeClock()), 10**9, 10**9) == [0.0, 0.0]
