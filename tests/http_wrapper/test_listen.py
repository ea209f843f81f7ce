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
