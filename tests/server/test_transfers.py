"""The coordinator's side of transfers: whom it orders, whom it believes, and how each one ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from chorus_proto import node_pb2
from chorus_proto.errors import (
    ClusterError,
    ErrorCode,
    InsufficientStorage,
    InvalidRequest,
    ModelDamaged,
    ModelNotFound,
    NodeLost,
    NodeNotFound,
    NoNodes,
    NoReplica,
    NotFound,
    QueueFull,
    Unsupported,
)
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.transfers import (
    FEATURE,
    FOLDER_FEATURE,
    PIECE_BYTES,
    FetchReport,
    Transfer,
    TransferKind,
    TransferState,
)
from chorus_proto.values import EngineKind, ModelFile
from chorus_server.coordinator import Coordinator
from chorus_server.events import Event, TransferChanged
from chorus_server.transfer_job import UNVERIFIED_BYTES, Job
from chorus_server.transfer_streams import from_sender, to_receiver
from chorus_server.transfers import KEPT_LIMIT, RUNNING_LIMIT
from tests.server.test_dispatch import play
from tests.support.clock import FakeClock
from tests.support.fake_node import STRONG, FakeNode, hello_of

DIGEST = "ab" * 32
SIZE = 3 * PIECE_BYTES


def file(name: str = "m", *, digest: str = DIGEST, engine: EngineKind = EngineKind.LLAMA_SERVER) -> ModelFile:
    return ModelFile(name=ModelName(name), file_bytes=SIZE, engine=engine, digest=digest)


def node(coordinator: Coordinator, clock: FakeClock, name: str, *models: ModelFile, score: float = 0.0) -> FakeNode:
    hello = replace(
        hello_of(name, models=models, hardware=STRONG), features=(FEATURE,), engines=(EngineKind.LLAMA_SERVER,)
    )
    fake = FakeNode(coordinator, clock, name, hello=hello)
    fake.record.score = replace(fake.record.score, score=score)
    return fake


async def order(of: FakeNode, kind: str) -> str:
    """The ticket of the next fetch or send."""
    async with asyncio.timeout(5):
        return str(getattr((await of.next(kind)), kind).ticket)


def job(coordinator: Coordinator, transfer: Transfer) -> Job:
    return coordinator.transfers_under_way._jobs[transfer.transfer_id]  # pyright: ignore[reportPrivateUsage]  # what the streams hold


def beat(clock: FakeClock, seconds: float, *nodes: FakeNode) -> None:
    """Time passes and these are heard of meanwhile."""
    clock.advance(seconds)
    for one in nodes:
        one.record.beat_at_s = clock.monotonic_s()


def test_a_pull_goes_to_the_ablest_node_and_once(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        told: list[Event] = []
        coordinator.events.subscribe(told.append)
        node(coordinator, clock, "weak", score=10)
        strong = node(coordinator, clock, "strong", score=90)
        begun = await coordinator.pull_model("tiny:1b", sha256=DIGEST.upper())
        assert (begun.kind, begun.node_name, begun.model, begun.digest) == ("pull", "strong", "tiny:1b", DIGEST)
        fetch = (await strong.next("fetch")).fetch
        assert (fetch.source, fetch.model, fetch.digest, fetch.ticket) == ("tiny:1b", "tiny:1b", DIGEST, "")
        assert (await coordinator.pull_model("tiny:1b", node="strong")).transfer_id == begun.transfer_id
        done = FetchReport(transfer_id=begun.transfer_id, state=TransferState.DONE, done_bytes=9, digest=DIGEST)
        coordinator.fetch_reported(strong.record, done)
        (transfer,) = await coordinator.transfers()
        assert (transfer.state, transfer.done_bytes) == (TransferState.DONE, 9)
        states = [event.transfer.state for event in told if isinstance(event, TransferChanged)]
        assert states == [TransferState.WAITING, TransferState.DONE]

    play(tmp_path, scenario)


def test_a_pull_of_what_another_node_has_is_a_copy(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", file("tiny:1b"))
        node(coordinator, clock, "cellar")
        assert (await coordinator.pull_model("Tiny:1b", node="cellar")).kind is TransferKind.COPY
        other = await coordinator.pull_model("other:1b", node="cellar")
        assert other.kind is TransferKind.PULL
        there = await coordinator.pull_model("tiny:1b", node="attic")
        assert (there.state, there.detail) == (TransferState.DONE, "was there already")
        with pytest.raises(InvalidRequest, match="has another model called tiny:1b"):
            await coordinator.pull_model("tiny:1b", node="attic", sha256="cd" * 32)

    play(tmp_path, scenario)


def test_the_second_node_that_wants_a_download_waits_for_the_first_and_copies_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node(coordinator, clock, "attic")
        cellar = node(coordinator, clock, "cellar")
        first = await coordinator.pull_model("tiny:1b", node="attic")
        second = await coordinator.pull_model("tiny:1b", node="cellar")
        assert second.detail == "waits for node attic, which downloads it"
        coordinator.transfers_under_way.sweep()
        coordinator.inventory_reported(attic.record, [file("tiny:1b")])
        done = FetchReport(transfer_id=first.transfer_id, state=TransferState.DONE, digest=DIGEST)
        coordinator.fetch_reported(attic.record, done)
        coordinator.transfers_under_way.sweep()
        fetch = (await cellar.next("fetch")).fetch
        assert (fetch.transfer_id, fetch.source, fetch.digest) == (second.transfer_id, "", DIGEST)
        assert fetch.ticket
        assert (await coordinator.transfers())[1].kind is TransferKind.COPY

    play(tmp_path, scenario)


def test_the_second_node_downloads_after_all_when_the_first_one_could_not(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic")
        cellar = node(coordinator, clock, "cellar")
        first = await coordinator.pull_model("tiny:1b", node="attic")
        other = await coordinator.pull_model("tiny:1b", node="cellar")
        await coordinator.cancel_transfer(first.transfer_id)
        coordinator.transfers_under_way.sweep()
        fetch = (await cellar.next("fetch")).fetch
        assert (fetch.transfer_id, fetch.source) == (other.transfer_id, "tiny:1b")

    play(tmp_path, scenario)


def test_a_pull_with_another_digest_than_the_other_nodes_file_has_is_no_copy(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", file("tiny:1b"))
        node(coordinator, clock, "cellar")
        assert (await coordinator.pull_model("tiny:1b", node="cellar", sha256="cd" * 32)).kind is TransferKind.PULL

    play(tmp_path, scenario)


def test_a_checksum_is_never_dropped_for_a_transfer_that_is_under_way_without_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic")
        transfers = coordinator.transfers_under_way
        plain = transfers.pull("https://one.example/tiny.gguf")
        assert transfers.pull("https://one.example/tiny.gguf", node="attic") == plain
        with pytest.raises(InvalidRequest, match=f"chorus models cancel {plain.transfer_id}") as refused:
            transfers.pull("https://two.example/tiny.gguf", node="attic", sha256=DIGEST)
        assert refused.value.param == "sha256"
        transfers.cancel(plain.transfer_id)
        checked = transfers.pull("https://two.example/tiny.gguf", node="attic", sha256=DIGEST)
        assert checked.digest == DIGEST
        assert transfers.pull("https://one.example/tiny.gguf", node="attic", sha256=DIGEST) == checked

    play(tmp_path, scenario)


def test_what_cannot_be_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        with pytest.raises(NoNodes):
            await coordinator.pull_model("tiny")
        attic = node(coordinator, clock, "attic", file("m"), file("young", digest=""))
        folder = replace(file("folder"), engine=EngineKind.TRANSFORMERS)
        served = replace(file("served"), engine=EngineKind.REMOTE)
        coordinator.inventory_reported(attic.record, [file("m"), file("young", digest=""), folder, served])
        FakeNode(coordinator, clock, "old", hello=hello_of("old"))
        cellar = node(coordinator, clock, "cellar")
        refusals: list[tuple[type[ClusterError], str, str, str]] = [
            (ModelNotFound, "m3", "cellar", "on no node"),
            (NodeNotFound, "m", "garage", "no node is called"),
            (Unsupported, "m", "old", "takes no models; upgrade"),
            (Unsupported, "served", "cellar", "no GGUF file and no model folder"),
            (Unsupported, "folder", "cellar", "node cellar cannot use one: its agent needs the engine transformers"),
            (NoReplica, "young", "cellar", "still reading it"),
        ]
        for kind, model, to, words in refusals:
            with pytest.raises(kind, match=words):
                await coordinator.copy_model(model, to=to)
        for source in ("../x", "C:x", "a\0b", "\\\\h\\s", "http://a/x.bin"):
            with pytest.raises(InvalidRequest):
                await coordinator.pull_model(source)
        with pytest.raises(InvalidRequest, match="64 hexadecimal digits"):
            await coordinator.pull_model("tiny", sha256="sha256-../../x")
        with pytest.raises(NotFound):
            await coordinator.cancel_transfer("../x")
        cellar.lose()
        with pytest.raises(NodeLost):
            await coordinator.copy_model("m", to="cellar")
        assert await coordinator.transfers() == ()

    play(tmp_path, scenario)


def folder_node(coordinator: Coordinator, clock: FakeClock, name: str, *models: ModelFile) -> FakeNode:
    """Whose agent sends and takes model folders too."""
    hello = replace(
        hello_of(name, models=models, hardware=STRONG),
        features=(FEATURE, FOLDER_FEATURE),
        engines=(EngineKind.LLAMA_SERVER, EngineKind.TRANSFORMERS),
    )
    return FakeNode(coordinator, clock, name, hello=hello)


FOLDER = replace(file("folder"), engine=EngineKind.TRANSFORMERS, copy_digest="ef" * 32, copy_bytes=SIZE + 2048)


def test_a_folder_is_ordered_as_its_archive_of_those_who_can_use_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = folder_node(coordinator, clock, "attic", FOLDER)
        cellar = folder_node(coordinator, clock, "cellar")
        begun = await coordinator.copy_model("folder", to="cellar")
        assert (begun.kind, begun.digest, begun.total_bytes) == (TransferKind.COPY, "ef" * 32, SIZE + 2048)
        fetch = (await cellar.next("fetch")).fetch
        assert (fetch.folder, fetch.digest, fetch.file_bytes) == (True, "ef" * 32, SIZE + 2048)
        coordinator.transfers_under_way.flow.opened(fetch.ticket, 0)
        send = (await attic.next("send")).send
        assert (send.model, send.digest) == ("folder", "ef" * 32)
        there = await coordinator.copy_model("folder", to="attic")
        assert (there.detail, there.total_bytes) == ("was there already", SIZE + 2048)

    play(tmp_path, scenario)


def test_a_folder_that_is_still_read_is_waited_for_and_never_pulled_for(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = folder_node(coordinator, clock, "attic", replace(FOLDER, copy_digest="", copy_bytes=0))
        folder_node(coordinator, clock, "cellar")
        with pytest.raises(NoReplica, match="still reading it"):
            await coordinator.copy_model("folder", to="cellar")
        coordinator.inventory_reported(attic.record, [replace(FOLDER, name=ModelName("tiny:1b"))])
        pulled = await coordinator.pull_model("tiny:1b", node="cellar")
        assert pulled.kind is TransferKind.PULL, "who pulls wants the registry's GGUF file"

    play(tmp_path, scenario)


def test_a_copy_that_is_being_unpacked_is_not_taken_for_one_whose_receiver_went_away(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = folder_node(coordinator, clock, "attic", FOLDER)
        cellar = folder_node(coordinator, clock, "cellar")
        begun = await coordinator.copy_model("folder", to="cellar")
        transfers = coordinator.transfers_under_way
        running, _ = transfers.flow.opened(await order(cellar, "fetch"), 0)
        running.on_verified(SIZE + 2048)
        transfers.flow.receiver_gone(running)
        unpacking = FetchReport(transfer_id=begun.transfer_id, state=TransferState.RUNNING, detail="unpacking folder")
        for _ in range(5):
            beat(clock, 60, attic, cellar)
            coordinator.fetch_reported(cellar.record, unpacking)
            transfers.sweep()
        assert running.transfer.detail == "unpacking folder"
        assert not running.is_over
        beat(clock, 600, attic, cellar)
        transfers.sweep()
        assert running.transfer.state is TransferState.FAILED, "nothing was heard of it for too long"

    play(tmp_path, scenario)


def test_only_the_tickets_of_a_running_copy_open_streams(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node(coordinator, clock, "attic", file())
        cellar = node(coordinator, clock, "cellar")
        begun = await coordinator.copy_model("m", to="cellar")
        flow = coordinator.transfers_under_way.flow
        ticket = await order(cellar, "fetch")
        for wrong in ("", "x", ticket[:-1], "\0", "é"):
            with pytest.raises(NotFound, match="no transfer waits"):
                flow.opened(wrong, 0)
        for offset in (SIZE + 1, 1 << 60):
            with pytest.raises(InvalidRequest, match="nothing begins"):
                flow.opened(ticket, offset)
        _, source = flow.opened(ticket, PIECE_BYTES)
        assert source is None
        send = (await attic.next("send")).send
        assert (send.digest, send.offset) == (DIGEST, PIECE_BYTES)
        _, source = flow.opened(send.ticket, 0)
        assert source is not None
        assert source.name == "attic"
        await coordinator.cancel_transfer(begun.transfer_id)
        for over in (ticket, send.ticket):
            with pytest.raises(NotFound):
                flow.opened(over, 0)

    play(tmp_path, scenario)


def test_the_words_of_another_node_about_a_transfer_count_nothing(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node(coordinator, clock, "attic", file())
        node(coordinator, clock, "cellar")
        begun = await coordinator.copy_model("m", to="cellar")
        done = FetchReport(transfer_id=begun.transfer_id, state=TransferState.DONE, digest="ee" * 32)
        coordinator.fetch_reported(attic.record, done)
        coordinator.fetch_reported(attic.record, replace(done, transfer_id="unknown"))
        (transfer,) = await coordinator.transfers()
        assert (transfer.state, transfer.digest) == (TransferState.WAITING, DIGEST)

    play(tmp_path, scenario)


def test_the_receivers_failure_is_the_transfers(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", file())
        cellar = node(coordinator, clock, "cellar")
        begun = await coordinator.copy_model("m", to="cellar")
        full = InsufficientStorage("needs 1 and has 0")
        failed = FetchReport(transfer_id=begun.transfer_id, state=TransferState.FAILED, error=full)
        coordinator.fetch_reported(cellar.record, failed)
        (transfer,) = await coordinator.transfers()
        assert transfer.error is full
        again = await coordinator.copy_model("m", to="cellar")
        assert again.transfer_id != begun.transfer_id

    play(tmp_path, scenario)


def test_a_node_that_comes_back_is_told_again_and_one_that_does_not_ends_its_transfers(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node(coordinator, clock, "attic", file())
        cellar = node(coordinator, clock, "cellar")
        copy = await coordinator.copy_model("m", to="cellar")
        pull = await coordinator.pull_model("other", node="cellar")
        cellar.lose()
        beat(clock, 60, attic)
        coordinator.transfers_under_way.sweep()
        assert not any(one.state.is_over for one in await coordinator.transfers())
        back = FakeNode(coordinator, clock, "cellar", hello=cellar.hello)
        async with asyncio.timeout(5):
            told = {(await back.next("fetch")).fetch.transfer_id for _ in range(2)}
        assert told == {copy.transfer_id, pull.transfer_id}
        back.lose()
        beat(clock, 121, attic)
        coordinator.transfers_under_way.sweep()
        errors = [one.error for one in await coordinator.transfers()]
        assert [None if error is None else error.code for error in errors] == [
            ErrorCode.TRANSFER_FAILED,
            ErrorCode.NODE_LOST,
        ]

    play(tmp_path, scenario, copy_wait_s=120.0, dead_after_s=1000.0, suspect_after_s=900.0)


def test_a_sender_of_rubbish_is_given_up_and_one_of_wrong_bytes_never_asked_again(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        for name in ("attic", "barn"):
            node(coordinator, clock, name, file())
        cellar = node(coordinator, clock, "cellar")
        begun = await coordinator.copy_model("m", to="cellar")
        flow, running = coordinator.transfers_under_way.flow, job(coordinator, begun)
        flow.opened(await order(cellar, "fetch"), 0)
        assert running.source is not None
        first = running.source
        first.unverified_bytes = UNVERIFIED_BYTES + 1
        coordinator.transfers_under_way.sweep()
        assert first.given_up.is_set()
        second = running.source
        assert second is not None
        assert second.node_id != first.node_id
        running.on_verified(PIECE_BYTES)
        flow.rejected(running, PIECE_BYTES, ModelDamaged("wrong"))
        assert running.wrong == {second.node_id}
        assert running.source is not None
        assert running.source.node_id == first.node_id, "it sent nothing wrong"
        flow.rejected(running, PIECE_BYTES, ModelDamaged("wrong"))
        coordinator.transfers_under_way.sweep()
        (transfer,) = await coordinator.transfers()
        assert transfer.state is TransferState.FAILED
        assert transfer.error is not None
        assert "attic sent wrong bytes" in transfer.error.message
        assert "barn sent wrong bytes" in transfer.error.message

    play(tmp_path, scenario)


def test_when_one_of_several_lied_nobody_is_blamed_and_all_comes_from_one(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        for name in ("attic", "barn"):
            node(coordinator, clock, name, file())
        cellar = node(coordinator, clock, "cellar")
        begun = await coordinator.copy_model("m", to="cellar")
        flow, running = coordinator.transfers_under_way.flow, job(coordinator, begun)
        flow.opened(await order(cellar, "fetch"), 0)
        first = running.source
        assert first is not None
        running.on_verified(PIECE_BYTES)
        flow.source_gone(running, first, None)
        second = running.source
        assert second is not None
        running.on_verified(SIZE)
        flow.rejected(running, 0, ModelDamaged("the whole is wrong"))
        assert running.wrong == set()
        third = running.source
        assert third is not None
        running.on_verified(SIZE)
        flow.rejected(running, 0, ModelDamaged("the whole is wrong"))
        assert running.wrong == {third.node_id}, "all of it was from this one"

    play(tmp_path, scenario)


def test_a_sender_that_leaves_is_waited_for_when_nobody_else_has_the_file(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node(coordinator, clock, "attic", file())
        cellar = node(coordinator, clock, "cellar")
        begun = await coordinator.copy_model("m", to="cellar")
        running = job(coordinator, begun)
        coordinator.transfers_under_way.flow.opened(await order(cellar, "fetch"), 0)
        attic.lose()
        coordinator.transfers_under_way.sweep()
        assert running.source is None
        assert not running.is_over
        back = FakeNode(coordinator, clock, "attic", hello=attic.hello)
        coordinator.transfers_under_way.sweep()
        assert running.source is not None
        assert (await back.next("send")).send.offset == 0

    play(tmp_path, scenario)


def test_a_receiver_whose_network_breaks_again_and_again_is_not_blamed_on_the_sender(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", file())
        node(coordinator, clock, "cellar")
        transfers = coordinator.transfers_under_way
        running = job(coordinator, transfers.copy("m", to="cellar"))
        for _ in range(4):
            transfers.flow.opened(running.receive_ticket, 0)
            assert running.source is not None, "somebody is asked again"
            _, source = transfers.flow.opened(running.source.ticket, 0)
            assert source is not None
            broken = asyncio.Event()

            async def words(broken: asyncio.Event = broken) -> AsyncIterator[node_pb2.TransferFrame]:
                await broken.wait()
                return
                yield node_pb2.TransferFrame()

            async def chunks() -> AsyncIterator[node_pb2.TransferFrame]:
                for number in count():
                    chunk = node_pb2.TransferChunk(offset=number * 1024, content=bytes(1024))
                    yield node_pb2.TransferFrame(chunk=chunk)

            sending = asyncio.create_task(from_sender(chunks(), transfers.flow, running, source))
            received = to_receiver(words(), transfers.flow, running)
            await anext(received)
            broken.set()  # with a full relay, because nothing takes the next chunk
            async with asyncio.timeout(5):
                await sending
            await received.aclose()
        assert not running.failures

    play(tmp_path, scenario)


def test_transfers_are_bounded_both_running_and_remembered(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "cellar")
        for number in range(KEPT_LIMIT + 10):
            begun = await coordinator.pull_model(f"m{number}")
            await coordinator.cancel_transfer(begun.transfer_id)
        assert len(await coordinator.transfers()) <= KEPT_LIMIT + 1
        for number in range(RUNNING_LIMIT):
            await coordinator.pull_model(f"n{number}")
        with pytest.raises(QueueFull):
            await coordinator.pull_model("one-more")

    play(tmp_path, scenario)


def test_a_cancelled_transfer_is_cancelled_once_and_its_node_told(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        cellar = node(coordinator, clock, "cellar")
        begun = await coordinator.pull_model("m")
        for _ in range(2):
            assert (await coordinator.cancel_transfer(begun.transfer_id)).state is TransferState.CANCELLED
        assert (await cellar.next("cancel_fetch")).cancel_fetch.transfer_id == begun.transfer_id
        late = FetchReport(transfer_id=begun.transfer_id, state=TransferState.DONE)
        coordinator.fetch_reported(cellar.record, late)
        assert (await coordinator.transfers())[0].state is TransferState.CANCELLED
        assert NodeId(begun.node_id) == cellar.node_id

    play(tmp_path, scenario)
