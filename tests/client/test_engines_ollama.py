"""The ollama engine: the real client library against a stand-in for Ollama's server with a real llama.cpp behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from aiohttp import web

from chorus_client.engines.base import LoadedModel, LoadOptions
from chorus_client.engines.ollama import OllamaEngine, OllamaModel
from chorus_client.engines.ollama_limits import OllamaLimits
from chorus_proto.errors import EngineFailed, EngineUnavailable, UnsupportedParameter
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile
from tests.client.engine_contract import EngineContract, Subject, answered, ask, silent
from tests.support.engines import TINY_PATH
from tests.support.ollama_stand_in import OllamaStandIn

NAME = ModelName("demo-tiny:latest")
MODEL = ModelFile(name=NAME, file_bytes=TINY_PATH.stat().st_size, engine=EngineKind.OLLAMA)
OPTIONS = LoadOptions(slots=2, context_tokens=1024)
LIMITS = OllamaLimits(probe_every_s=0.1)


class TestContract(EngineContract):
    @contextlib.asynccontextmanager
    async def subject(self) -> AsyncGenerator[Subject, None]:
        async with OllamaStandIn({NAME: TINY_PATH}) as server:

            async def kill(_model: LoadedModel) -> None:
                await server.end()

            async def busy_slots(_model: LoadedModel) -> int:
                return await server.busy_slots()

            engine = OllamaEngine(server.url, limits=LIMITS)
            try:
                yield Subject(
                    engine=engine,
                    model=MODEL,
                    answer="The capital of France is Paris.",
                    stop="France",
                    long_prompt="a b c d e",  # greedily answered without an end, which Ollama cannot ignore
                    kill=kill,
                    busy_slots=busy_slots,
                    ignores_end=False,
                    tells_stop=False,
                    options=OPTIONS,
                )
            finally:
                await engine.aclose()


@contextlib.asynccontextmanager
async def tiny() -> AsyncGenerator[tuple[OllamaStandIn, OllamaEngine, OllamaModel], None]:
    async with OllamaStandIn({NAME: TINY_PATH}) as server:
        engine = OllamaEngine(server.url, limits=LIMITS)
        try:
            yield server, engine, await engine.load(MODEL, OPTIONS, silent)
        finally:
            await engine.aclose()


def test_a_loaded_model_is_loaded_once_and_its_memory_is_told() -> None:
    async def check() -> None:
        async with tiny() as (server, _, model):
            held = await model.resident()
            assert held is not None
            assert held.total_bytes > 5 << 20
            await answered(model, ask())
            await answered(model, Generation(prompt="The", max_tokens=2))
            assert server.loads == 1
            await model.unload()
            assert server.loaded == {}

    asyncio.run(check())


def test_fields_that_ollama_cannot_do_are_named() -> None:
    async def check() -> None:
        async with tiny() as (_, _, model):
            tools = {"tools": '[{"type":"function","function":{"name":"f"}}]'}
            for field, generation in (
                ("logit_bias", ask(logit_bias={"5": 1.0})),
                ("ignore_end", ask(ignore_end=True)),
                ("tool_choice", ask(tool_choice='"required"', **tools)),
                ("parallel_tool_calls", ask(parallel_tool_calls=False, **tools)),
            ):
                with pytest.raises(UnsupportedParameter) as caught:
                    await answered(model, generation)
                assert caught.value.param == field

    asyncio.run(check())


def test_a_pull_tells_its_progress_in_bytes() -> None:
    async def check() -> None:
        async with tiny() as (_, engine, _):
            steps = [step async for step in engine.pull(NAME)]
            assert steps[-1].status == "success"
            assert steps[-2].completed_bytes == steps[-2].total_bytes == MODEL.file_bytes
            with pytest.raises(EngineFailed, match="does not exist"):
                async for _ in engine.pull(ModelName("nothing")):
                    pass

    asyncio.run(check())


def test_an_ollama_that_is_not_there_is_unavailable() -> None:
    async def check() -> None:
        engine = OllamaEngine("http://127.0.0.1:1")
        with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:1"):
            await engine.inventory()
        await engine.aclose()

    asyncio.run(check())


async def _tags(_request: web.Request) -> web.Response:
    return web.json_response({"models": [{"model": NAME, "size": 1}]})


async def _loaded(_request: web.Request) -> web.Response:
    return web.json_response({"model": NAME, "response": "", "done": True})


async def _one_word_and_then_nothing(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    await response.write(b'{"model": "m", "message": {"role": "assistant", "content": "a"}, "done": false}\n')
    await asyncio.Event().wait()
    return response


def test_an_ollama_that_falls_silent_is_given_up_sooner_after_its_first_token() -> None:
    async def check() -> None:
        app = web.Application()
        app.router.add_get("/api/tags", _tags)
        app.router.add_post("/api/generate", _loaded)
        app.router.add_post("/api/chat", _one_word_and_then_nothing)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        engine = OllamaEngine(f"http://127.0.0.1:{runner.addresses[0][1]}", limits=OllamaLimits(next_token_s=0.2))
        try:
            model = await engine.load(MODEL, OPTIONS, silent)
            async with asyncio.timeout(20):
                with pytest.raises(EngineFailed, match=r"nothing came from Ollama for 0\.2 s"):
                    await answered(model, ask())
        finally:
            await engine.aclose()
            await runner.cleanup()

    asyncio.run(check())
