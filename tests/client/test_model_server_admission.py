"""The queue before the model: order, limits, and that no slot is lost, however a caller gives up."""

from __future__ import annotations

import asyncio

import pytest

from chorus_client.model_server.admission import Admission, QueueLimits
from chorus_proto.errors import QueueFull, QueueTimeout


def admission(*, slots: int = 1, most_waiting: int = 2, within_s: float = 5) -> Admission:
    return Admission(QueueLimits(slots=slots, most_waiting=most_waiting, within_s=within_s))


async def until_waiting(queue: Admission, count: int) -> None:
    async with asyncio.timeout(2):
        while queue.status().waiting != count:
            await asyncio.sleep(0)


def test_who_waits_longest_is_next() -> None:
    async def check() -> None:
        queue = admission()
        order: list[int] = []

        async def one(number: int) -> None:
            await queue.enter()
            order.append(number)

        await queue.enter()
        waiting: list[asyncio.Task[None]] = []
        for number in (1, 2):
            waiting.append(asyncio.create_task(one(number)))
            await until_waiting(queue, number)
        queue.leave()
        await waiting[0]
        queue.leave()
        await waiting[1]
        assert order == [1, 2]
        queue.leave()
        assert (queue.active, queue.status().started_total) == (0, 3)

    asyncio.run(check())


def test_a_full_queue_refuses_at_once() -> None:
    async def check() -> None:
        queue = admission(most_waiting=0)
        await queue.enter()
        with pytest.raises(QueueFull, match="1 generations run and 0 wait"):
            await queue.enter()
        assert queue.status().refused_total == 1

    asyncio.run(check())


def test_a_caller_who_waited_long_enough_is_told_and_its_place_is_free() -> None:
    async def check() -> None:
        queue = admission(most_waiting=1)
        await queue.enter()
        for _ in range(3):
            with pytest.raises(QueueTimeout):
                await queue.enter(within_s=0.01)
        assert (queue.status().waiting, queue.status().timed_out_total) == (0, 3)
        queue.leave()
        assert queue.active == 0

    asyncio.run(check())


def test_no_slot_is_lost_when_its_caller_leaves_in_the_moment_it_comes() -> None:
    async def check() -> None:
        queue = admission()
        await queue.enter()
        waiting = asyncio.create_task(queue.enter())
        await until_waiting(queue, 1)
        queue.leave()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert queue.active == 0
        await queue.enter()

    asyncio.run(check())


def test_a_caller_who_leaves_the_queue_takes_no_slot() -> None:
    async def check() -> None:
        queue = admission()
        await queue.enter()
        gone, stays = asyncio.create_task(queue.enter()), asyncio.create_task(queue.enter())
        await until_waiting(queue, 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        queue.leave()
        await stays
        assert queue.active == 1

    asyncio.run(check())
