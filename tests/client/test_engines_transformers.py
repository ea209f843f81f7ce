"""The transformers engine on the real model server and a real SafeTensors model, with one thread."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.engines.transformers import TransformersEngine, missing
from chorus_client.hf_folders import HfFolders
from chorus_proto.errors import ContextLengthExceeded, LoadFailed
from chorus_proto.generation import Delta, Generation
from chorus_proto.values import EngineKind
from tests.client.engine_contract import EngineContract, Subject, answered, ask, silent
from tests.support.engines import busy_slots_of, kill_served
from tests.support.pieces import each

FOLDER = Path(__file__).resolve().parents[1] / "data" / "demo-tiny-hf"
OPTIONS = LoadOptions(slots=2, context_tokens=1024)

pytestmark = pytest.mark.skipif(bool(missing()), reason="needs the extra transformers")


async def folders_in(root: Path, state_dir: Path) -> HfFolders:
    found = HfFolders([root], state_dir)
    await found.refresh()
    return found


class TestContract(EngineContract):
    @pytest.fixture(autouse=True)
    def _state(self, tmp_path: Path) -> None:
        self.state_dir = tmp_path

    @contextlib.asynccontextmanager
    async def subject(self) -> AsyncGenerator[Subject, None]:
        files = await folders_in(FOLDER, self.state_dir)
        yield Subject(
            engine=TransformersEngine(files, threads=1),
            model=files.files()[0],
            answer="The capital of France is Paris.",
            stop="France",
            long_prompt="The",
            kill=kill_served,
            busy_slots=busy_slots_of,
        )


def test_one_load_tells_memory_refuses_long_prompts_and_hides_its_key(tmp_path: Path) -> None:
    """One process for several facts: each load imports torch anew."""

    async def check() -> None:
        files = await folders_in(FOLDER, tmp_path)
        engine = TransformersEngine(files, threads=1)
        assert engine.kind is EngineKind.TRANSFORMERS
        model = await engine.load(files.files()[0], OPTIONS, silent)
        try:
            resident = await model.resident()
            assert resident is not None
            assert resident.total_bytes > 20 << 20
            with pytest.raises(ContextLengthExceeded, match=r"\d{4} tokens.* 1024 tokens"):
                await answered(model, Generation(prompt="word " * 3000))
            pieces = [piece async for piece in each(model.generate(ask(logprobs=2, max_tokens=2)))]
            assert any(b'"top_logprobs"' in (piece.logprobs or b"") for piece in pieces if isinstance(piece, Delta))
            text, done = await answered(model, ask(response_format='{"type": "json_object"}', max_tokens=60))
            assert text.lstrip().startswith("{")
            assert done.decode_tokens_per_s
            argv = psutil.Process(model.pid).cmdline()
            assert "--api-key" not in argv
            assert not await asyncio.to_thread(Path(argv[argv.index("--api-key-file") + 1]).exists)
            family = psutil.Process(model.pid).children(recursive=True)
            assert family, "the model computes in a process of its own"
        finally:
            await model.unload()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=5)
        assert gone
        assert not alive

    asyncio.run(check())


def test_a_folder_that_lost_its_tokenizer_is_a_load_failure_that_says_so(tmp_path: Path) -> None:
    async def check() -> None:
        folder = tmp_path / "models" / "broken"
        await asyncio.to_thread(shutil.copytree, FOLDER, folder)
        files = await folders_in(tmp_path / "models", tmp_path)
        (folder / "tokenizer.json").unlink()
        with pytest.raises(LoadFailed, match=r"tokenizer\.json is missing"):
            await TransformersEngine(files, threads=1).load(files.files()[0], OPTIONS, silent)

    asyncio.run(check())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a killed process's exit code says so there only")
def test_the_death_of_the_computing_process_ends_the_model(tmp_path: Path) -> None:
    async def check() -> None:
        files = await folders_in(FOLDER, tmp_path)
        model = await TransformersEngine(files, threads=1).load(files.files()[0], OPTIONS, silent)
        try:
            for child in psutil.Process(model.pid).children(recursive=True):
                child.kill()
            async with asyncio.timeout(5):
                ending = await model.wait_closed()
            assert ending.for_memory, "Linux kills what takes too much memory, and nothing else tells"
        finally:
            await model.unload()

    asyncio.run(check())
