"""The scripted engine: the contract, its text, and each fault seen through the agent's eyes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Mapping

import psutil
import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.engines.openai_http import HttpLimits
from chorus_client.engines.scripted import SCRIPTED_MODEL, ScriptedEngine
from chorus_client.engines.served_process import ServedModel, ServeLimits
from chorus_client.scripted_text import scripted_text
from chorus_proto.errors import ContextLengthExceeded, EngineFailed, InsufficientMemory, InvalidRequest, LoadFailed
from chorus_proto.generation import Delta, Prefilled
from chorus_proto.values import EngineKind, ModelFile
from tests.client.engine_contract import QUESTION, EngineContract, Subject, answered, ask, first_token, silent
from tests.support.engines import busy_slots_of, kill_served
from tests.support.pieces import each

MODEL = ModelFile(name=SCRIPTED_MODEL, file_bytes=0, engine=EngineKind.SCRIPTED)
QUICK = ServeLimits(stop_grace_s=0.3, http=HttpLimits(first_token_s=5.0, next_token_s=0.3))


class TestContract(EngineContract):
    @contextlib.asynccontextmanager
    async def subject(self) -> AsyncGenerator[Subject, None]:
        text = scripted_text(QUESTION, 32)
        yield Subject(
            engine=ScriptedEngine(),
            model=MODEL,
            answer=text,
            stop=text.split()[10],
            long_prompt="go on [[fault tps=100]]",
            kill=kill_served,
            busy_slots=busy_slots_of,
        )


@contextlib.asynccontextmanager
async def scripted(
    *, engine: ScriptedEngine | None = None, limits: ServeLimits = QUICK, faults: Mapping[str, str] | None = None
) -> AsyncGenerator[ServedModel, None]:
    engine = engine or ScriptedEngine(faults=faults, limits=limits)
    model = await engine.load(MODEL, LoadOptions(slots=2), silent)
    try:
        yield model
    finally:
        await model.unload()


def seen(question: str, **faults: str) -> str:
    """What comes of one question before the answer fails; the failure's words stand behind a bar."""

    async def check() -> str:
        async with scripted(faults=faults) as model:
            text: list[str] = []
            try:
                async for piece in each(model.generate(ask(question))):
                    if isinstance(piece, Delta):
                        text.append(piece.text)
            except EngineFailed as error:
                return "".join(text) + "|" + error.message
            return "".join(text)

    return asyncio.run(check())


def test_the_text_is_a_known_function_of_the_prompt() -> None:
    assert scripted_text("a", 200) == scripted_text("a", 200)
    assert scripted_text("a", 200).startswith(scripted_text("a", 64))
    assert scripted_text("a", 10) != scripted_text("b", 10)


@pytest.mark.parametrize(("fault", "tokens", "words"), [("crash_after=5 exit_code=3", 5, "code 3"),
                                                        ("crash_after=0", 0, "code 1"),
                                                        ("hang_after=4", 4, "no token"),
                                                        ("oom_at=6", 6, "bad_alloc"),
                                                        ("no_done", 32, "without"),
                                                        ("huge_line=3000000", 0, "more than"),
                                                        ("redirect", 0, "redirect"),
                                                        ("wrong_model", 0, "another-model")])  # fmt: skip
def test_a_fault_in_the_prompt_is_a_failure_after_exactly_its_tokens(fault: str, tokens: int, words: str) -> None:
    question = f"say [[fault {fault}]]"
    text, _, error = seen(question).partition("|")
    assert text == scripted_text(question, tokens)
    assert words in error


@pytest.mark.parametrize("fault", ["split_utf8", "dup_done", "log_flood=20", "leak_mb=1", "ttft=0.05", "prefill_tps=50",
                                   "tps=400 jitter=0.9"])  # fmt: skip
def test_a_fault_that_harms_nothing_leaves_the_text_whole(fault: str) -> None:
    question = f"say [[fault {fault}]]"
    assert seen(question) == scripted_text(question, 32)


def test_a_byte_that_is_no_utf8_becomes_a_replacement_character() -> None:
    question = "say [[fault bad_utf8=2]]"
    expected = [scripted_text(question, 2), scripted_text(question, 32).removeprefix(scripted_text(question, 2))]
    assert seen(question) == "\ufffd".join(expected)


def test_faults_of_the_process_hold_for_every_request() -> None:
    assert "code 4" in seen("anything", crash_after="2", exit_code="4")


def test_running_out_of_memory_while_generating_ends_the_model_for_memory() -> None:
    async def check() -> None:
        async with scripted() as model:
            with pytest.raises(EngineFailed, match="bad_alloc"):
                await answered(model, ask("now [[fault oom_at=3]]"))
            ending = await model.wait_closed()
            assert ending.for_memory
            assert "code 137" in ending.reason

    asyncio.run(check())


def test_a_crash_while_generating_has_nothing_to_do_with_memory() -> None:
    async def check() -> None:
        async with scripted() as model:
            with pytest.raises(EngineFailed):
                await answered(model, ask("now [[fault crash_after=3]]"))
            assert not (await model.wait_closed()).for_memory

    asyncio.run(check())


def test_progress_with_the_prompt_is_told_in_batches_and_the_backstop_knows_it() -> None:
    """The limit between tokens does not hold before the first one."""

    async def check() -> None:
        limits = ServeLimits(stop_grace_s=0.3, http=HttpLimits(first_token_s=5.0, next_token_s=0.1))
        async with scripted(limits=limits, faults={"prefill_tps": "20", "prefill_batch": "4"}) as model:
            pieces = [piece async for piece in each(model.generate(ask("one two three four five six")))]
            assert pieces[:3] == [Prefilled(0, 6), Prefilled(4, 6), Prefilled(6, 6)]
            assert isinstance(pieces[3], Delta)

    asyncio.run(check())


def test_a_process_that_hangs_says_on_its_health_page_that_all_is_well() -> None:
    async def check() -> None:
        async with scripted() as model:
            with pytest.raises(EngineFailed, match="no token"):
                await answered(model, ask("stop [[fault hang_after=1]]"))
            assert (await answered(model, ask("go on")))[1].finish_reason == "stop"

    asyncio.run(check())


def test_a_caller_who_leaves_keeps_his_slot_when_the_process_ignores_it() -> None:
    async def check() -> None:
        async with scripted() as model:
            for expected in (1, 2):
                pieces = each(model.generate(ask("wait [[fault ignore_cancel tps=5]]")))
                await first_token(pieces)
                await pieces.aclose()
                await asyncio.sleep(0.3)
                assert await model.busy_slots() == expected

    asyncio.run(check())


def test_running_out_of_memory_while_loading_says_so() -> None:
    async def check() -> None:
        with pytest.raises(InsufficientMemory, match="bad_alloc"):
            async with scripted(faults={"oom_at": "0"}):
                pass

    asyncio.run(check())


def test_a_process_that_ends_at_the_start_is_a_load_failure() -> None:
    async def check() -> None:
        with pytest.raises(LoadFailed, match="scripted crash at the start"):
            async with scripted(faults={"crash_after": "0"}):
                pass

    asyncio.run(check())


def test_a_load_that_stands_still_is_given_up() -> None:
    async def check() -> None:
        limits = ServeLimits(stall_s=0.5, stop_grace_s=0.3)
        with pytest.raises(LoadFailed, match="stood still"):
            async with scripted(limits=limits, faults={"load_stall": "true"}):
                pass

    asyncio.run(check())


def test_a_process_that_lies_about_its_health_is_found_out() -> None:
    async def check() -> None:
        with pytest.raises(LoadFailed, match="serves nothing"):
            async with scripted(faults={"load_stall": "true", "health": "lie"}):
                pass

    asyncio.run(check())


def test_a_process_that_ignores_sigterm_is_killed_with_its_children() -> None:
    async def check() -> None:
        async with scripted(faults={"ignore_sigterm": "true", "fork_child": "true"}) as model:
            family = [psutil.Process(model.pid), *psutil.Process(model.pid).children()]
            assert len(family) == 2
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, 5)
        assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []

    asyncio.run(check())


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX; Windows has the job object")
def test_the_children_of_a_process_that_crashed_die_too() -> None:
    async def check() -> None:
        async with scripted(faults={"fork_child": "true"}) as model:
            children = psutil.Process(model.pid).children()
            with pytest.raises(EngineFailed):
                await answered(model, ask("now [[fault crash_after=1]]"))
            _, alive = await asyncio.to_thread(psutil.wait_procs, children, 5)
            assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []

    asyncio.run(check())


def test_a_prompt_over_the_context_is_refused_with_both_numbers() -> None:
    async def check() -> None:
        async with scripted() as model:
            with pytest.raises(ContextLengthExceeded, match=r"5000 tokens.* 4096 tokens"):
                await answered(model, ask("word " * 5000))
            with pytest.raises(InvalidRequest, match="no such fault"):
                await answered(model, ask("[[fault nonsense=1]]"))

    asyncio.run(check())


def test_a_long_answer_at_full_speed_arrives_whole() -> None:
    async def check() -> None:
        async with scripted(engine=ScriptedEngine(context_tokens=100_000)) as model:
            text, done = await answered(model, ask("fast", max_tokens=20_000, ignore_end=True))
            assert done.completion_tokens == 20_000
            assert text == scripted_text("fast", 20_000)

    asyncio.run(check())


def test_a_lasting_fault_holds_for_later_requests_and_the_speed_is_told() -> None:
    async def check() -> None:
        async with scripted() as model:
            speeds: list[float | None] = []
            for question in ("hello", "[[faults tps=40]]", "hello", "hello [[fault tps=0]]"):
                _, done = await answered(model, ask(question))
                speeds.append(done.decode_tokens_per_s)
        fast, slowed, slow, quick = speeds
        assert fast and slowed and slow and quick
        assert slowed < 60 and slow < 60
        assert fast > 200 and quick > 200, "the marker of one request goes before"

    asyncio.run(check())
