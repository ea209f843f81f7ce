"""What `bench.gateway` measures of one gateway: CPU for each request and token, speed in a burst, and delays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.gateways import Gateway, family_cpu_s
from bench.kept_alive import Answer, Connection, chat, lateness_ms
from bench.load import percentile
from bench.mock_engine import MODEL

SHORT_TOKENS = 16
PACE = 50
BURST_TOKENS = 500


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds and seconds for so many pieces of work; `agent_cpu_s` is Chorus's agent's."""

    pieces: int
    seconds: float
    cpu_s: float
    agent_cpu_s: float = 0.0

    @property
    def cpu_us(self) -> float:
        """Of the gateway, for each piece."""
        return self.cpu_s / self.pieces * 1e6

    @property
    def agent_cpu_us(self) -> float:
        return self.agent_cpu_s / self.pieces * 1e6

    @property
    def per_s(self) -> float:
        return self.pieces / self.seconds

    @property
    def per_core_s(self) -> float:
        """What one busy core of the gateway does in a second."""
        return self.pieces / self.cpu_s


async def measured(gateway: Gateway, work: Callable[[], Awaitable[int]]) -> Spent:
    """`work` returns how many pieces it did."""
    before = gateway.cpu_s(), time.perf_counter(), 0.0 if gateway.agent is None else family_cpu_s(gateway.agent)
    pieces = await work()
    agent_s = 0.0 if gateway.agent is None else family_cpu_s(gateway.agent) - before[2]
    return Spent(pieces, time.perf_counter() - before[1], gateway.cpu_s() - before[0], agent_s)


def middle(found: Sequence[Spent]) -> Spent:
    """The one with the median CPU time for each piece."""
    return sorted(found, key=lambda one: one.cpu_us)[len(found) // 2]


async def at_once(url: str, count: int, one: Callable[[Connection, int], Awaitable[None]]) -> None:
    """`one` on each of `count` kept connections."""
    connections = [Connection(url) for _ in range(count)]
    try:
        await asyncio.gather(*(one(connection, number) for number, connection in enumerate(connections)))
    finally:
        for connection in connections:
            connection.close()


async def requests(gateway: Gateway, *, connections: int, seconds: float) -> Spent:
    """Whole answers, one after the other on each connection, for about so long."""
    asked = chat(gateway.url, MODEL, tokens=SHORT_TOKENS, stream=False)

    async def work() -> int:
        done = 0
        ends_at_s = time.perf_counter() + seconds

        async def one(connection: Connection, _number: int) -> None:
            nonlocal done
            while time.perf_counter() < ends_at_s:
                await connection.ask(asked)
                done += 1

        await at_once(gateway.url, connections, one)
        return done

    return await measured(gateway, work)


async def burst(gateway: Gateway, *, streams: int, seconds: float) -> Spent:
    """Streamed tokens as fast as they come, for about so long."""
    asked = chat(gateway.url, MODEL, tokens=BURST_TOKENS)

    async def work() -> int:
        done = 0
        ends_at_s = time.perf_counter() + seconds

        async def one(connection: Connection, _number: int) -> None:
            nonlocal done
            while time.perf_counter() < ends_at_s:
                await connection.stream(asked, BURST_TOKENS)
                done += BURST_TOKENS

        await at_once(gateway.url, streams, one)
        return done

    return await measured(gateway, work)


async def paced_answers(url: str, *, streams: int, tokens: int) -> list[Answer]:
    """`streams` callers, each with one answer of so many tokens at `PACE`; they start apart from each other."""
    answers: list[Answer] = []

    async def one(connection: Connection, number: int) -> None:
        await asyncio.sleep(number / PACE * 7 % 1)
        answers.append(await connection.stream(chat(url, MODEL, tokens=tokens, pace=PACE), tokens))

    await at_once(url, streams, one)
    return answers


async def paced(gateway: Gateway, *, streams: int, tokens: int) -> tuple[Spent, list[float]]:
    """CPU for each token, and how many milliseconds late each came."""
    answers: list[Answer] = []

    async def work() -> int:
        answers.extend(await paced_answers(gateway.url, streams=streams, tokens=tokens))
        return streams * tokens

    spent = await measured(gateway, work)
    return spent, lateness_ms(answers, PACE)


async def first_tokens_ms(url: str, *, count: int) -> list[float]:
    """Milliseconds to the first token of quiet, short streams one after the other on one connection."""
    connection = Connection(url)
    asked = chat(url, MODEL, tokens=SHORT_TOKENS)
    try:
        answers = [await connection.stream(asked, SHORT_TOKENS) for _ in range(count)]
    finally:
        connection.close()
    return [answer.ttft_s * 1000 for answer in answers]


async def added_ttft_ms(gateway: Gateway, engine_url: str, *, count: int) -> float:
    """The median through the gateway less the engine's own, turn by turn."""
    through: list[float] = []
    direct: list[float] = []
    for _ in range(5):
        direct += await first_tokens_ms(engine_url, count=count // 5)
        through += await first_tokens_ms(gateway.url, count=count // 5)
    return median(through) - median(direct)


def p99(values: list[float]) -> float:
    return percentile(values, 0.99)
