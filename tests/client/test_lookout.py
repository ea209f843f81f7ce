"""Models that come and go while the agent runs; folders and files are real, the link is read at its own end."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from chorus_client import inventory as inventory_module
from chorus_client.agent import Agent, Identity
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.gguf import GgufHeader, read_header
from chorus_client.hardware import LiveReader
from chorus_client.hf_folders import HfFolders
from chorus_client.integrity import Integrity
from chorus_client.inventory import Inventory
from chorus_client.link import Uplink
from chorus_client.lookout import Lookout
from chorus_client.pool import Pool
from chorus_proto.errors import EngineUnavailable, LoadFailed
from chorus_proto.ids import InstanceId, ModelName, NodeId
from chorus_proto.values import EngineKind, Hardware, ModelFile, Welcome
from tests.support.clock import FakeClock
from tests.support.fake_engine import FakeEngine
from tests.support.gguf_writer import llama
from tests.support.model_server import FOLDER
from tests.support.open_gate import open_gate

ECHO = "echo"
WELCOME = Welcome(protocol=1, epoch=1, lease_s=10, heartbeat_s=1, version="0.1.0")


class LateEngine(FakeEngine):
    """A server that is up or not."""

    def __init__(self) -> None:
        super().__init__()
        self.up = False

    async def inventory(self) -> list[ModelFile]:
        if not self.up:
            raise EngineUnavailable("it cannot be reached")
        return await super().inventory()


class Unreadable(Integrity):
    """A disk that gives headers away but not the rest."""

    reads = 0

    async def digest(self, path: Path, *, expected: str = "") -> str:
        if path.name != "bad.gguf":
            return "0" * 64
        self.reads += 1
        raise LoadFailed(f"The model file {path} cannot be read")


class Bench:
    """An agent with the models of a folder and a server beside it."""

    def __init__(self, folder: Path, *, integrity: Integrity | None = None) -> None:
        self.own = folder / "own"
        self.inventory = Inventory([self.own], folder / "state", integrity=integrity)
        self.folders = HfFolders([self.own], folder / "state")
        self.server = LateEngine()
        llama_cpp = LlamaServerEngine(self.inventory, threads=1, checked=self.inventory.checked)
        engines = {EngineKind.LLAMA_SERVER: llama_cpp, EngineKind.SCRIPTED: self.server}
        hardware = Hardware(os="linux", arch="x86_64")
        self.agent = Agent(
            Identity(node_id=NodeId("n"), instance_id=InstanceId("i"), name="attic"),
            hardware,
            Pool(engines, FakeClock(), lambda _report: None, open_gate()),
            FakeClock(),
            readings=LiveReader(hardware),
            fenced=lambda: False,
        )
        self.lookout = Lookout(self.inventory, self.folders, self.agent, every_s=0.01)

    def put(self, name: str, content: bytes | None = None) -> Path:
        self.own.mkdir(parents=True, exist_ok=True)
        path = self.own / name
        path.write_bytes(llama().encoded() if content is None else content)
        return path

    def offered(self) -> dict[str, ModelFile]:
        """What a Hello would tell now."""
        return {file.name: file for file in self.agent.hello().models}

    async def until(self, seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not seen():
                await asyncio.sleep(0.005)


def play(bench: Bench, scenario: Callable[[], Awaitable[None]], *, run: bool = True) -> None:
    """`run`: the lookout looks by itself meanwhile."""

    async def all_of_it() -> None:
        await bench.agent.prepare((EngineKind.LLAMA_SERVER,))
        looking = asyncio.create_task(bench.lookout.run()) if run else None
        await scenario()
        if looking is not None:
            assert not looking.done()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    asyncio.run(all_of_it())


def test_a_file_that_the_owner_puts_there_is_offered_with_its_digest_and_one_that_he_deletes_no_more(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.until(lambda: "demo-tiny" in bench.offered())
        path = bench.put("mine.gguf")  # its folder was not there before
        await bench.until(lambda: "mine" in bench.offered() and bench.offered()["mine"].digest != "")
        path.unlink()
        await bench.until(lambda: "mine" not in bench.offered())

    play(bench, scenario)


def test_a_folder_of_hugging_faces_is_found_and_read_through_while_the_agent_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await asyncio.to_thread(shutil.copytree, FOLDER, bench.own / "acme")
        await bench.until(lambda: [(one.name, one.digest != "") for one in bench.folders.files()] == [("acme", True)])

    play(bench, scenario)


def test_a_server_that_comes_up_late_is_heard_and_keeps_its_models_while_it_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        for _ in range(3):
            await bench.lookout.look()
        assert ECHO not in bench.offered()
        bench.server.up = True
        await bench.lookout.look()
        assert ECHO in bench.offered()
        bench.server.up = False
        for _ in range(3):
            await bench.lookout.look()
        assert ECHO in bench.offered()

    with caplog.at_level(logging.INFO):
        play(bench, scenario, run=False)
    # Each absence is told once, not at each look.
    assert caplog.text.count("it cannot be reached") == 2
    assert caplog.text.count("is back") == 1


def test_a_server_that_comes_up_late_is_noticed_without_being_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.until(lambda: "demo-tiny" in bench.offered())
        bench.server.up = True
        await bench.until(lambda: ECHO in bench.offered())

    play(bench, scenario)


def test_the_coordinator_hears_of_a_look_only_when_something_is_not_as_it_was(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.lookout.look()
        uplink = Uplink(bench.agent.hello())
        bench.agent.linked(uplink, WELCOME)
        for _ in range(3):
            await bench.lookout.look()
        bench.put("mine.gguf")
        await bench.lookout.look()
        uplink.outbox.close()
        frames = [frame async for batch in uplink.outbox.batches() for frame in batch]
        told = [frame.inventory for frame in frames if frame.WhichOneof("kind") == "inventory"]
        assert [ModelName("mine") in {file.name for file in one.models} for one in told] == [False, True]

    play(bench, scenario, run=False)


def test_what_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.put("good.gguf")
    bad = bench.put("bad.gguf", llama().encoded()[:-100])
    read: list[str] = []

    def counted(path: Path) -> GgufHeader:
        read.append(path.name)
        return read_header(path)

    monkeypatch.setattr(inventory_module, "read_header", counted)

    async def scenario() -> None:
        await bench.lookout.look()
        assert {"good.gguf", "bad.gguf"} <= set(read)
        read.clear()
        await bench.lookout.look()
        assert read == []
        assert "good" in bench.offered()
        bad.write_bytes(llama().encoded())
        await bench.lookout.look()
        assert read == ["bad.gguf"]
        assert "bad" in bench.offered()

    play(bench, scenario, run=False)


def test_a_file_that_cannot_be_read_through_is_tried_again_only_when_it_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    integrity = Unreadable(tmp_path / "state")
    bench = Bench(tmp_path, integrity=integrity)
    bad = bench.put("bad.gguf")

    async def look_and_digest() -> None:
        await bench.lookout.look()
        await bench.inventory.digest()

    async def scenario() -> None:
        await look_and_digest()
        await look_and_digest()
        assert (integrity.reads, caplog.text.count("no digest for")) == (1, 1)
        bad.write_bytes(llama({"llama.context_length": 1024}).encoded() + bytes(32))
        await look_and_digest()
        assert integrity.reads == 2
        bad.unlink()
        await look_and_digest()
        bench.put("bad.gguf")
        await look_and_digest()
        assert integrity.reads == 3

    play(bench, scenario, run=False)
