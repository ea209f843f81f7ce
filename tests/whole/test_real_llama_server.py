"""llama.cpp's own `llama-server`, in every place where one may stand in for the bundled engine. Opt-in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import psutil
import pytest

from chorus_client.engine_parameters import ALLOWED
from chorus_client.engines.base import LoadOptions
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.engines.served_process import ServedModel
from chorus_proto.errors import ContextLengthExceeded, InvalidRequest
from chorus_proto.generation import Delta, Done, Generation, Prefilled
from tests.client.engine_contract import EngineContract, Subject, answered, ask, silent
from tests.support.engines import TINY_PATH, OneFile, busy_slots_of, kill_served
from tests.support.local_servers import end_all, free_ports, server, servers_file
from tests.support.pieces import each
from tests.support.real_llama_server import marks, program
from tests.whole.support import Chorus, Running, alive, chat, cluster, eventually, run_chorus

pytestmark = marks()

PARIS = "The capital of France is Paris."
KNOWN_ANSWERS = Path(__file__).parents[1] / "data" / "known_answers.json"
WEAK = Path(__file__).parents[2] / "docs" / "hardware" / "weak.toml"
DEMO_MODELS = sorted(TINY_PATH.parent.glob("demo-*.gguf"))
SLOTS = 4
REPLACED = {"mlock", "no-mmap"}
"""Flags of older versions, in whose place llama.cpp has `--load-mode` now; the new ones refuse them by name."""


@pytest.fixture(scope="module")
def real() -> Path:
    return program()


@contextlib.asynccontextmanager
async def loaded(real: Path, model: Path, options: LoadOptions) -> AsyncGenerator[ServedModel, None]:
    files = OneFile(model)
    served = await LlamaServerEngine(files, llama_server_path=real, threads=1).load(files.files()[0], options, silent)
    try:
        assert runs_the_real_one(psutil.Process(served.pid), real)
        yield served
    finally:
        await served.unload()


def runs_the_real_one(process: psutil.Process, real: Path) -> bool:
    """Also when a script at `real` becomes the program, or stands before it."""
    with contextlib.suppress(psutil.Error):
        return str(real) in process.cmdline()
    return False


class TestContract(EngineContract):
    @pytest.fixture(autouse=True)
    def _real(self, real: Path) -> None:
        self.real = real

    @contextlib.asynccontextmanager
    async def subject(self) -> AsyncGenerator[Subject, None]:
        files = OneFile()
        yield Subject(
            engine=LlamaServerEngine(files, llama_server_path=self.real, threads=1),
            model=files.files()[0],
            answer=PARIS,
            stop="France",
            long_prompt="The",
            kill=kill_served,
            busy_slots=busy_slots_of,
        )


@pytest.mark.parametrize("path", DEMO_MODELS, ids=lambda path: path.stem)
def test_it_gives_every_known_answer(real: Path, path: Path) -> None:
    questions: list[dict[str, str]] = json.loads(KNOWN_ANSWERS.read_text("utf-8"))

    async def check() -> dict[str, str]:
        free = asyncio.Semaphore(SLOTS)
        async with loaded(real, path, LoadOptions(slots=SLOTS, context_tokens=512)) as model:

            async def one(question: str) -> str:
                async with free:
                    return (await answered(model, ask(question, max_tokens=120)))[0]

            said = await asyncio.gather(*(one(row["question"]) for row in questions))
        return {row["question"]: text for row, text in zip(questions, said, strict=True) if text != row["answer"]}

    assert asyncio.run(check()) == {}


def test_its_refusals_are_typed_and_name_the_field(real: Path) -> None:
    async def check() -> None:
        async with loaded(real, TINY_PATH, LoadOptions(slots=2, context_tokens=1024)) as model:
            with pytest.raises(ContextLengthExceeded, match=r"\d{4} tokens.* 1024 tokens"):
                await answered(model, Generation(prompt="word " * 3000))
            with pytest.raises(InvalidRequest) as caught:
                await answered(model, ask(max_tokens=-5))
            assert caught.value.param == "max_tokens"
            assert (await answered(model, ask()))[0] == PARIS

    asyncio.run(check())


def test_log_probabilities_and_response_formats_work(real: Path) -> None:
    async def check() -> None:
        async with loaded(real, TINY_PATH, LoadOptions(slots=2, context_tokens=1024)) as model:
            pieces = [piece async for piece in each(model.generate(ask(logprobs=2, max_tokens=2)))]
            first = next(piece for piece in pieces if isinstance(piece, Delta))
            assert b'"top_logprobs"' in (first.logprobs or b"")
            text, _ = await answered(model, ask(response_format='{"type": "json_object"}', max_tokens=60))
            assert text.lstrip().startswith("{")

    asyncio.run(check())


def test_it_tells_how_far_a_prompt_is_before_the_first_token(real: Path) -> None:
    async def check() -> None:
        async with loaded(real, TINY_PATH, LoadOptions(slots=1, context_tokens=1024)) as model:
            pieces = [piece async for piece in each(model.generate(Generation(prompt="cat " * 900, max_tokens=2)))]
            told = [piece for piece in pieces if isinstance(piece, Prefilled)]
            done = pieces[-1]
            assert isinstance(done, Done)
            assert pieces[: len(told)] == told
            assert told[-1] == Prefilled(done.prompt_tokens, done.prompt_tokens)
            assert done.decode_tokens_per_s

    asyncio.run(check())


def test_every_parameter_of_a_servers_file_is_a_flag_of_it(real: Path) -> None:
    done = subprocess.run([real, "--help"], capture_output=True, encoding="utf-8", timeout=30, check=True)
    known = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", done.stdout))
    passed = set(ALLOWED) | {parameter.off for parameter in ALLOWED.values() if parameter.off}
    assert passed - known <= REPLACED


@pytest.fixture
def servers(tmp_path: Path, real: Path) -> Generator[Path]:
    """A servers file with one server on the real binary, with a parameter that the bundled engine lacks."""
    (port,) = free_ports(1)
    params = {"ctx-size": 2048, "parallel": 2, "threads": 1, "top-k": 40, "cont-batching": True}
    yield servers_file(tmp_path, server("kitchen", port, llama_server_path=str(real), server_params=params))
    end_all(tmp_path)


def test_chorus_server_starts_lists_and_stops_it(servers: Path, real: Path) -> None:
    options = ("server", f"--config={servers}", f"--state-dir={servers.parent}")

    def rows() -> list[dict[str, object]]:
        listed = run_chorus(*options, "list", "--json")
        assert listed.code == 0, listed.err
        found: list[dict[str, object]] = json.loads(listed.out)
        return found

    started = run_chorus(*options, "start", "kitchen")
    assert started.code == 0, started.err
    (row,) = rows()
    assert (row["state"], row["owner"]) == ("Running", "chorus")
    assert isinstance(row["pid"], int)
    process = psutil.Process(row["pid"])
    assert runs_the_real_one(process, real)
    status = run_chorus(*options, "status", "kitchen")
    assert "MiB" in status.out, status
    stopped = run_chorus(*options, "stop", "kitchen")
    assert (stopped.code, stopped.out) == (0, "kitchen is stopped\n"), stopped.err
    assert not alive(process)
    assert [row["state"] for row in rows()] == ["Stopped"]


def hub_and_agent(chorus: Chorus, real: Path) -> tuple[str, Running]:
    """A hub without an agent of its own, and one agent on the real binary, ready; the hub's URL."""
    told = chorus.up("--no-agent").ready()
    agent = chorus.agent("attic", str(told["join"]), f"--llama-server-path={real}", f"--hardware={WEAK}")
    agent.ready()
    return str(told["http_url"]), agent


def test_an_agent_on_it_serves_a_chat_and_takes_it_along_when_killed(tmp_path: Path, real: Path) -> None:
    with cluster(tmp_path) as chorus:
        url, agent = hub_and_agent(chorus, real)
        assert chat(url, "demo-tiny", "What is the capital of France?") == PARIS
        engines = [one for one in agent.family() if runs_the_real_one(one, real)]
        assert engines
        agent.kill()
        eventually(lambda: not any(alive(one) for one in engines), within_s=5, what="no llama-server is left")
