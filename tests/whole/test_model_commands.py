"""`chorus models pull, copy, transfers, cancel` as processes of their own, against a real cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chorus_proto.transfers import PIECE_BYTES, TransferState
from tests.support.file_node import FileNode, Sabotage, file_node
from tests.support.model_files import model_bytes, sha256_of
from tests.support.model_registry import ModelRegistry, model_registry
from tests.support.small_cluster import SmallCluster, small_cluster

MODEL = model_bytes(PIECE_BYTES + 70_000)
SHA256 = sha256_of(MODEL)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Stage:
    cluster: SmallCluster
    registry: ModelRegistry
    attic: FileNode
    cellar: FileNode

    async def chorus(self, *words: str) -> Said:
        address = self.cluster.hub.grpc_address
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chorus_cli", "models", *words, f"--coordinator={address}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        return Said(process.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def stage(tmp_path: Path) -> AsyncGenerator[Stage]:
    async with (
        asyncio.timeout(50),
        small_cluster(tmp_path / "hub", copy_stall_s=1.0, copy_wait_s=3.0) as cluster,
        model_registry() as registry,
        file_node(cluster.hub.grpc_address, "attic", tmp_path, registry_url=registry.url) as attic,
        file_node(cluster.hub.grpc_address, "cellar", tmp_path, registry_url=registry.url) as cellar,
    ):
        for name in ("attic", "cellar"):
            while await cluster.node(name) is None:
                await asyncio.sleep(0.01)
        yield Stage(cluster, registry, attic, cellar)


def test_a_model_is_downloaded_once_and_then_copied_within_the_lan(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as on:
            page = on.registry.publish("tiny", MODEL, tag="1b")
            said = await on.chorus("pull", "tiny:1b", "--node=attic", "--json", f"--sha256={SHA256}")
            assert said.code == 0, said
            pulled = msgspec.json.decode(said.out)
            assert (pulled["kind"], pulled["state"], pulled["digest"]) == ("pull", "done", SHA256)
            said = await on.chorus("pull", "tiny:1b", "--node=cellar")
            assert said.code == 0, said
            assert "tiny:1b to cellar from attic: done" in said.out
            assert [sha256_of(path.read_bytes()) for path in on.cellar.models()] == [SHA256]
            assert page.asked == [""], "the internet was asked once"
            said = await on.chorus("copy", "tiny:1b", "--node=cellar")
            assert "was there already" in said.out
            listed = (await on.chorus("transfers")).out.splitlines()
            assert [line.split()[1:4] for line in listed[1:]] == [
                ["tiny:1b", "attic", "tiny:1b"],
                ["tiny:1b", "cellar", "attic"],
            ]
            kinds = [one["kind"] for one in msgspec.json.decode((await on.chorus("transfers", "--json")).out)]
            assert kinds == ["pull", "copy"]
            assert "tiny:1b" in (await on.chorus()).out

    asyncio.run(scenario())


def test_a_transfer_that_is_only_begun_can_be_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as on:
            on.registry.publish("tiny", MODEL).stall_at = 3_000_000
            begun = await on.chorus("pull", "tiny", "--node=attic", "--no-wait", "--json")
            transfer_id = msgspec.json.decode(begun.out)["transfer_id"]
            said = await on.chorus("cancel", transfer_id)
            assert "cancelled" in said.out
            while not any(report.state is TransferState.CANCELLED for report in on.attic.reports):
                await asyncio.sleep(0.01)
            assert on.attic.models() == []

    asyncio.run(scenario())


def test_what_cannot_be_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as on:
            on.attic.put("m", MODEL)
            await on.attic.inventory.refresh()
            await on.attic.inventory.digest()
            await on.attic.agent.inventory_changed()
            on.attic.calls.sabotage = Sabotage(at=5, corrupt=True)
            for words, error in (
                (("pull", "../../x"), "is no model to pull"),
                (("pull", "C:evil"), "begins like a Windows drive"),
                (("pull", "nothing-such", "--node=attic"), "no such model there"),
                (("pull", "tiny", "--node=garage"), "no node is called 'garage'"),
                (("pull", "tiny", "--sha256=xyz"), "sha256 must be 64 hexadecimal digits"),
                (("copy", "m", "--node=cellar"), "sent wrong bytes"),
                (("cancel", "nonsense"), "there is no transfer 'nonsense'"),
            ):
                said = await on.chorus(*words)
                assert said.code == 1, said
                assert error in said.err.splitlines()[-1], said
                assert "Traceback" not in said.err
            assert on.cellar.models() == []

    asyncio.run(scenario())
