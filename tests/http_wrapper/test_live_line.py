"""One socket's bounds: how fast it may speak, how much waits for it, and that a slow one is cut and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from chorus_http.live.line import TOPICS_LIMIT, Line
from chorus_http.live.mail import PACKETS_LIMIT, ROOM_BYTES, Mail
from chorus_proto.errors import ClusterError, ErrorCode, QueueFull, SlowConsumer
from tests.support.clock import FakeClock


@dataclass(frozen=True, slots=True)
class Packet:
    data: object


class Ends:
    """A line, and with which errors it was ended."""

    def __init__(self, *, stall_within_s: float = 5.0) -> None:
        self.clock = FakeClock()
        self.mail = Mail()
        self.errors: list[ErrorCode] = []

        async def send(text: str) -> None:
            self.mail.put_nowait(Packet(text))

        self.line = Line(
            "eio",
            "127.0.0.1",
            self.mail,
            send,
            self.clock,
            events_per_s=20,
            stall_within_s=stall_within_s,
            end=self._end,
        )

    def _end(self, line: Line, error: ClusterError) -> None:
        self.errors.append(error.code)


def play(scenario: Callable[[Ends], Awaitable[None]], *, stall_within_s: float = 5.0) -> None:
    async def run() -> None:
        ends = Ends(stall_within_s=stall_within_s)
        async with asyncio.timeout(10):
            await scenario(ends)
        await ends.line.stop_all()

    asyncio.run(run())


def test_twenty_events_a_second_and_no_more() -> None:
    async def scenario(ends: Ends) -> None:
        assert [ends.line.may_speak() for _ in range(22)] == [True] * 20 + [False] * 2
        ends.clock.advance(0.1)
        assert [ends.line.may_speak() for _ in range(3)] == [True, True, False]
        ends.clock.advance(60)
        assert [ends.line.may_speak() for _ in range(21)] == [True] * 20 + [False]

    play(scenario)


def test_a_flood_is_told_off_now_and_then() -> None:
    async def scenario(ends: Ends) -> None:
        assert [ends.line.may_be_told_off() for _ in range(3)] == [True, False, False]
        ends.clock.advance(1)
        assert ends.line.may_be_told_off()

    play(scenario)


def test_who_reads_slowly_holds_up_what_is_for_them_and_the_memory_is_bounded() -> None:
    async def scenario(ends: Ends) -> None:
        payload = b'"%b"' % (b"x" * 10_000)
        sent = 0

        async def tell_on() -> None:
            nonlocal sent
            while True:
                await ends.line.tell("stream", payload)
                sent += 1

        ends.line.start("generate:a", tell_on())
        while not sent:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sent <= ROOM_BYTES // len(payload) + 1
        before = sent
        while ends.mail.qsize():
            ends.mail.get_nowait()
        while sent == before:
            await asyncio.sleep(0)
        assert not ends.errors

    play(scenario)


def test_who_reads_nothing_is_cut() -> None:
    async def scenario(ends: Ends) -> None:
        payload = b'"%b"' % (b"x" * ROOM_BYTES)

        async def tell_on() -> None:
            while True:
                await ends.line.tell("stream", payload)

        ends.line.start("generate:a", tell_on())
        while not ends.errors:
            await asyncio.sleep(0.001)
        assert ends.errors == [SlowConsumer.code]
        while ends.line.is_busy_with("generate:a"):
            await asyncio.sleep(0)

    play(scenario, stall_within_s=0.02)


def test_answers_that_nobody_reads_overflow() -> None:
    overflown: list[int] = []
    mail = Mail()
    mail.overflown = lambda: overflown.append(mail.qsize())
    for _ in range(PACKETS_LIMIT):
        mail.put_nowait(Packet("430[{}]"))
    assert not overflown
    mail.put_nowait(None)
    assert overflown == [PACKETS_LIMIT + 1]


def test_one_thing_of_a_topic_at_a_time_and_not_too_many_topics() -> None:
    async def scenario(ends: Ends) -> None:
        gate = asyncio.Event()
        stopped: list[int] = []

        async def follow(number: int) -> None:
            try:
                await gate.wait()
            finally:
                stopped.append(number)

        ends.line.start("cluster", follow(1))
        await asyncio.sleep(0)
        ends.line.start("cluster", follow(2))
        while stopped != [1]:
            await asyncio.sleep(0)
        assert ends.line.is_busy_with("cluster")
        for number in range(TOPICS_LIMIT - 1):
            ends.line.start(f"chat:{number}", follow(number))
        with pytest.raises(QueueFull):
            ends.line.start("one more", follow(99))
        assert ends.line.stop("cluster")
        assert not ends.line.stop("never began")

    play(scenario)


def test_a_bug_in_one_thing_ends_the_socket_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(ends: Ends) -> None:
        async def break_down() -> None:
            raise ZeroDivisionError

        ends.line.start("cluster", break_down())
        while not ends.errors:
            await asyncio.sleep(0)
        assert ends.errors == [ErrorCode.INTERNAL]

    play(scenario)
    assert "ZeroDivisionError" in caplog.text
