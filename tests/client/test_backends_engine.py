"""Mirrors chorus_client/backends/engine.py, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from chorus_client.backends.engine import BackendEngine
from chorus_client.engines.base import LoadedModel, LoadOptions
from chorus_client.engines.openai_http import HttpLimits
from chorus_client.engines.remote import RemoteEngine
from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Delta, Done
from tests.client.engine_contract import ask, silent
from tests.support.fake_cluster import FakeCluster, failing, waiting
from tests.support.http_face import http_face


@asynccontextmanager
async def judged(cluster: FakeCluster, told: list[bool]) -> AsyncGenerator[LoadedModel]:
    async with http_face(cluster) as server:
        remote = RemoteEngine(server.url, api_key=None, slots=1, limits=HttpLimits())
        engine = BackendEngine(remote, (), told.append)
        try:
            (file,) = await engine.inventory()
            yield await engine.load(file, LoadOptions(), silent)
        finally:
            await engine.aclose()


def test_an_answer_is_good_once_its_end_has_come_although_nobody_reads_on() -> None:
    async def run() -> None:
        told: list[bool] = []
        async with judged(FakeCluster(), told) as model:
            async with aclosing(model.generate(ask())) as batches:
                async for pieces in batches:
                    if isinstance(pieces[-1], Done):
                        break  # as the agent does
            assert told == [True]

    asyncio.run(run())


def test_an_answer_that_its_caller_breaks_off_tells_nothing_and_one_that_fails_is_bad() -> None:
    async def run() -> None:
        told: list[bool] = []
        cluster = FakeCluster(waiting(asyncio.Event(), before=(Delta("The "),)))
        async with judged(cluster, told) as model:
            async with aclosing(model.generate(ask())) as batches:
                first = await anext(batches)
            assert isinstance(first[0], Delta) and not isinstance(first[-1], Done)
            assert told == []
            cluster.engine = failing(EngineFailed("it broke"))
            with pytest.raises(EngineFailed):
                async for _ in model.generate(ask()):
                    pass
            assert told == [False]

    asyncio.run(run())
