"""The llama_server engine on the bundled command and a real model, with one thread."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.engines.llama_server import LlamaServerEngine, default_threads
from chorus_client.engines.served_process import ServedModel
from chorus_client.model_options import ModelOptions
from chorus_proto.errors import ContextLengthExceeded, InvalidRequest, LoadFailed, ModelDamaged
from chorus_proto.generation import Done, Generation, Prefilled
from chorus_proto.settings import SettingsError
from tests.client.engine_contract import EngineContract, Subject, answered, ask, first_token, silent
from tests.support.engines import TINY, OneFile, busy_slots_of, kill_served
from tests.support.gguf_writer import llama
from tests.support.pieces import each

OPTIONS = LoadOptions(slots=2, context_tokens=1024)


class TestContract(EngineContract):
    @contextlib.asynccontextmanager
    async def subject(self) -> AsyncGenerator[Subject, None]:
        files = OneFile()
        yield Subject(
            engine=LlamaServerEngine(files, threads=1),
            model=files.files()[0],
            answer="The capital of France is Paris.",
            stop="France",
            long_prompt="The",
            kill=kill_served,
            busy_slots=busy_slots_of,
        )


@contextlib.asynccontextmanager
async def tiny(engine: LlamaServerEngine | None = None) -> AsyncGenerator[ServedModel, None]:
    engine = engine or LlamaServerEngine(OneFile(), threads=1)
    model = await engine.load(OneFile().files()[0], OPTIONS, silent)
    try:
        yield model
    finally:
        await model.unload()


def test_a_prompt_over_the_context_is_refused_with_both_numbers() -> None:
    async def check() -> None:
        async with tiny() as model:
            with pytest.raises(ContextLengthExceeded, match=r"\d{4} tokens.* 1024 tokens"):
                await answered(model, Generation(prompt="word " * 3000))
            assert (await answered(model, ask()))[0] == "The capital of France is Paris."

    asyncio.run(check())


def test_a_field_that_the_engine_refuses_is_named() -> None:
    async def check() -> None:
        async with tiny() as model:
            with pytest.raises(InvalidRequest) as caught:
                await answered(model, ask(max_tokens=-5))
            assert caught.value.param == "max_tokens"

    asyncio.run(check())


def test_log_probabilities_come_with_their_tokens() -> None:
    async def check() -> None:
        async with tiny() as model:
            first = await first_token(each(model.generate(ask(logprobs=2, max_tokens=2))))
            assert b'"top_logprobs"' in (first.logprobs or b"")

    asyncio.run(check())


def test_progress_with_the_prompt_is_told_before_the_first_token() -> None:
    async def check() -> None:
        async with tiny() as model:
            for generation in (ask("word " * 700, max_tokens=3), Generation(prompt="word " * 700, max_tokens=3)):
                pieces = [piece async for piece in each(model.generate(generation))]
                done = pieces[-1]
                assert isinstance(done, Done)
                told = [piece for piece in pieces if isinstance(piece, Prefilled)]
                assert pieces[: len(told)] == told
                assert told[-1] == Prefilled(done.prompt_tokens, done.prompt_tokens)

    asyncio.run(check())


def test_a_response_format_shapes_the_answer() -> None:
    async def check() -> None:
        async with tiny() as model:
            text, _ = await answered(model, ask(response_format='{"type": "json_object"}', max_tokens=60))
            assert text.lstrip().startswith("{")

    asyncio.run(check())


def test_the_load_reports_that_it_is_ready_and_the_memory_is_measured() -> None:
    async def check() -> None:
        heard: list[float | None] = []
        model = await LlamaServerEngine(OneFile(), threads=1).load(
            OneFile().files()[0], OPTIONS, lambda progress: heard.append(progress.share)
        )
        try:
            assert heard[-1] == 1.0
            resident = await model.resident()
            assert resident is not None
            assert 5 << 20 < resident.total_bytes < 1 << 30
            assert 0 < resident.mapped_bytes < resident.total_bytes or sys.platform != "linux"
        finally:
            await model.unload()
        assert await model.resident() is None

    asyncio.run(check())


def test_the_api_key_stands_in_no_command_line_and_its_file_is_gone() -> None:
    async def check() -> None:
        async with tiny() as model:
            argv = psutil.Process(model.pid).cmdline()
            key_file = Path(argv[argv.index("--api-key-file") + 1])
            assert not await asyncio.to_thread(key_file.exists)
            assert "--api-key" not in argv

    asyncio.run(check())


def test_a_folder_that_cannot_be_removed_does_not_cost_the_engine_that_came_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def held_open(path: str, **_: object) -> None:
        raise OSError(errno.EBUSY, "a virus scanner reads here", path)

    async def check() -> None:
        before = set(psutil.Process().children())
        try:
            async with tiny() as model:
                assert (await answered(model, ask()))[0] == "The capital of France is Paris."
        finally:
            for left in set(psutil.Process().children()) - before:
                left.kill()

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", held_open)
        asyncio.run(check())
    assert list(tmp_path.iterdir()), "or nothing was in the way here"


def test_a_file_that_llama_cpp_cannot_load_is_a_failure_with_the_engines_last_words(tmp_path: Path) -> None:
    unknown = tmp_path / "unknown.gguf"
    unknown.write_bytes(llama({"general.architecture": "unheard-of"}).encoded())
    files = OneFile(unknown)

    async def check() -> None:
        with pytest.raises(LoadFailed, match="last words"):
            await LlamaServerEngine(files, threads=1).load(files.files()[0], OPTIONS, silent)

    asyncio.run(check())


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for the external binary")
def test_an_external_binary_is_driven_with_the_same_flags(tmp_path: Path) -> None:
    """The external path is the bundled server here, started through a script as a foreign program would be."""
    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m chorus_client.llama_cpp_server "$@"\n')
    program.chmod(0o755)

    async def check() -> None:
        async with tiny(LlamaServerEngine(OneFile(), llama_server_path=program, threads=1)) as model:
            assert (await answered(model, ask()))[0] == "The capital of France is Paris."

    asyncio.run(check())


def test_an_external_binary_that_cannot_run_is_a_load_failure(tmp_path: Path) -> None:
    async def check() -> None:
        engine = LlamaServerEngine(OneFile(), llama_server_path=tmp_path / "nothing", threads=1)
        with pytest.raises(LoadFailed, match="nothing"):
            await engine.load(OneFile().files()[0], OPTIONS, silent)

    asyncio.run(check())


def test_the_default_leaves_a_core_free() -> None:
    cores = psutil.cpu_count() or 1
    assert 1 <= default_threads() <= max(1, cores - 1)


def test_a_cut_file_is_refused_before_any_process_starts(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(llama().encoded()[:-100])
    program = tmp_path / "never-started"
    files = OneFile(cut)

    async def check() -> None:
        engine = LlamaServerEngine(files, llama_server_path=program, threads=1)
        with pytest.raises(ModelDamaged, match="cut short"):
            await engine.load(files.files()[0], OPTIONS, silent)

    asyncio.run(check())


def test_the_parameters_of_a_model_stand_in_its_command_line_and_work() -> None:
    params = {"cache-type-k": "q8_0", "cache-type-v": "q8_0", "ubatch-size": 64, "temp": 0.0, "threads": 1}
    engine = LlamaServerEngine(OneFile(), threads=2, model_options={TINY: ModelOptions(params=params)})

    async def check() -> None:
        async with tiny(engine) as model:
            argv = psutil.Process(model.pid).cmdline()
            for name, value in params.items():
                assert argv.count(f"--{name}") == 1
                assert argv[argv.index(f"--{name}") + 1] == str(value)
            assert argv[argv.index("--threads-batch") + 1] == "1"
            assert (await answered(model, ask()))[0] == "The capital of France is Paris."

    asyncio.run(check())


@pytest.mark.parametrize(
    ("gpu_layers", "params", "said"),
    [
        (None, {"numa": "isolate"}, "params of 'demo-tiny'.numa: the bundled engine does not take it"),
        (0, {"n-gpu-layers": 20}, "gpu_layers = 0 keeps every model off the GPU"),
    ],
)
def test_parameters_that_cannot_work_here_are_refused_at_the_start(
    gpu_layers: int | None, params: dict[str, str | int], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        LlamaServerEngine(OneFile(), gpu_layers=gpu_layers, model_options={TINY: ModelOptions(params=params)})
