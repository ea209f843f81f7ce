"""Servers that outlive the command that started them, on real processes of the bundled engine."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from chorus_client.local_servers.config import load
from chorus_client.local_servers.preflight import Preflight
from chorus_client.local_servers.records import Identity, Records
from chorus_client.local_servers.runtime import LocalServers, Owner, ServerStatus, State, Stopped
from chorus_proto.errors import LoadFailed
from chorus_proto.settings import SettingsError
from chorus_proto.sizing import Estimate
from tests.support.gguf_writer import llama
from tests.support.local_servers import answers, end_all, free_ports, server, servers_file, strangers_server

NEEDS = Estimate(
    weights_bytes=7_100_000_000,
    kv_bytes=2_000_000_000,
    compute_bytes=700_000_000,
    overhead_bytes=0,
    context_tokens=16_384,
)


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    yield tmp_path
    end_all(tmp_path)


def servers_of(path: Path) -> LocalServers:
    return LocalServers(load(path), path.parent)


def test_start_status_and_stop_by_name_with_each_step_in_another_object(folder: Path) -> None:
    ports = free_ports(2)
    path = servers_file(folder, server("one", ports[0]), server("two", ports[1]))

    async def check() -> None:
        started = await servers_of(path).start("one")
        assert (started.state, started.owner, started.port) == (State.RUNNING, Owner.CHORUS, ports[0])
        assert 1 << 20 < (started.memory_bytes or 0) < 1 << 28
        assert started.cpu_percent is not None
        one, two = await servers_of(path).statuses()
        assert one.pid == started.pid
        assert (one.default, two.default) == (True, False)
        assert (two.state, two.owner, two.memory_bytes) == (State.STOPPED, None, None)
        assert (await servers_of(path).start("one")).pid == started.pid
        assert await servers_of(path).stop("one") is Stopped.STOPPED
        assert not answers(ports[0])
        assert started.pid is not None
        assert not psutil.pid_exists(started.pid)
        assert await servers_of(path).stop("one") is Stopped.WAS_NOT_RUNNING
        assert Records(folder).all() == []

    asyncio.run(check())


def test_two_starts_at_once_give_one_server(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("one", port))

    async def check() -> None:
        first, second = await asyncio.gather(servers_of(path).start("one"), servers_of(path).start("one"))
        assert first.pid == second.pid
        assert second.state is State.RUNNING
        await servers_of(path).stop("one")

    asyncio.run(check())


def test_a_killed_server_comes_back_without_anybody_asking(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("one", port))

    async def check() -> None:
        first = (await servers_of(path).start("one")).pid
        assert first is not None
        psutil.Process(first).kill()
        ends_at = time.monotonic() + 20
        while True:
            now = await servers_of(path).status("one")
            if now.runs and now.pid != first:
                break
            assert now.state in (State.RESTARTING, State.RUNNING, State.STARTING)
            assert time.monotonic() < ends_at
            await asyncio.sleep(0.05)
        assert now.restarts == 1
        assert answers(port)
        await servers_of(path).stop("one")

    asyncio.run(check())


def test_the_server_dies_with_its_keeper(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("one", port))

    async def check() -> None:
        pid = (await servers_of(path).start("one")).pid
        assert pid is not None
        engine = psutil.Process(pid)
        (record,) = Records(folder).all()
        keeper = record.keeper.process()
        assert keeper is not None
        keeper.kill()
        engine.wait(timeout=5)
        assert (await servers_of(path).status("one")).state is State.STOPPED
        assert (await servers_of(path).start("one")).state is State.RUNNING
        await servers_of(path).stop("one")

    asyncio.run(check())


def test_a_strangers_server_is_used_and_survives_a_stop(folder: Path) -> None:
    (port,) = free_ports(1)
    path = servers_file(folder, server("one", port))

    async def check(pid: int) -> None:
        now = await servers_of(path).start("one")
        assert (now.state, now.owner, now.pid) == (State.RUNNING, Owner.STRANGER, pid)
        assert f"process {pid}" in now.detail
        assert (now.memory_bytes or 0) > 1 << 20
        assert await servers_of(path).stop("one") is Stopped.NOT_OURS

    with strangers_server(port) as stranger:
        asyncio.run(check(stranger.pid))
        assert stranger.poll() is None
        assert answers(port)


def test_a_port_of_another_program_is_said_and_left_alone(folder: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        path = servers_file(folder, server("one", holder.getsockname()[1]))

        async def check() -> None:
            assert (await servers_of(path).status("one")).state is State.PORT_TAKEN
            with pytest.raises(LoadFailed, match="choose another server_port"):
                await servers_of(path).start("one")
            assert await servers_of(path).stop("one") is Stopped.NOT_OURS

        asyncio.run(check())


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(folder: Path) -> None:
    (port,) = free_ports(1)
    # Sound in its header, but without the tensors of a model.
    (folder / "models").mkdir()
    (folder / "models" / "hollow.gguf").write_bytes(llama().encoded())
    path = servers_file(folder, server("one", port, gguf_file="hollow.gguf"))

    async def check() -> None:
        with pytest.raises(LoadFailed, match="ended with code"):
            await servers_of(path).start("one")
        now = await servers_of(path).status("one")
        assert now.state is State.STOPPED
        assert "ended with code" in now.detail
        assert await servers_of(path).stop("one") is Stopped.WAS_NOT_RUNNING

    asyncio.run(check())
    assert all(record.keeper.process() is None for record in Records(folder).all())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gguf_file": "none.gguf"}, "none.gguf"),
        ({"gguf_file": None}, "gguf_file of 'one' is missing"),
        ({"server_params": {"split-mode": "row"}}, "bundled engine"),
        ({"llama_server_path": "nowhere"}, "llama_server_path of 'one'"),
    ],
)
def test_what_can_be_seen_before_a_start_is_refused_before_it(folder: Path, more: dict[str, object], said: str) -> None:
    path = servers_file(folder, server("one", free_ports(1)[0], **more))
    with pytest.raises(SettingsError, match=said):
        asyncio.run(servers_of(path).start("one"))


def test_an_id_that_was_used_again_is_not_the_process_remembered() -> None:
    own = Identity.of(psutil.Process().pid)
    assert own is not None
    assert own.process() is not None
    assert Identity(pid=own.pid, created_unix_s=own.created_unix_s - 60).process() is None


def status(name: str, port: int, memory_bytes: int | None) -> ServerStatus:
    return ServerStatus(
        name=name,
        host="127.0.0.1",
        port=port,
        state=State.RUNNING,
        model="x.gguf",
        default=False,
        memory_bytes=memory_bytes,
    )


def test_the_warning_is_the_known_text_and_the_arithmetic() -> None:
    running = [status("qwen-coder", 8000, 4_900_000_000), status("other", 8002, None)]
    preflight = Preflight(name="llama-3", running=running, needs=NEEDS, free_bytes=8_600_000_000)
    assert preflight.asks
    assert not preflight.fits
    assert preflight.warning() == (
        "⚠️  WARNING: The following servers are already running:\n"
        "  • qwen-coder (port 8000)\n"
        "  • other (port 8002)\n"
        "\n"
        "Running multiple LLM servers simultaneously may cause memory issues.\n"
        "qwen-coder holds 4.9 GB; other holds an unknown amount; "
        "llama-3 needs 9.8 GB = 7.1 weights + 2.0 KV at 16k + 0.7 buffers; free 8.6: it does not fit\n"
    )
    assert preflight.question == "Are you sure you want to start 'llama-3'?"
    assert preflight.warning(encoding="ascii").isascii()


def test_a_first_server_that_fits_needs_no_question_and_one_that_does_not_fit_does() -> None:
    assert not Preflight(name="a", running=(), needs=NEEDS, free_bytes=10_000_000_000).asks
    too_large = Preflight(name="a", running=(), needs=NEEDS, free_bytes=1_000_000_000)
    assert too_large.asks
    assert "not enough free memory for 'a'" in too_large.warning()
