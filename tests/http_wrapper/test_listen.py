"""Mirrors chorus_http/listen.py."""

from __future__ import annotations

import asyncio
import socket

import pytest

from chorus_http.listen import CannotListen, bind
from chorus_http.settings import HttpSettings
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import get, http_face, send_raw


def test_port_0_takes_a_free_port_and_tells_which() -> None:
    async def run() -> None:
        async with http_face(FakeCluster()) as first, http_face(FakeCluster()) as second:
            assert first.port != second.port
            assert first.url == f"http://127.0.0.1:{first.port}"
            assert (await send_raw(second.port, get("/health"))).status == 200

    asyncio.run(run())


def test_a_port_in_use_is_told_with_the_fix() -> None:
    async def run() -> None:
        async with http_face(FakeCluster()) as server:
            with pytest.raises(CannotListen, match=r"in use.*--http-port"):
                async with http_face(FakeCluster(), HttpSettings(http_port=server.port)):
                    pass

    asyncio.run(run())


@pytest.mark.parametrize("host", ["203.0.113.77", "no such host", "a" * 300])
def test_an_address_that_is_not_this_pcs_is_told_with_the_fix(host: str) -> None:
    with pytest.raises(CannotListen, match="--host"):
        bind(host, 0)


def test_the_port_is_free_again_after_the_end() -> None:
    async def run() -> int:
        async with http_face(FakeCluster()) as server:
            await send_raw(server.port, get("/health"))
            return server.port

    port = asyncio.run(run())
    bind("127.0.0.1", port).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_the_second_port_serves_the_same_and_says_what_ollama_says() -> None:
    async def run() -> None:
        both = HttpSettings(http_port=0, ollama_port=0, drain_within_s=1.0)
        async with http_face(FakeCluster(), both) as server:
            assert server.ollama_url is not None
            port = int(server.ollama_url.rpartition(":")[2])
            assert port != server.port
            said = await send_raw(port, get("/"))
            assert (said.status, said.body) == (200, b"Ollama is running")
            assert said.headers["content-type"].startswith("text/plain")
            head = await send_raw(port, get("/", method="HEAD"))
            assert (head.status, head.body) == (200, b"")
            assert (await send_raw(port, get("/api/tags"))).json() == (
                await send_raw(server.port, get("/api/tags"))
            ).json()
            assert (await send_raw(server.port, get("/"))).json()["ollama"] == "Ollama is running"
        for closed in (port, server.port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", closed), timeout=2)

    asyncio.run(run())


def test_a_second_port_in_use_is_told_with_its_own_flag_and_frees_the_first() -> None:
    async def run() -> None:
        async with http_face(FakeCluster()) as server:
            free = bind("127.0.0.1", 0)
            port = free.getsockname()[1]
            free.close()
            with pytest.raises(CannotListen, match=r"in use.*--ollama-port"):
                async with http_face(FakeCluster(), HttpSettings(http_port=port, ollama_port=server.port)):
                    pass
            bind("127.0.0.1", port).close()

    asyncio.run(run())


def test_without_the_setting_there_is_no_second_port() -> None:
    async def run() -> None:
        async with http_face(FakeCluster()) as server:
            assert server.ollama_url is None

    asyncio.run(run())
