"""The local servers behind the engine protocol, on real processes of the bundled engine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import msgspec
import psutil
import pytest

from chorus_client.engines.base import LoadedModel, LoadOptions
from chorus_client.engines.openai_http import HttpLimits, OpenAiHttp
from chorus_client.local_servers.config import load
from chorus_client.local_servers.engine import LocalServersEngine
from chorus_client.local_servers.kept_server import KeepLimits
from chorus_client.local_servers.loaded import DefaultModel, LocalModel
from chorus_client.local_servers.runtime import LocalServers, Owner, State, Stopped
from chorus_client.restarts import RestartRules
from chorus_proto.clock import SystemClock
from chorus_proto.errors import LoadFailed
from chorus_proto.generation import Delta, Generation
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile
from tests.client.engine_contract import EngineContract, Subject, answered, ask, first_token, silent, until
from tests.support.local_servers import answers, end_all, free_ports, server, servers_file, strangers_server
from tests.support.pieces import each

OPTIONS = LoadOptions(slots=2, context_tokens=1024)
KIND = EngineKind.REMOTE
DEFAULT = ModelName("local-default")
QUICK = KeepLimits(restarts=RestartRules(first_s=0.05))


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    yield tmp_path
    end_all(tmp_path)


def engine_of(path: Path, *, default_model: ModelName | None = None) -> LocalServersEngine:
    return LocalServersEngine(
        path,
        path.parent,
        SystemClock(),
        kind=KIND,
        default_model=default_model,
        look_every_s=0.05,
        limits=QUICK,
    )


def model_of(name: str) -> ModelFile:
    return ModelFile(name=ModelName(name), file_bytes=1, engine=KIND)


async def process_of(path: Path, name: str) -> psutil.Process:
    pid = (await LocalServers(load(path), path.parent).status(name)).pid
    assert pid is not None
    return psutil.Process(pid)


class TestContract(EngineContract):
    @contextlib.asynccontextmanager
    async def subject(self) -> AsyncGenerator[Subject, None]:
        (port,) = free_ports(1)
        path = await asyncio.to_thread(servers_file, self.folder, server("tiny", port))
        engine = engine_of(path)
        http = OpenAiHttp(f"http://127.0.0.1:{port}", api_key=None, keep_alive=False, limits=HttpLimits())

        async def busy_slots(_model: LoadedModel) -> int:
            _, body = await http.get("/slots")
            return sum(row["is_processing"] is True for row in msgspec.json.decode(body, type=list[dict[str, object]]))

        async def kill(_model: LoadedModel) -> None:
            # At once: while a status is measured, a short answer would come to its end.
            kept = engine.supervisor_of("tiny")
            assert kept is not None
            assert kept.pid is not None
            killed = psutil.Process(kept.pid)
            killed.send_signal(signal.SIGTERM if psutil.WINDOWS else signal.SIGKILL)

        try:
            yield Subject(
                engine=engine,
                model=(await engine.inventory())[0],
                answer="The capital of France is Paris.",
                stop="France",
                long_prompt="The",
                kill=kill,
                busy_slots=busy_slots,
            )
        finally:
            await http.aclose()
            await engine.aclose()

    @pytest.fixture(autouse=True)
    def _folder(self, folder: Path) -> None:
        self.folder = folder


def test_a_strangers_server_is_adopted_and_survives_the_unload(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("tiny", port, gguf_file="not-on-this-pc.gguf"))

    async def check() -> None:
        engine = engine_of(path)
        (file,) = await engine.inventory()
        assert file.file_bytes == 0
        model = await engine.load(file, OPTIONS, silent)
        text, _ = await answered(model, ask())
        assert text == "The capital of France is Paris."
        assert model.slots == 2
        assert model.context_tokens == 1024
        held = await model.resident()
        assert held is not None
        assert held.total_bytes > 1 << 20
        await model.unload()
        await engine.aclose()

    with strangers_server(port) as stranger:
        asyncio.run(check())
        assert stranger.poll() is None
        assert answers(port)


def test_a_server_of_the_command_line_is_adopted_and_survives_the_agent(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("tiny", port))

    async def check() -> None:
        servers = LocalServers(load(path), folder)
        pid = (await servers.start("tiny")).pid
        engine = engine_of(path)
        model = await engine.load(model_of("tiny"), OPTIONS, silent)
        assert (await answered(model, ask()))[0]
        await model.unload()
        await engine.aclose()
        now = await servers.status("tiny")
        assert (now.state, now.owner, now.pid) == (State.RUNNING, Owner.CHORUS, pid)

    asyncio.run(check())


def test_two_loads_at_once_give_one_server_that_lives_until_both_are_over(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("tiny", port))

    async def check() -> None:
        engine = engine_of(path)
        one, two = await asyncio.gather(*(engine.load(model_of("tiny"), OPTIONS, silent) for _ in range(2)))
        pid = (await process_of(path, "tiny")).pid
        await one.unload()
        assert (await answered(two, ask()))[0]
        assert psutil.pid_exists(pid)
        await two.unload()
        assert not psutil.pid_exists(pid)
        await engine.aclose()

    asyncio.run(check())


def test_a_crashed_server_with_auto_start_is_started_again_by_itself(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("tiny", port, auto_start=True))

    async def check() -> None:
        engine = engine_of(path)
        await engine.auto_start()
        model = await engine.load(model_of("tiny"), OPTIONS, silent)
        first = await process_of(path, "tiny")
        first.kill()
        async with asyncio.timeout(5):
            assert "ended with code" in (await model.wait_closed()).reason
        await model.unload()
        servers = LocalServers(load(path), folder)

        async def back() -> bool:
            return (await servers.status("tiny")).runs

        await until(back, within_s=20, what="the server after its crash")
        now = await servers.status("tiny")
        assert (now.restarts, now.owner) == (1, Owner.AGENT)
        assert now.pid != first.pid
        again = await engine.load(model_of("tiny"), OPTIONS, silent)
        assert (await answered(again, ask()))[0]
        await again.unload()
        await engine.aclose()
        assert not answers(port)

    asyncio.run(check())


def test_a_crashed_server_that_the_pool_loaded_can_be_loaded_again(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("tiny", port))

    async def check() -> None:
        engine = engine_of(path)
        model = await engine.load(model_of("tiny"), OPTIONS, silent)
        (await process_of(path, "tiny")).kill()
        await model.wait_closed()
        await model.unload()
        again = await engine.load(model_of("tiny"), OPTIONS, silent)
        assert (await answered(again, ask()))[0]
        await again.unload()
        await engine.aclose()

    asyncio.run(check())


def test_a_server_that_crashes_again_and_again_is_given_up(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("tiny", port, auto_start=True))

    async def check() -> None:
        engine = engine_of(path)
        await engine.auto_start()
        supervisor = engine.supervisor_of("tiny")
        assert supervisor is not None
        for _ in range(QUICK.restarts.loop_crashes):
            async with asyncio.timeout(20):
                await supervisor.until_ready()
                life = supervisor.life
                (await process_of(path, "tiny")).kill()
                await life
        async with asyncio.timeout(5):
            assert "given up after 5 crashes" in await supervisor.until_given_up()
        now = await LocalServers(load(path), folder).status("tiny")
        assert now.state is State.STOPPED
        assert "given up after 5 crashes" in now.detail
        await engine.aclose()

    asyncio.run(check())


def test_a_damaged_model_file_is_refused_before_a_start_and_left_out_of_the_inventory(folder: Path) -> None:
    (port,) = free_ports(1)
    (folder / "models").mkdir()
    (folder / "models" / "bad.gguf").write_bytes(b"GGUF\x03\x00\x00\x00 cut short")
    path = servers_file(folder, server("tiny", port, gguf_file="bad.gguf"))

    async def check() -> None:
        engine = engine_of(path)
        assert await engine.inventory() == []
        with pytest.raises(LoadFailed, match=r"bad\.gguf"):
            await engine.load(model_of("tiny"), OPTIONS, silent)
        assert not answers(port)
        await engine.aclose()

    asyncio.run(check())


def test_servers_with_auto_start_start_with_the_agent_and_end_with_it(folder: Path) -> None:
    ports = free_ports(2)
    path = servers_file(folder, server("tiny", ports[0], auto_start=True), server("other", ports[1]))

    async def check() -> None:
        engine = engine_of(path)
        await engine.auto_start()
        servers = LocalServers(load(path), folder)
        states = {one.name: one.state for one in await servers.statuses()}
        assert states == {"tiny": State.RUNNING, "other": State.STOPPED}
        assert await servers.stop("tiny") is Stopped.IN_AGENT
        model = await engine.load(model_of("tiny"), OPTIONS, silent)
        await model.unload()
        assert answers(ports[0]), "the owner of the file wants it to run"
        await engine.aclose()
        assert not answers(ports[0])

    asyncio.run(check())


def test_a_new_default_takes_new_requests_while_old_ones_end_where_they_began(folder: Path) -> None:
    ports = free_ports(2)
    path = servers_file(folder, server("one", ports[0]), server("two", ports[1]), default_local_server="one")

    async def check() -> None:
        engine = engine_of(path, default_model=DEFAULT)
        assert [file.name for file in await engine.inventory()] == ["one", "two", DEFAULT]
        model = await engine.load(model_of(DEFAULT), OPTIONS, silent)
        assert isinstance(model, DefaultModel)
        long = each(model.generate(Generation(prompt="The", max_tokens=600, temperature=1.0, ignore_end=True)))
        await first_token(long)
        done = asyncio.Event()
        answers_meanwhile: list[str] = []

        async def callers() -> None:
            while not done.is_set():
                answers_meanwhile.append((await answered(model, ask()))[0])

        calling = asyncio.create_task(callers())
        await asyncio.to_thread(load(path).update_default_server, "two")

        async def switched() -> bool:
            return model.name == "two"

        await until(switched, within_s=20, what="the new default")
        assert answers(ports[0]), "a request still runs there"
        tokens = 0
        async for piece in long:
            tokens += piece.tokens if isinstance(piece, Delta) else 0
        assert tokens > 200, "the request that began before the change came to its own end"
        assert (await answered(model, ask()))[0] == "The capital of France is Paris."
        done.set()
        await calling
        assert set(answers_meanwhile) == {"The capital of France is Paris."}

        async def old_is_gone() -> bool:
            return not answers(ports[0])

        await until(old_is_gone, within_s=20, what="the end of the old default server")
        await model.unload()
        assert not answers(ports[1])
        await engine.aclose()

    asyncio.run(check())


def test_a_new_default_that_cannot_be_loaded_leaves_the_old_one_in_place(folder: Path) -> None:
    ports = free_ports(2)
    path = servers_file(
        folder, server("one", ports[0]), server("two", ports[1], gguf_file="none.gguf"), default_local_server="one"
    )

    async def check() -> None:
        engine = engine_of(path, default_model=DEFAULT)
        model = await engine.load(model_of(DEFAULT), OPTIONS, silent)
        assert isinstance(model, DefaultModel)
        await asyncio.to_thread(load(path).update_default_server, "two")

        async def refused() -> bool:
            return model.refused == "two"

        await until(refused, within_s=10, what="the refusal")
        assert model.name == "one"
        assert (await answered(model, ask()))[0]
        await asyncio.to_thread(load(path).path.write_text, "not JSON")
        assert [server.name for server in engine.config().servers] == ["one", "two"]
        await model.unload()
        await engine.aclose()

    asyncio.run(check())


def test_the_key_of_the_file_guards_the_server_and_stands_in_no_command_line(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("tiny", port), api_key="sk-quite-secret")

    async def check() -> None:
        engine = engine_of(path)
        model = await engine.load(model_of("tiny"), OPTIONS, silent)
        assert isinstance(model, LocalModel)
        assert (await answered(model, ask()))[0]
        stranger = OpenAiHttp(f"http://127.0.0.1:{port}", api_key=None, keep_alive=False, limits=HttpLimits())
        assert (await stranger.get("/v1/models"))[0] in (200, 401)
        assert (await stranger.get("/slots"))[0] == 401
        await stranger.aclose()
        assert "sk-quite-secret" not in " ".join((await process_of(path, "tiny")).cmdline())
        await model.unload()
        await engine.aclose()

    asyncio.run(check())
