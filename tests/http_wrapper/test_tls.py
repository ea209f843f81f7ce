"""The HTTP address over TLS, with the clients that people use."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from chorus_http.listen import HttpServer
from chorus_http.settings import HttpSettings
from chorus_http.tls import http_tls, speaks_tls
from chorus_proto.clock import SystemClock
from chorus_proto.settings import SettingsError
from chorus_proto.tls.authority import PUBLIC_FILE, SERVER_DAYS, Authority, Issued
from chorus_proto.tls.folder import FOLDER
from tests.support.clock import FakeClock
from tests.support.fake_cluster import MODEL, FakeCluster
from tests.support.http_face import http_face

NOW_S = SystemClock().unix_s()
WITHIN_S = 10.0


def encrypted(folder: Path) -> HttpSettings:
    return HttpSettings(http_port=0, drain_within_s=1.0, tls=True, state_dir=folder)


@asynccontextmanager
async def face(
    settings: HttpSettings, cluster: FakeCluster | None = None, clock: FakeClock | None = None
) -> AsyncGenerator[HttpServer]:
    async with asyncio.timeout(60), http_face(cluster or FakeCluster(), settings, clock=clock) as server:
        yield server


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / FOLDER / PUBLIC_FILE)


async def certificate(server: HttpServer) -> str:
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", server.port), timeout=WITHIN_S)


def own_files(folder: Path, *, names: frozenset[str] = frozenset({"127.0.0.1"})) -> tuple[Path, Path, bytes]:
    """Certificate and key of an authority that is not the hub's, and that authority."""
    authority = Authority.made(now_unix_s=NOW_S)
    issued = authority.issue(names, now_unix_s=NOW_S)
    return (*written(folder, issued), authority.pem)


def written(folder: Path, issued: Issued) -> tuple[Path, Path]:
    cert, key = folder / "mine.pem", folder / "mine.key"
    cert.write_bytes(issued.chain_pem)
    key.write_bytes(issued.key_pem)
    return cert, key


def test_who_trusts_the_authority_is_answered_and_who_does_not_breaks_off(tmp_path: Path) -> None:
    async def run() -> None:
        async with face(encrypted(tmp_path)) as server:
            assert server.url == f"https://127.0.0.1:{server.port}"
            async with httpx.AsyncClient(verify=trusting(tmp_path)) as client:
                for host in ("127.0.0.1", "localhost"):
                    assert (await client.get(f"https://{host}:{server.port}/health")).status_code == 200
            async with httpx.AsyncClient() as stranger:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await stranger.get(f"{server.url}/health")
                with pytest.raises(httpx.HTTPError):
                    await stranger.get(f"http://127.0.0.1:{server.port}/health")

    asyncio.run(run())


def test_the_openai_client_streams_over_tls(tmp_path: Path) -> None:
    async def run() -> None:
        async with face(encrypted(tmp_path)) as server:
            http_client = DefaultAsyncHttpxClient(verify=trusting(tmp_path))
            async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", http_client=http_client) as client:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
                )
                text = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            assert "".join(text)

    asyncio.run(run())


def test_the_authority_is_there_for_everybody_and_is_the_one_that_was_used(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            face(replace(encrypted(tmp_path), require_keys=True)) as server,
            httpx.AsyncClient(verify=trusting(tmp_path)) as client,
        ):
            reply = await client.get(f"{server.url}/join/ca")
            assert reply.status_code == 200 and b"PRIVATE" not in reply.content
            again = ssl.create_default_context(cadata=reply.text)
            async with httpx.AsyncClient(verify=again) as pinned:
                assert (await pinned.get(f"{server.url}/v1/models")).status_code == 401

    asyncio.run(run())


def test_no_old_protocol_is_spoken(tmp_path: Path) -> None:
    async def run() -> None:
        async with face(encrypted(tmp_path)) as server:
            with pytest.raises(ssl.SSLError):
                await asyncio.open_connection("127.0.0.1", server.port, ssl=context)

    Authority.open(tmp_path, now_unix_s=NOW_S)
    context = trusting(tmp_path)
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    asyncio.run(run())


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus_proto.tls.shown.LOOK_EVERY_S", 0.02)
    # OpenSSL knows only the real time: both certificates must be good now.
    clock = FakeClock(unix_s=NOW_S - (SERVER_DAYS - 5) * 86_400)

    async def run() -> None:
        async with face(encrypted(tmp_path), clock=clock) as server:
            first = await certificate(server)
            clock.advance(SERVER_DAYS * 86_400 * 2 / 3 + 1)
            async with asyncio.timeout(WITHIN_S):
                while await certificate(server) == first:
                    await asyncio.sleep(0.02)
            async with httpx.AsyncClient(verify=trusting(tmp_path)) as client:
                assert (await client.get(f"{server.url}/health")).status_code == 200

    asyncio.run(run())
    assert not list((tmp_path / FOLDER).glob(".server-*")), "no key is left lying about"


def test_a_caller_who_never_shakes_hands_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus_http.listen._HANDSHAKE_WITHIN_S", 0.2)

    async def run() -> None:
        async with face(encrypted(tmp_path)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            async with asyncio.timeout(WITHIN_S):
                assert await reader.read() == b""
            writer.close()
            async with httpx.AsyncClient(verify=trusting(tmp_path)) as client:
                assert (await client.get(f"{server.url}/health")).status_code == 200

    asyncio.run(run())


def test_garbage_instead_of_a_handshake_harms_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        async with face(encrypted(tmp_path)) as server:
            for garbage in (
                b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"\x16\x03\x01\xff\xff" + bytes(400),
                b"\x00",
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(garbage)
                writer.write_eof()
                async with asyncio.timeout(WITHIN_S):
                    assert b"HTTP" not in await reader.read()
                writer.close()
            async with httpx.AsyncClient(verify=trusting(tmp_path)) as client:
                assert (await client.get(f"{server.url}/health")).status_code == 200

    asyncio.run(run())


def test_an_owners_own_certificate_is_shown_and_taken_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chorus_http.tls.LOOK_EVERY_S", 0.02)
    cert, key, ca_pem = own_files(tmp_path)
    settings = HttpSettings(http_port=0, drain_within_s=1.0, tls_cert=cert, tls_key=key, state_dir=tmp_path)
    assert speaks_tls(settings)

    async def run() -> None:
        async with face(settings) as server:
            async with httpx.AsyncClient(verify=ssl.create_default_context(cadata=ca_pem.decode())) as client:
                assert (await client.get(f"{server.url}/health")).status_code == 200
            first = await certificate(server)
            key.write_bytes(b"half of it is writ")
            _, _, newer = own_files(tmp_path)
            async with asyncio.timeout(WITHIN_S):
                while await certificate(server) == first:
                    await asyncio.sleep(0.02)
            async with httpx.AsyncClient(verify=ssl.create_default_context(cadata=newer.decode())) as client:
                assert (await client.get(f"{server.url}/health")).status_code == 200

    asyncio.run(run())


def test_a_certificate_that_cannot_be_used_is_refused_in_words(tmp_path: Path) -> None:
    cert, key, _ = own_files(tmp_path)
    (tmp_path / "other").mkdir()
    _, other_key, _ = own_files(tmp_path / "other")

    async def run(certificate: Path, its_key: Path, said: str) -> None:
        settings = HttpSettings(tls_cert=certificate, tls_key=its_key, state_dir=tmp_path)
        with pytest.raises(SettingsError, match=said):
            async with http_tls(settings, SystemClock()):
                pass

    asyncio.run(run(cert, other_key, "no certificate and its key"))
    asyncio.run(run(key, cert, "no certificate and its key"))
    asyncio.run(run(cert, tmp_path / "nowhere", "cannot be read"))
    with pytest.raises(SettingsError, match="belong together"):
        HttpSettings(tls_cert=cert).check()


def test_the_second_port_is_encrypted_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with face(replace(encrypted(tmp_path), ollama_port=0)) as server:
            assert server.ollama_url is not None and server.ollama_url.startswith("https://")
            async with httpx.AsyncClient(verify=trusting(tmp_path)) as client:
                assert (await client.get(server.ollama_url)).text == "Ollama is running"

    asyncio.run(run())


def test_in_clear_nothing_is_made(tmp_path: Path) -> None:
    async def run() -> None:
        async with face(HttpSettings(http_port=0, drain_within_s=1.0, state_dir=tmp_path)) as server:
            assert server.url.startswith("http://")

    asyncio.run(run())
    assert not (tmp_path / FOLDER).exists()
