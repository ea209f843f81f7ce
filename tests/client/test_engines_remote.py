"""The remote engine, pointed at a bundled server that somebody else started."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from chorus_client.engines.base import LoadedModel, LoadOptions
from chorus_client.engines.openai_http import HttpLimits, OpenAiHttp
from chorus_client.engines.remote import RemoteEngine
from chorus_client.process import ChildProcess, own_python
from chorus_proto.errors import EngineUnavailable
from chorus_proto.values import EngineKind, ModelFile
from tests.client.engine_contract import EngineContract, Subject, answered, ask, silent, until
from tests.support.engines import TINY, TINY_PATH

KEY = "a-key-for-tests"


class TestContract(EngineContract):
    @contextlib.asynccontextmanager
    async def subject(self) -> AsyncGenerator[Subject, None]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        key_file = await asyncio.to_thread(_key_file, self.folder)
        flags = ["-m", str(TINY_PATH), "--alias", TINY, "--port", str(port), "--api-key-file", str(key_file)]
        flags += ["--parallel", "2", "--ctx-size", "2048", "--slots", "--threads", "1"]
        server = await ChildProcess.start(own_python("chorus_client.llama_cpp_server", *flags), python_child=True)
        engine = RemoteEngine(f"http://127.0.0.1:{port}/v1", api_key=KEY, probe_every_s=0.1)
        http = OpenAiHttp(f"http://127.0.0.1:{port}", api_key=KEY, keep_alive=False, limits=HttpLimits())

        async def up() -> bool:
            with contextlib.suppress(EngineUnavailable):
                return len(await engine.inventory()) == 1
            return False

        async def busy_slots(_model: LoadedModel) -> int:
            _, body = await http.get("/slots")
            return sum(row["is_processing"] is True for row in msgspec.json.decode(body, type=list[dict[str, object]]))

        async def kill(_model: LoadedModel) -> None:
            await server.stop(grace_s=0)

        try:
            await until(up, within_s=20, what="the remote server")
            yield Subject(
                engine=engine,
                model=ModelFile(name=TINY, file_bytes=0, engine=EngineKind.REMOTE),
                answer="The capital of France is Paris.",
                stop="France",
                long_prompt="The",
                kill=kill,
                busy_slots=busy_slots,
            )
        finally:
            await http.aclose()
            await engine.aclose()
            await server.stop()

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


def _key_file(folder: Path) -> Path:
    path = folder / "key"
    path.write_text(KEY)
    return path


@dataclass
class FakeServer:
    """An OpenAI-compatible server of a few lines, for what a real one does seldom."""

    answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
    asked: list[web.Request] = field(default_factory=list[web.Request])
    row: dict[str, object] = field(default_factory=lambda: {"id": "m", "meta": None})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[str, None]:
        async def models(_request: web.Request) -> web.Response:
            return web.json_response({"data": [self.row]})

        async def complete(request: web.Request) -> web.StreamResponse:
            self.asked.append(request)
            return await self.answer(request)

        app = web.Application()
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/chat/completions", complete)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


PLAIN = b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\ndata: {"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}\r\n\r\ndata: [DONE]\r\n\r\n'  # noqa: E501 - bytes as they go over the wire


def test_a_server_without_usage_is_counted_by_its_deltas() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=PLAIN, content_type="text/event-stream")

    async def check() -> None:
        async with FakeServer(answer).running() as url:
            engine = RemoteEngine(url)
            model = await engine.load((await engine.inventory())[0], LoadOptions(), silent)
            text, done = await answered(model, ask())
            assert (text, done.completion_tokens, done.finish_reason) == ("ab", 2, "stop")
            await engine.aclose()

    asyncio.run(check())


def test_a_kept_connection_that_the_server_dropped_is_tried_once_anew() -> None:
    server: FakeServer

    async def answer(request: web.Request) -> web.Response:
        if len(server.asked) == 2:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(body=PLAIN, content_type="text/event-stream")

    server = FakeServer(answer)

    async def check() -> None:
        async with server.running() as url:
            engine = RemoteEngine(url)
            model = await engine.load((await engine.inventory())[0], LoadOptions(), silent)
            assert (await answered(model, ask()))[0] == "ab"
            assert (await answered(model, ask()))[0] == "ab"
            assert len(server.asked) == 3
            await engine.aclose()

    asyncio.run(check())


def test_a_model_that_runs_elsewhere_costs_no_memory_here() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=PLAIN, content_type="text/event-stream")

    async def check() -> None:
        row: dict[str, object] = {"id": "m", "meta": {"size": 40 << 30, "n_ctx": 2048}}
        async with FakeServer(answer, row=row).running() as url:
            engine = RemoteEngine(url)
            (file,) = await engine.inventory()
            assert file.file_bytes == 0
            assert (await engine.load(file, LoadOptions(), silent)).context_tokens == 2048
            await engine.aclose()

    asyncio.run(check())


def test_a_server_that_is_not_there_is_unavailable() -> None:
    async def check() -> None:
        engine = RemoteEngine("http://127.0.0.1:1")
        with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:1"):
            await engine.inventory()
        await engine.aclose()

    asyncio.run(check())
