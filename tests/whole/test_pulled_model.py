"""Models that real processes pull, copy, load and answer with, also when a sending process dies or stands still."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from chorus_client.inventory import bundled_folder
from chorus_proto.transfers import PIECE_BYTES
from tests.support.model_registry import ModelRegistry, model_registry
from tests.whole.support import Running, chat, cluster, eventually, http, run_chorus


@contextmanager
def registry_beside() -> Generator[ModelRegistry]:
    """The registry on an event loop of its own."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    started: list[ModelRegistry] = []

    async def serve() -> None:
        async with model_registry() as registry:
            started.append(registry)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield eventually(lambda: started, within_s=10, what="the registry serves")[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=10)
        loop.close()


def tiny_model() -> bytes:
    folder = bundled_folder()
    assert folder is not None
    return (folder / "demo-tiny-q8_0.gguf").read_bytes()


def test_a_pulled_model_answers_on_two_pcs_and_was_downloaded_once(tmp_path: Path) -> None:
    content = tiny_model()
    with registry_beside() as registry, cluster(tmp_path) as chorus:
        page = registry.publish("capital", content, tag="1m")
        told = chorus.up("--no-agent").ready()
        url, join = str(told["http_url"]), str(told["join"])
        for name in ("attic", "cellar"):
            chorus.agent(name, join, f"--registry-url={registry.url}").ready()
        for name, kind in (("attic", "pull"), ("cellar", "copy")):
            said = run_chorus("models", "pull", "capital:1m", f"--node={name}", "--json", f"--coordinator={join}")
            assert said.code == 0, said
            assert msgspec.json.decode(said.out)["kind"] == kind
        assert page.asked == [""]
        assert "Paris" in chat(url, "capital:1m", "What is the capital of France?")
        known = {one["id"] for one in msgspec.json.decode(http(f"{url}/v1/models").body)["data"]}
        assert "capital:1m" in known
        files = list((tmp_path / "state" / "agents").glob("*/models/capital-1m-*.gguf"))
        assert sorted(path.parent.parent.name for path in files) == ["attic", "cellar"]
        assert all(path.read_bytes() == content for path in files)


@pytest.mark.parametrize(
    "fault",
    ["killed", pytest.param("frozen", marks=pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX"))],
)
def test_another_pc_goes_on_when_the_sending_one_is(tmp_path: Path, fault: str) -> None:
    # A model that loads; what lies behind its last tensor no engine reads.
    content = tiny_model() + random.Random(1).randbytes(5 * PIECE_BYTES)
    with cluster(tmp_path) as chorus:
        slow = f"--copy-bytes-per-s-limit={3 << 20}"
        told = chorus.up("--no-agent", slow, "--copy-stall-s=1", "--suspect-after-s=2", "--dead-after-s=4").ready()
        join = str(told["join"])
        agents: dict[str, Running] = {}
        for name in ("attic", "barn", "cellar"):
            folder = tmp_path / name
            folder.mkdir()
            if name != "cellar":
                (folder / "big.gguf").write_bytes(content)
            agents[name] = chorus.agent(name, join, f"--models-dirs={folder}")
        for agent in agents.values():
            agent.ready()

        def begun() -> str | None:
            # Until the digest is known, there is nothing to copy.
            said = run_chorus("models", "copy", "big", "--node=cellar", "--no-wait", "--json", f"--coordinator={join}")
            return None if said.code else str(msgspec.json.decode(said.out)["transfer_id"])

        def transfer() -> dict[str, object]:
            said = run_chorus("models", "transfers", "--json", f"--coordinator={join}")
            return msgspec.json.decode(said.out)[0]

        eventually(begun, within_s=30, what="the copy begins")
        some = eventually(lambda: one if (one := transfer())["done_bytes"] else None, within_s=10, what="a piece came")
        first = str(some["source"])
        if fault == "killed":
            agents[first].kill()
        else:
            os.kill(agents[first].process.pid, signal.SIGSTOP)
        eventually(lambda: transfer()["state"] in ("done", "failed"), within_s=30, what="the copy is over")
        done = transfer()
        assert (done["state"], done["source"]) == ("done", "barn" if first == "attic" else "attic")
        (path,) = (tmp_path / "state" / "agents" / "cellar" / "models").glob("*.gguf")
        assert path.read_bytes() == content
