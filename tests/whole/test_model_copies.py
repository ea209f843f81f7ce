"""Models copied between nodes, over real gRPC: whole, resumed, and never with a wrong byte, whatever a sender does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_client.model_server.folder import check_folder
from chorus_proto.errors import InvalidRequest, ModelNotFound, TransferFailed, Unsupported
from chorus_proto.transfers import PIECE_BYTES, Transfer, TransferState
from chorus_proto.values import EngineKind, NodeState
from tests.server.test_dispatch import call_for, text_of
from tests.support.fake_node import STRONG
from tests.support.file_node import FileNode, Sabotage, file_node
from tests.support.model_files import model_bytes, sha256_of
from tests.support.model_folders import large_folder
from tests.support.small_cluster import SmallCluster, small_cluster

MODEL = model_bytes(4 * PIECE_BYTES + 1_000_003)
SHA256 = sha256_of(MODEL)
OTHER = model_bytes(300_000, seed=2)


def play(tmp_path: Path, scenario: Callable[[Stage], Coroutine[None, None, None]], **settings: object) -> None:
    async def all_of_it() -> None:
        async with (
            asyncio.timeout(40),
            small_cluster(tmp_path / "hub", **{"copy_stall_s": 0.5, "copy_wait_s": 3.0, **settings}) as cluster,
            AsyncExitStack() as stack,
        ):
            await scenario(Stage(cluster, stack, tmp_path))

    asyncio.run(all_of_it())


class Stage:
    """A hub, and nodes as the test wants them."""

    def __init__(self, cluster: SmallCluster, stack: AsyncExitStack, folder: Path) -> None:
        self.cluster = cluster
        self.hub = cluster.coordinator
        self._stack = stack
        self._folder = folder

    async def node(self, name: str, **more: object) -> FileNode:
        address = self.cluster.hub.grpc_address
        node = await self._stack.enter_async_context(file_node(address, name, self._folder, **more))  # pyright: ignore[reportArgumentType]  # named options
        await until(lambda: self._is_there(name))
        return node

    async def _is_there(self, name: str) -> bool:
        return await self.cluster.node(name) is not None

    async def any_has(self, done_bytes: int) -> bool:
        """Some transfer has come so far, as the hub knows it."""
        return any(one.done_bytes >= done_bytes for one in await self.hub.transfers())

    async def transfer(self, transfer_id: str) -> Transfer:
        return next(one for one in await self.hub.transfers() if one.transfer_id == transfer_id)

    async def ended(self, begun: Transfer) -> Transfer:
        async def over() -> bool:
            return (await self.transfer(begun.transfer_id)).state.is_over

        await until(over)
        return await self.transfer(begun.transfer_id)


async def until(look: Callable[[], Awaitable[bool]], *, within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not await look():
            await asyncio.sleep(0.01)


def holds_exactly(node: FileNode, content: bytes = MODEL) -> None:
    """One file, whole and right, and nothing half-done beside it."""
    (path,) = node.models()
    assert sha256_of(path.read_bytes()) == sha256_of(content)
    assert node.parts() == []


async def has_pieces(node: FileNode, count: int) -> bool:
    """Its unfinished file is so long; the hub hears of it only now and then."""
    return any(path.stat().st_size >= count * PIECE_BYTES for path in node.parts())


def test_a_copy_arrives_whole_under_its_name_and_can_be_loaded(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        attic = await stage.node("attic", models={"Big_Model.Q4": MODEL})
        cellar = await stage.node("cellar")
        begun = await stage.hub.copy_model("big_model.q4", to="cellar")
        assert begun.state is TransferState.WAITING
        done = await stage.ended(begun)
        assert (done.state, done.digest, done.source) == (TransferState.DONE, SHA256, "attic")
        assert (done.done_bytes, done.total_bytes) == (len(MODEL), len(MODEL))
        holds_exactly(cellar)
        node = await stage.cluster.node("cellar")
        assert node is not None
        assert [(file.name, file.digest) for file in node.models] == [("big_model.q4", SHA256)]
        assert attic.calls.sent_bytes == len(MODEL)
        again = await stage.hub.copy_model("big_model.q4", to="cellar")
        assert (again.state, again.detail) == (TransferState.DONE, "was there already")

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    "sabotage",
    [
        Sabotage(at=2 * PIECE_BYTES + 5, corrupt=True, times=1),
        Sabotage(at=2 * PIECE_BYTES + 5, stall=True, times=1),
        Sabotage(at=2 * PIECE_BYTES + 2_500_000, die=True, times=1),
    ],
    ids=["corrupts", "stalls", "dies"],
)
def test_another_node_goes_on_where_a_bad_sender_stopped(tmp_path: Path, sabotage: Sabotage) -> None:
    async def scenario(stage: Stage) -> None:
        first = await stage.node("attic", models={"m": MODEL})
        second = await stage.node("barn", models={"m": MODEL})
        cellar = await stage.node("cellar")
        for node in (first, second):
            node.calls.sabotage = sabotage

        async def two_pieces_came() -> None:
            await until(lambda: stage.any_has(2 * PIECE_BYTES))

        sabotage.when = two_pieces_came
        begun = await stage.hub.copy_model("m", to="cellar")

        done = await stage.ended(begun)
        assert done.state is TransferState.DONE, done
        holds_exactly(cellar)
        starts = sorted(first.calls.first_offsets + second.calls.first_offsets)
        assert starts[0] == 0
        assert starts[1] == 2 * PIECE_BYTES, "it goes on at the last verified piece"
        assert len(first.calls.first_offsets) == len(second.calls.first_offsets) == 1

    play(tmp_path, scenario)


def test_a_sender_that_lies_consistently_is_found_out_and_all_comes_from_another(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        nodes = [await stage.node(name, models={"m": MODEL}) for name in ("attic", "barn")]
        cellar = await stage.node("cellar")
        liar = min(nodes, key=lambda node: node.node_id)
        liar.calls.sabotage = Sabotage(at=100, lie=True)
        done = await stage.ended(await stage.hub.copy_model("m", to="cellar"))
        assert (done.state, liar.calls.sabotage.done) == (TransferState.DONE, 1)
        holds_exactly(cellar)

    play(tmp_path, scenario)


@pytest.mark.parametrize("kind", ["corrupt", "lie"])
def test_with_nobody_but_bad_senders_nothing_is_accepted(tmp_path: Path, kind: str) -> None:
    async def scenario(stage: Stage) -> None:
        for name in ("attic", "barn"):
            node = await stage.node(name, models={"m": MODEL})
            node.calls.sabotage = Sabotage(at=PIECE_BYTES + 1, corrupt=kind == "corrupt", lie=kind == "lie")
        cellar = await stage.node("cellar")
        done = await stage.ended(await stage.hub.copy_model("m", to="cellar"))
        assert done.state is TransferState.FAILED
        assert isinstance(done.error, TransferFailed)
        assert "wrong bytes" in done.error.message
        assert "attic" in done.error.message
        assert "barn" in done.error.message
        assert cellar.models() == []
        assert cellar.inventory.path_of_digest(SHA256) is None

    play(tmp_path, scenario)


def test_a_sender_whose_link_breaks_is_replaced_at_once(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        nodes = [await stage.node(name, models={"m": MODEL}) for name in ("attic", "barn")]
        cellar = await stage.node("cellar")
        for node in nodes:
            node.calls.hold_at = 2 * PIECE_BYTES
        begun = await stage.hub.copy_model("m", to="cellar")

        async def has_some() -> bool:
            return (await stage.transfer(begun.transfer_id)).done_bytes > 0

        await until(has_some)
        sender = next(node for node in nodes if node.calls.first_offsets)
        await sender.cut()
        for node in nodes:
            node.calls.hold_at = None
        done = await stage.ended(begun)
        assert done.state is TransferState.DONE
        assert done.source != sender.name
        holds_exactly(cellar)

    play(tmp_path, scenario, copy_stall_s=10.0)


def test_a_receiver_that_was_away_goes_on_with_what_it_has(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        attic = await stage.node("attic", models={"m": MODEL})
        cellar = await stage.node("cellar")
        attic.calls.hold_at = 3 * PIECE_BYTES
        begun = await stage.hub.copy_model("m", to="cellar")

        await until(lambda: has_pieces(cellar, 2))
        await cellar.cut()
        assert cellar.models() == []
        attic.calls.hold_at = None
        cellar.relink()
        done = await stage.ended(begun)
        assert done.state is TransferState.DONE
        holds_exactly(cellar)
        assert attic.calls.first_offsets[-1] >= PIECE_BYTES
        assert attic.calls.sent_bytes < 2 * len(MODEL)

    play(tmp_path, scenario, copy_wait_s=10.0, copy_stall_s=10.0)


def test_a_cancelled_copy_keeps_its_part_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        attic = await stage.node("attic", models={"m": MODEL})
        cellar = await stage.node("cellar")
        attic.calls.hold_at = 3 * PIECE_BYTES
        begun = await stage.hub.copy_model("m", to="cellar")

        await until(lambda: has_pieces(cellar, 2))
        assert (await stage.hub.cancel_transfer(begun.transfer_id)).state is TransferState.CANCELLED

        async def told() -> bool:
            return cellar.reports[-1].state is TransferState.CANCELLED

        await until(told)
        assert cellar.models() == []
        attic.calls.hold_at = None
        done = await stage.ended(await stage.hub.copy_model("m", to="cellar"))
        assert done.state is TransferState.DONE
        holds_exactly(cellar)
        assert attic.calls.first_offsets[1] >= PIECE_BYTES

    play(tmp_path, scenario, copy_stall_s=10.0)


def test_a_full_disk_is_said_before_the_first_byte(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        attic = await stage.node("attic", models={"m": MODEL})
        cellar = await stage.node("cellar")
        cellar.free_bytes = 1_000_000
        done = await stage.ended(await stage.hub.copy_model("m", to="cellar"))
        assert done.error is not None
        assert done.error.code == "insufficient_storage"
        assert "needs 0.02 GB" in done.error.message
        assert "0.00 GB are free" in done.error.message
        assert (attic.calls.sent_bytes, cellar.models()) == (0, [])

    play(tmp_path, scenario)


def test_copies_that_cannot_be_are_refused_with_the_reason(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.node("attic", models={"m": MODEL})
        await stage.node("cellar", models={"m2": OTHER})
        await stage.cluster.join("old")
        await stage.cluster.until_state("old", NodeState.ALIVE)
        with pytest.raises(ModelNotFound, match="did you mean m or m2"):
            await stage.hub.copy_model("m3", to="cellar")
        with pytest.raises(Unsupported, match="upgrade"):
            await stage.hub.copy_model("m", to="old")
        with pytest.raises(InvalidRequest, match="path on this PC"):
            await stage.hub.pull_model("..\\etc\\passwd", node="cellar")

    play(tmp_path, scenario)


def test_a_copy_keeps_to_the_rate_limit(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.node("attic", models={"m": OTHER + bytes(3 << 20)})
        cellar = await stage.node("cellar")
        began_s = asyncio.get_running_loop().time()
        done = await stage.ended(await stage.hub.copy_model("m", to="cellar"))
        took_s = asyncio.get_running_loop().time() - began_s
        assert done.state is TransferState.DONE
        assert took_s > 0.9, "after the first chunk, each of the other two waits for the one before it"
        assert len(cellar.models()) == 1

    play(tmp_path, scenario, copy_bytes_per_s_limit=2 << 20)


def test_two_copies_at_once_share_a_sender(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.node("attic", models={"m": MODEL, "other": OTHER})
        takers = [await stage.node(name) for name in ("cellar", "shed")]
        begun = [await stage.hub.copy_model("m", to=node.name) for node in takers]
        begun.append(await stage.hub.copy_model("m", to="cellar"))
        assert begun[2].transfer_id == begun[0].transfer_id, "the same copy is joined, not begun again"
        for one in begun:
            assert (await stage.ended(one)).state is TransferState.DONE
        for node in takers:
            holds_exactly(node)

    play(tmp_path, scenario)


# Folders --------------------------------------------------------------------------------------------------------------

EXTRA_BYTES = 3 * PIECE_BYTES


def folder_came(node: FileNode, source: Path) -> None:
    """One folder, as its sender's, loadable, and nothing half-done beside it."""
    (file,) = node.folders.files()
    came = check_folder(node.folders.path_of(file.name))
    assert file.fetched
    assert came.path.parent == node.store.folder
    assert {one.name: sha256_of(one.read_bytes()) for one in came.path.iterdir()} == {
        one.name: sha256_of(one.read_bytes()) for one in source.iterdir()
    }
    assert node.parts() == []
    assert list(node.store.folder.glob("*.unpacked")) == []


def test_a_model_folder_is_copied_sent_on_and_deleted(tmp_path: Path) -> None:
    source = large_folder(tmp_path / "source", EXTRA_BYTES)

    async def scenario(stage: Stage) -> None:
        attic = await stage.node("attic", folders={"Big_Model": source})
        cellar = await stage.node("cellar", takes_folders=True)
        done = await stage.ended(await stage.hub.copy_model("big_model", to="cellar"))
        assert done.state is TransferState.DONE, done
        (sent,) = attic.folders.files()
        assert (done.digest, done.total_bytes, done.source) == (sent.copy_digest, sent.copy_bytes, "attic")
        folder_came(cellar, source)
        node = await stage.cluster.node("cellar")
        assert node is not None
        assert node.models == (replace(sent, fetched=True),), "its digests are known at once"
        await attic.cut()
        shed = await stage.node("shed", takes_folders=True)
        assert (await stage.ended(await stage.hub.copy_model("big_model", to="shed"))).source == "cellar"
        folder_came(shed, source)
        await stage.hub.delete_model("big_model")

        async def is_gone() -> bool:
            nodes = [await stage.cluster.node(name) for name in ("cellar", "shed")]
            return all(node is not None and node.models == () for node in nodes)

        await until(is_gone)
        for fetched in (cellar, shed):
            assert [path for path in fetched.store.folder.iterdir() if path.is_dir()] == []

    play(tmp_path, scenario)


def test_a_folders_copy_that_was_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    source = large_folder(tmp_path / "source", EXTRA_BYTES)

    async def scenario(stage: Stage) -> None:
        attic = await stage.node("attic", folders={"m": source})
        cellar = await stage.node("cellar", takes_folders=True)
        attic.calls.hold_at = 2 * PIECE_BYTES
        begun = await stage.hub.copy_model("m", to="cellar")
        await until(lambda: has_pieces(cellar, 1))
        await cellar.cut()
        assert cellar.folders.files() == []
        attic.calls.hold_at = None
        cellar.relink()
        done = await stage.ended(begun)
        assert done.state is TransferState.DONE, done
        folder_came(cellar, source)
        assert attic.calls.first_offsets[-1] in (PIECE_BYTES, 2 * PIECE_BYTES)

    play(tmp_path, scenario, copy_wait_s=10.0, copy_stall_s=10.0)


@pytest.mark.parametrize("kind", ["corrupt", "lie"])
def test_wrong_bytes_of_a_folder_are_never_unpacked(tmp_path: Path, kind: str) -> None:
    source = large_folder(tmp_path / "source", PIECE_BYTES)

    async def scenario(stage: Stage) -> None:
        attic = await stage.node("attic", folders={"m": source})
        attic.calls.sabotage = Sabotage(at=PIECE_BYTES + 1, corrupt=kind == "corrupt", lie=kind == "lie")
        cellar = await stage.node("cellar", takes_folders=True)
        done = await stage.ended(await stage.hub.copy_model("m", to="cellar"))
        assert isinstance(done.error, TransferFailed)
        assert "wrong bytes" in done.error.message
        assert cellar.folders.files() == []
        assert [path for path in cellar.store.folder.iterdir() if path.is_dir()] == []

    play(tmp_path, scenario)


def test_what_is_no_folder_is_thrown_away_though_its_digest_is_right(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.node("attic", models={"m": OTHER})
        cellar = await stage.node("cellar", takes_folders=True)
        record = stage.hub._registry.find("attic")  # pyright: ignore[reportPrivateUsage]  # what a lying agent would tell
        (file,) = record.models.values()
        folder = replace(
            file, engine=EngineKind.TRANSFORMERS, copy_digest=file.digest, copy_bytes=file.file_bytes, digest=SHA256
        )
        stage.hub.inventory_reported(record, [folder])
        done = await stage.ended(await stage.hub.copy_model("m", to="cellar"))
        assert isinstance(done.error, TransferFailed)
        assert "no model that can be loaded: it is no archive of a model folder" in done.error.message
        assert (cellar.folders.files(), cellar.parts(), cellar.models()) == ([], [], [])
        assert [path for path in cellar.store.folder.iterdir() if path.is_dir()] == []

    play(tmp_path, scenario)


def test_a_folder_needs_room_for_itself_and_its_archive_and_an_engine(tmp_path: Path) -> None:
    source = large_folder(tmp_path / "source", PIECE_BYTES)

    async def scenario(stage: Stage) -> None:
        attic = await stage.node("attic", folders={"m": source})
        cellar = await stage.node("cellar", takes_folders=True)
        (sent,) = attic.folders.files()
        cellar.free_bytes = 2 * sent.copy_bytes - 1
        done = await stage.ended(await stage.hub.copy_model("m", to="cellar"))
        assert done.error is not None
        assert done.error.code == "insufficient_storage"
        assert attic.calls.sent_bytes == 0
        await stage.node("shed")
        with pytest.raises(Unsupported, match="node shed cannot use one"):
            await stage.hub.copy_model("m", to="shed")

    play(tmp_path, scenario)


def test_a_request_brings_its_model_to_a_node_where_it_fits(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        small = replace(STRONG, ram_bytes=8 << 20, ram_available_bytes=8 << 20, gpus=())
        await stage.node("attic", models={"m": MODEL}, hardware=small)
        cellar = await stage.node("cellar")
        call = call_for("m")
        answering = asyncio.create_task(text_of(stage.hub.submit(call)))
        async with asyncio.timeout(20):
            while not cellar.engine.loads:
                await asyncio.sleep(0.01)
        holds_exactly(cellar)
        (transfer,) = await stage.hub.transfers()
        assert (transfer.on_demand, transfer.state) == (True, TransferState.DONE)
        assert await answering

    play(tmp_path, scenario)
