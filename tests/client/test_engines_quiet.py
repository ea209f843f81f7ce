"""After a cancelled answer: with counts from the test's hand, and with a real process that does not stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import psutil
import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.engines.quiet import QuietCheck
from chorus_client.engines.scripted import SCRIPTED_MODEL, ScriptedEngine
from chorus_client.engines.served_process import ServedModel, ServeLimits
from chorus_proto.errors import EngineFailed, EngineUnavailable
from chorus_proto.generation import Delta, Done
from chorus_proto.values import EngineKind, ModelFile
from tests.client.engine_contract import answered, ask, silent
from tests.support.pieces import each

WITHIN_S = 0.3


class Engine:
    """What an engine says of its slots, and what is said of it."""

    def __init__(self) -> None:
        self.busy: int | None = 0
        self.looks = 0
        self.unreachable = False
        self.heard: list[str] = []
        self.check = QuietCheck(self._busy_slots, self.heard.append, within_s=WITHIN_S)

    async def _busy_slots(self) -> int | None:
        self.looks += 1
        if self.unreachable:
            raise EngineUnavailable("no answer")
        return self.busy

    def answered(self, *, prefill_tokens_per_s: float) -> None:
        self.check.began()
        self.check.answers()
        self.check.ended(Done(finish_reason="stop", prefill_tokens_per_s=prefill_tokens_per_s), answering=True)

    def cancelled(self) -> None:
        self.check.began()
        self.check.answers()
        self.check.ended(Delta("word"), answering=True)


def play(scenario: Callable[[Engine], Awaitable[None]]) -> Engine:
    engine = Engine()

    async def run() -> None:
        await scenario(engine)
        await engine.check.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    return engine


def test_an_engine_that_stops_is_asked_once() -> None:
    async def scenario(engine: Engine) -> None:
        engine.cancelled()
        await asyncio.sleep(2 * WITHIN_S)

    engine = play(scenario)
    assert (engine.looks, engine.heard) == (1, [])


def test_an_answer_that_ended_by_itself_needs_no_look() -> None:
    async def scenario(engine: Engine) -> None:
        engine.answered(prefill_tokens_per_s=10)
        await asyncio.sleep(2 * WITHIN_S)

    assert play(scenario).looks == 0


def test_an_engine_that_stays_busy_is_told_of_after_the_limit() -> None:
    async def scenario(engine: Engine) -> None:
        engine.busy = 1
        engine.cancelled()
        await asyncio.sleep(WITHIN_S * 0.9)
        assert engine.heard == []
        await asyncio.sleep(WITHIN_S)
        assert len(engine.heard) == 1

    play(scenario)


def test_one_that_does_not_answer_is_busy() -> None:
    async def scenario(engine: Engine) -> None:
        engine.unreachable = True
        engine.cancelled()
        await asyncio.sleep(2 * WITHIN_S)
        assert len(engine.heard) == 1

    play(scenario)


def test_one_that_shows_no_slots_cannot_be_judged() -> None:
    async def scenario(engine: Engine) -> None:
        engine.busy = None
        engine.cancelled()
        await asyncio.sleep(2 * WITHIN_S)

    engine = play(scenario)
    assert (engine.looks, engine.heard) == (1, [])


def test_slots_of_other_answers_are_busy_with_reason() -> None:
    async def scenario(engine: Engine) -> None:
        engine.busy = 1
        engine.check.began()
        engine.check.answers()
        engine.cancelled()
        await asyncio.sleep(2 * WITHIN_S)

    assert play(scenario).heard == []


def test_the_time_counts_from_the_latest_cancel() -> None:
    async def scenario(engine: Engine) -> None:
        engine.busy = 1
        for _ in range(4):
            engine.cancelled()
            await asyncio.sleep(WITHIN_S * 0.7)
        assert engine.heard == []
        await asyncio.sleep(WITHIN_S)
        assert len(engine.heard) == 1

    play(scenario)


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_batch_of_a_prompt_is_waited_for(cancelled: bool) -> None:
    """Its own prompt's, and that of another who waits for his first token."""

    async def scenario(engine: Engine) -> None:
        engine.answered(prefill_tokens_per_s=2 * 2048)
        engine.busy = 2
        engine.check.began()
        if cancelled:
            engine.check.ended(None, answering=False)
        else:
            engine.cancelled()
        await asyncio.sleep(2 * WITHIN_S)
        assert engine.heard == []
        await asyncio.sleep(1.0)
        assert len(engine.heard) == 1

    play(scenario)


# With a real process ----------------------------------------------------------------------------------------------


async def loaded(**faults: str) -> ServedModel:
    limits = ServeLimits(stop_grace_s=0.2, quiet_s=0.5)
    engine = ScriptedEngine(tokens_per_s=50, answer_tokens=500, faults=faults, limits=limits)
    file = ModelFile(name=SCRIPTED_MODEL, file_bytes=0, engine=EngineKind.SCRIPTED)
    return await engine.load(file, LoadOptions(slots=2), silent)


async def cancel_one(model: ServedModel) -> None:
    async with aclosing(each(model.generate(ask("long")))) as pieces:
        async for piece in pieces:
            if isinstance(piece, Delta):
                return


def test_a_process_that_goes_on_after_a_cancel_is_ended_and_says_why() -> None:
    async def check() -> None:
        model = await loaded(ignore_cancel="true")
        try:
            running = asyncio.create_task(answered(model, ask("another")))
            await cancel_one(model)
            async with asyncio.timeout(5):
                ending = await model.wait_closed()
            assert "after an answer was cancelled the engine still works on it" in ending.reason
            assert not ending.for_memory
            assert not psutil.pid_exists(model.pid) or psutil.Process(model.pid).status() == psutil.STATUS_ZOMBIE
            with pytest.raises(EngineFailed, match="was cancelled"):
                await running
        finally:
            await model.unload()

    asyncio.run(check())


def test_a_process_that_stops_lives_on() -> None:
    async def check() -> None:
        model = await loaded()
        try:
            for _ in range(3):
                await cancel_one(model)
            await asyncio.sleep(0.8)
            _, done = await answered(model, ask("short", max_tokens=3))
            assert done.completion_tokens == 3
        finally:
            await model.unload()

    asyncio.run(check())
