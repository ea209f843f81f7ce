"""Generations under a watchdog: with pieces from the test's hand, and with a real process that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.engines.scripted import SCRIPTED_MODEL, ScriptedEngine
from chorus_client.engines.served_process import ServedModel, ServeLimits
from chorus_client.scripted_text import scripted_text
from chorus_client.watchdog import SharedEngine, Watchdog, WatchLimits
from chorus_client.watched import prompt_tokens_about, watched
from chorus_proto.clock import SystemClock
from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Delta, Done, Generation, Message, Piece, PieceBatches, Prefilled
from chorus_proto.values import EngineKind, ModelFile
from tests.client.engine_contract import ask, silent, until
from tests.support.pieces import each

CLOCK = SystemClock()
SHORT = WatchLimits(
    first_s=0.3, slowness=4, first_cap_s=5, between_s=0.3, between_cap_s=0.5, assumed_prefill_tokens_per_s=1e6
)


class Source:
    """An engine's pieces, as the test puts them; notes whether its generator was closed."""

    def __init__(self, *pieces: Piece | Exception) -> None:
        self.queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        for piece in pieces:
            self.queue.put_nowait(piece)
        self.closed = False

    async def batches(self) -> PieceBatches:
        try:
            while True:
                piece = await self.queue.get()
                if isinstance(piece, Exception):
                    raise piece
                yield [piece]
                if isinstance(piece, Done):
                    return
        finally:
            self.closed = True


class Watch:
    """One generation under a watchdog, and what was heard of it."""

    def __init__(self, *pieces: Piece | Exception, limits: WatchLimits = SHORT) -> None:
        self.source = Source(*pieces)
        self.heard: list[str] = []
        self.watchdog = Watchdog(CLOCK.monotonic_s(), 0, SharedEngine(), limits)
        self.pieces = each(watched(self.source.batches(), self.watchdog, CLOCK, self.heard.append))


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it; fails when a task or a timer is left behind."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        await scenario()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        scheduled = getattr(loop, "_scheduled", [])
        assert [handle for handle in scheduled if not handle.cancelled()] == []

    asyncio.run(run())


def test_all_pieces_pass_in_their_order() -> None:
    async def scenario() -> None:
        all_pieces: list[Piece] = [
            Prefilled(0, 9),
            Prefilled(9, 9),
            Delta("a"),
            Delta("", 0),
            Delta("bc", 2),
            Done(finish_reason="stop", prefill_tokens_per_s=50.0),
        ]
        watch = Watch(*all_pieces)
        assert [piece async for piece in watch.pieces] == all_pieces
        assert watch.heard == []
        assert watch.source.closed
        assert watch.watchdog.engine == SharedEngine(50.0)

    play(scenario)


def test_an_engine_that_says_nothing_is_hung_and_its_work_is_stopped() -> None:
    async def scenario() -> None:
        watch = Watch()
        with pytest.raises(EngineFailed, match="no first token") as caught:
            await anext(watch.pieces)
        assert watch.heard == [caught.value.message]
        assert watch.source.closed
        assert watch.watchdog.engine.watchdogs == set()
        assert asyncio.current_task() is not None
        assert asyncio.current_task().cancelling() == 0  # pyright: ignore[reportOptionalMemberAccess] - asserted above

    play(scenario)


def test_one_that_stops_between_tokens_is_hung_after_its_own_limit() -> None:
    async def scenario() -> None:
        watch = Watch(Delta("a"), Delta("b"))
        began_s = CLOCK.monotonic_s()
        text: list[Piece] = []
        with pytest.raises(EngineFailed, match="no further token after 2"):
            async for piece in watch.pieces:
                text.append(piece)
        assert text == [Delta("a"), Delta("b")]
        assert 0.3 <= CLOCK.monotonic_s() - began_s < 1.3

    play(scenario)


def test_progress_with_the_prompt_is_life_and_its_repetition_is_not() -> None:
    async def scenario() -> None:
        watch = Watch(limits=WatchLimits(first_s=0.4, assumed_prefill_tokens_per_s=1e6))

        async def compute() -> None:
            for tokens in range(6):
                watch.source.queue.put_nowait(Prefilled(tokens, 100))
                await asyncio.sleep(0.15)
            for _ in range(20):
                watch.source.queue.put_nowait(Prefilled(5, 100))
                await asyncio.sleep(0.05)

        computing = asyncio.create_task(compute())
        began_s = CLOCK.monotonic_s()
        with pytest.raises(EngineFailed, match="stood still after 5 of 100 prompt tokens"):
            async for _ in watch.pieces:
                pass
        assert CLOCK.monotonic_s() - began_s > 0.75 + 0.35
        computing.cancel()
        await asyncio.gather(computing, return_exceptions=True)

    play(scenario)


def test_empty_deltas_are_no_life() -> None:
    async def scenario() -> None:
        watch = Watch(Delta("a"))

        async def ping() -> None:
            while True:
                watch.source.queue.put_nowait(Delta("", 0))
                await asyncio.sleep(0.02)

        pinging = asyncio.create_task(ping())
        with pytest.raises(EngineFailed, match="no further token after 1"):
            async for _ in watch.pieces:
                pass
        pinging.cancel()
        await asyncio.gather(pinging, return_exceptions=True)

    play(scenario)


def test_a_caller_who_does_not_read_on_hangs_nobodys_engine() -> None:
    async def scenario() -> None:
        watch = Watch(Delta("a"), Delta("b"))
        assert await anext(watch.pieces) == Delta("a")
        await asyncio.sleep(0.8)
        assert await anext(watch.pieces) == Delta("b")
        asyncio.get_running_loop().call_later(0.2, watch.source.queue.put_nowait, Delta("c"))
        # Away for most of the limit, then waiting for less than the limit: only the waiting counts.
        await asyncio.sleep(0.25)
        assert await anext(watch.pieces) == Delta("c")
        await watch.pieces.aclose()
        assert watch.heard == []

    play(scenario)


def test_a_hang_after_a_slow_caller_came_back_is_seen() -> None:
    async def scenario() -> None:
        watch = Watch(Delta("a"))
        await anext(watch.pieces)
        await asyncio.sleep(0.6)
        with pytest.raises(EngineFailed):
            await anext(watch.pieces)

    play(scenario)


def test_closing_it_closes_the_engines_generator() -> None:
    async def scenario() -> None:
        watch = Watch(Delta("a"))
        await anext(watch.pieces)
        await watch.pieces.aclose()
        assert watch.source.closed
        assert watch.watchdog.engine.watchdogs == set()

    play(scenario)


def test_a_cancel_passes_through_and_is_no_hang() -> None:
    async def scenario() -> None:
        watch = Watch()
        waiting = asyncio.create_task(anext(watch.pieces))  # pyright: ignore[reportArgumentType] - typed as any awaitable
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert watch.source.closed
        assert watch.heard == []

    play(scenario)


def test_a_deadline_of_the_caller_stays_a_deadline() -> None:
    async def scenario() -> None:
        watch = Watch()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(watch.pieces)
        assert watch.heard == []

    play(scenario)


def test_a_cancel_that_meets_the_hang_stays_a_cancel() -> None:
    async def scenario() -> None:
        watch = Watch()

        async def wait() -> None:
            await anext(watch.pieces)

        waiting = asyncio.create_task(wait())
        watch.heard = Meeting(waiting)
        watch.pieces = each(watched(watch.source.batches(), watch.watchdog, CLOCK, watch.heard.append))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(watch.heard) == 1

    play(scenario)


class Meeting(list[str]):
    """Cancels a task in the very moment in which the hang is told."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        super().__init__()
        self._task = task

    def append(self, reason: str, /) -> None:
        super().append(reason)
        self._task.cancel()


def test_what_the_engine_raises_is_not_changed() -> None:
    async def scenario() -> None:
        watch = Watch(Delta("a"), EngineFailed("its own words"))
        with pytest.raises(EngineFailed, match="its own words"):
            async for _ in watch.pieces:
                pass
        assert watch.heard == []

    play(scenario)


def test_an_engine_that_turns_the_break_into_its_own_failure_is_hung_all_the_same() -> None:
    async def stubborn() -> PieceBatches:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise EngineFailed("the connection broke") from None
        yield [Delta("never")]

    async def scenario() -> None:
        watchdog = Watchdog(CLOCK.monotonic_s(), 0, limits=SHORT)
        with pytest.raises(EngineFailed, match="no first token"):
            await anext(watched(stubborn(), watchdog, CLOCK, list[str]().append))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    play(scenario)


def test_a_blocked_loop_is_not_the_engines_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus_client.watched.LATE_S", 0.2)

    async def scenario() -> None:
        watch = Watch(Delta("a"))
        await anext(watch.pieces)
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, time.sleep, 0.8)
        loop.call_later(0.95, watch.source.queue.put_nowait, Delta("b"))
        assert await anext(watch.pieces) == Delta("b")
        await watch.pieces.aclose()
        assert watch.heard == []

    play(scenario)


def test_a_task_of_its_own_for_each_piece_can_be_broken_too() -> None:
    async def scenario() -> None:
        watch = Watch(Delta("a"))
        await asyncio.wait_for(anext(watch.pieces), 5)
        with pytest.raises(EngineFailed):
            await asyncio.wait_for(anext(watch.pieces), 5)

    play(scenario)


def test_the_estimate_of_a_prompt_errs_to_many_tokens() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 100
    assert 1000 < prompt_tokens_about(Generation(messages=(Message(role="user", content=text),))) < 2000


# With a real process ----------------------------------------------------------------------------------------------

MODEL = ModelFile(name=SCRIPTED_MODEL, file_bytes=0, engine=EngineKind.SCRIPTED)


@contextlib.asynccontextmanager
async def scripted(faults: Mapping[str, str], limits: ServeLimits | None = None) -> AsyncGenerator[ServedModel, None]:
    engine = ScriptedEngine(faults=faults, limits=limits or ServeLimits(stop_grace_s=0.3))
    model = await engine.load(MODEL, LoadOptions(slots=2), silent)
    try:
        yield model
    finally:
        await model.unload(force=True)


def guarded(model: ServedModel, generation: Generation, heard: list[str]) -> AsyncGenerator[Piece, None]:
    watchdog = Watchdog(CLOCK.monotonic_s(), prompt_tokens_about(generation), limits=SHORT)
    return each(watched(model.generate(generation), watchdog, CLOCK, heard.append))


def test_a_process_that_hangs_while_its_health_page_is_well_is_found_and_can_be_ended() -> None:
    async def scenario() -> None:
        async with scripted({"hang_after": "4", "ignore_sigterm": "true"}) as model:
            heard: list[str] = []
            text = ""
            began_s = CLOCK.monotonic_s()
            with pytest.raises(EngineFailed, match="no further token after 4"):
                async for piece in guarded(model, ask("say"), heard):
                    text += piece.text if isinstance(piece, Delta) else ""
            assert text == scripted_text("say", 4)
            assert CLOCK.monotonic_s() - began_s < 0.5 + 1
            assert len(heard) == 1

            async def quiet() -> bool:
                return await model.busy_slots() == 0

            await until(quiet, within_s=2, what="the engine to stop")
            began_s = CLOCK.monotonic_s()
            await model.unload(force=True)
            assert CLOCK.monotonic_s() - began_s < 5

    asyncio.run(scenario())


def test_a_very_slow_prompt_with_progress_is_never_called_hung() -> None:
    async def scenario() -> None:
        async with scripted({"prefill_tps": "50", "prefill_batch": "5"}) as model:
            heard: list[str] = []
            pieces = [piece async for piece in guarded(model, ask("word " * 30), heard)]
            assert heard == []
            told = [piece.tokens for piece in pieces if isinstance(piece, Prefilled)]
            assert told == [0, 5, 10, 15, 20, 25, 30]
            assert isinstance(pieces[-1], Done)

    asyncio.run(scenario())


def test_a_prompt_that_stands_still_is_hung() -> None:
    async def scenario() -> None:
        async with scripted({"ttft": "60"}) as model:
            heard: list[str] = []
            with pytest.raises(EngineFailed, match=r"stood still after 1 of 1 prompt tokens"):
                async for _ in guarded(model, ask("word"), heard):
                    pass

    asyncio.run(scenario())
