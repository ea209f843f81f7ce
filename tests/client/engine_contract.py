"""What every engine must do (chorus_client/engines/base.py): one suite, run on each implementation.

A test file subclasses `EngineContract` and says in `subject` how to get the engine. Pytest collects the subclass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

import pytest

from chorus_client.engines.base import Engine, LoadedModel, LoadOptions, LoadProgress
from chorus_proto.errors import EngineFailed, EngineUnavailable, LoadFailed
from chorus_proto.generation import Delta, Done, Generation, Message, Piece, Prefilled
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelFile
from tests.support.patience import granted_s
from tests.support.pieces import each

_OPTIONS = LoadOptions(slots=2, context_tokens=1024)
QUESTION = "What is the capital of France?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One engine under test, and what the suite must know about it."""

    engine: Engine
    model: ModelFile
    answer: str
    """To `QUESTION` at temperature 0."""
    stop: str
    """A piece of `answer` to stop at."""
    long_prompt: str
    """A raw prompt that is answered by at least 200 tokens when nobody stops it."""
    kill: Callable[[LoadedModel], Awaitable[None]]
    """End the process that serves the model, rudely."""
    busy_slots: Callable[[LoadedModel], Awaitable[int]]
    """As the serving process itself tells."""
    ignores_end: bool = True
    tells_stop: bool = True
    """Which stop sequence ended an answer."""
    options: LoadOptions = _OPTIONS


def ask(question: str = QUESTION, **more: object) -> Generation:
    fields: dict[str, object] = {"messages": (Message(role="user", content=question),), "temperature": 0.0} | more
    return Generation(**fields)  # pyright: ignore[reportArgumentType] - a test may set any field


async def answered(model: LoadedModel, generation: Generation) -> tuple[str, Done]:
    """The whole answer; fails unless it is deltas and then exactly one Done."""
    text: list[str] = []
    ends: list[Done] = []
    async with contextlib.aclosing(each(model.generate(generation))) as pieces:
        async for piece in pieces:
            if isinstance(piece, Delta):
                assert not ends, "a delta after Done"
                assert piece.text
                text.append(piece.text)
            elif isinstance(piece, Done):
                ends.append(piece)
    assert len(ends) == 1
    return "".join(text), ends[0]


async def until(condition: Callable[[], Awaitable[bool]], *, within_s: float, what: str) -> None:
    """Poll with a deadline; the failure says what did not come."""
    try:
        async with asyncio.timeout(granted_s(within_s)):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s: {what}")


def silent(_progress: LoadProgress) -> None:
    """A report that nobody reads."""


class EngineContract:
    def subject(self) -> AbstractAsyncContextManager[Subject]:
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncGenerator[tuple[Subject, LoadedModel], None]:
        async with self.subject() as subject:
            model = await subject.engine.load(subject.model, subject.options, silent)
            try:
                yield subject, model
            finally:
                await model.unload()

    def test_the_inventory_names_the_model_and_its_engine(self) -> None:
        async def check() -> None:
            async with self.subject() as subject:
                files = await subject.engine.inventory()
                assert [f.name for f in files] == [subject.model.name]
                assert files[0].engine is subject.engine.kind

        asyncio.run(check())

    def test_a_chat_gives_the_answer_and_its_counts(self) -> None:
        async def check() -> None:
            async with self.loaded() as (subject, model):
                text, done = await answered(model, ask())
                assert text == subject.answer
                assert done.finish_reason == "stop"
                assert done.prompt_tokens > 0
                assert 0 < len(text.split()) <= done.completion_tokens <= len(text)
                assert model.slots == 2
                assert model.context_tokens in (0, 1024)

        asyncio.run(check())

    def test_a_raw_completion_goes_on_with_the_prompt(self) -> None:
        async def check() -> None:
            async with self.loaded() as (_, model):
                generation = Generation(prompt="The capital of France is", temperature=0.0, max_tokens=4)
                first, done = await answered(model, generation)
                assert first
                assert 0 < done.completion_tokens <= 4
                assert (await answered(model, generation))[0] == first

        asyncio.run(check())

    def test_max_tokens_cuts_the_answer_and_says_length(self) -> None:
        async def check() -> None:
            async with self.loaded() as (subject, model):
                text, done = await answered(model, ask(max_tokens=3))
                assert subject.answer.startswith(text)
                assert text != subject.answer
                assert (done.finish_reason, done.completion_tokens) == ("length", 3)

        asyncio.run(check())

    def test_a_stop_sequence_ends_the_answer_before_it(self) -> None:
        async def check() -> None:
            async with self.loaded() as (subject, model):
                text, done = await answered(model, ask(stop=("nowhere", subject.stop)))
                assert text.rstrip() == subject.answer.partition(subject.stop)[0].rstrip()
                assert done.finish_reason == "stop"
                assert done.stop_sequence == (subject.stop if subject.tells_stop else None)
                _, done = await answered(model, ask(stop=("nowhere",), max_tokens=64))
                assert done.stop_sequence is None

        asyncio.run(check())

    def test_the_same_seed_gives_the_same_answer(self) -> None:
        async def check() -> None:
            async with self.loaded() as (_, model):
                generation = ask(temperature=1.5, seed=7, max_tokens=30)
                texts = {(await answered(model, generation))[0] for _ in range(3)}
                assert len(texts) == 1

        asyncio.run(check())

    def test_two_generations_at_once_do_not_mix(self) -> None:
        async def check() -> None:
            async with self.loaded() as (subject, model):
                short = ask(max_tokens=3)
                (one, _), (two, _) = await asyncio.gather(answered(model, ask()), answered(model, short))
                assert one == subject.answer
                assert one.startswith(two)

        asyncio.run(check())

    def test_closing_the_generator_frees_the_slot_within_two_seconds(self) -> None:
        async def check() -> None:
            async with self.loaded() as (subject, model):
                pieces = each(model.generate(long_generation(subject)))
                await first_token(pieces)
                await pieces.aclose()

                async def idle() -> bool:
                    return await subject.busy_slots(model) == 0

                await until(idle, within_s=2.0, what="an idle engine")
                text, _ = await answered(model, ask())
                assert text == subject.answer

        asyncio.run(check())

    def test_unload_frees_and_may_be_called_twice(self) -> None:
        async def check() -> None:
            async with self.loaded() as (_, model):
                closed = asyncio.create_task(model.wait_closed())
                await model.unload()
                await model.unload()
                async with asyncio.timeout(5):
                    assert "unloaded" in (await closed).reason
                with pytest.raises(EngineFailed):
                    await answered(model, ask())

        asyncio.run(check())

    def test_when_the_process_dies_the_model_closes_and_refuses(self) -> None:
        async def check() -> None:
            async with self.loaded() as (subject, model):
                pieces = each(model.generate(long_generation(subject)))
                await anext(pieces)
                await subject.kill(model)
                with pytest.raises((EngineFailed, EngineUnavailable)):
                    async for _ in pieces:
                        pass
                async with asyncio.timeout(5):
                    assert (await model.wait_closed()).reason
                with pytest.raises((EngineFailed, EngineUnavailable)):
                    await answered(model, ask())

        asyncio.run(check())

    def test_a_model_that_is_not_there_is_refused(self) -> None:
        async def check() -> None:
            async with self.subject() as subject:
                stranger = replace(subject.model, name=ModelName("no-such-model"))
                with pytest.raises(LoadFailed, match="no-such-model"):
                    await subject.engine.load(stranger, subject.options, silent)

        asyncio.run(check())


async def first_token(pieces: AsyncGenerator[Piece, None]) -> Delta:
    while not isinstance(piece := await anext(pieces), Delta):
        assert isinstance(piece, Prefilled)
    return piece


def long_generation(subject: Subject) -> Generation:
    return Generation(prompt=subject.long_prompt, max_tokens=900, temperature=0.0, ignore_end=subject.ignores_end)
