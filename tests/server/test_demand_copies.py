"""A model that fits on no node that has it is brought to one where it fits, for those who wait for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_proto import node_pb2
from chorus_proto.errors import InsufficientMemory, InsufficientStorage, LoadFailed
from chorus_proto.ids import ModelName
from chorus_proto.transfers import FEATURE, FOLDER_FEATURE, FetchReport, TransferState
from chorus_proto.values import EngineKind, ModelFile, ReplicaState
from chorus_server.coordinator import Coordinator
from tests.server.test_dispatch import call_for, play, text_of
from tests.support.clock import FakeClock
from tests.support.fake_node import STRONG, FakeNode, hello_of

GB = 10**9
DIGEST = "ab" * 32
BIG = ModelFile(name=ModelName("big"), file_bytes=20 * GB, engine=EngineKind.LLAMA_SERVER, digest=DIGEST)


def node(
    coordinator: Coordinator,
    clock: FakeClock,
    name: str,
    *models: ModelFile,
    ram_gb: float,
    features: tuple[str, ...] = (FEATURE,),
    engines: tuple[EngineKind, ...] = (EngineKind.LLAMA_SERVER,),
) -> FakeNode:
    hardware = replace(STRONG, ram_bytes=round(ram_gb * GB), ram_available_bytes=round(ram_gb * GB), gpus=())
    hello = hello_of(name, models=models, hardware=hardware)
    hello = replace(hello, features=features, engines=engines)
    return FakeNode(coordinator, clock, name, hello=hello)


def asking(coordinator: Coordinator, **more: object) -> asyncio.Task[str]:
    return asyncio.create_task(text_of(coordinator.submit(call_for("big", **more))))  # pyright: ignore[reportArgumentType]  # by name


async def fetch_order(of: FakeNode) -> node_pb2.FetchModel:
    async with asyncio.timeout(5):
        return (await of.next("fetch")).fetch


async def fetched(coordinator: Coordinator) -> list[str]:
    """Which nodes were told to fetch, once the coordinator is at rest."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [one.node_name for one in await coordinator.transfers()]


def test_a_model_that_fits_nowhere_it_lies_comes_to_a_node_with_room_and_serves(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", BIG, ram_gb=8)
        cellar = node(coordinator, clock, "cellar", ram_gb=64)
        answers = [asking(coordinator) for _ in range(3)]
        order = await fetch_order(cellar)
        assert (order.model, order.digest, order.file_bytes, order.source) == ("big", DIGEST, 20 * GB, "")
        (transfer,) = await coordinator.transfers()
        assert transfer.on_demand
        coordinator.inventory_reported(cellar.record, [BIG])
        done = FetchReport(transfer_id=order.transfer_id, state=TransferState.DONE, digest=DIGEST)
        coordinator.fetch_reported(cellar.record, done)
        assert [words.split(" for")[0] for words in await cellar.ordered()] == ["load big"]
        cellar.ready(model="big", slots=4, engine=EngineKind.LLAMA_SERVER)
        for _ in answers:
            cellar.finish((await cellar.next_execute()).execution_id, "served")
        assert await asyncio.gather(*answers) == ["served"] * 3

    play(tmp_path, scenario)


def test_a_folder_comes_only_to_a_node_that_can_use_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        folder = replace(BIG, engine=EngineKind.TRANSFORMERS, copy_digest=DIGEST, copy_bytes=21 * GB)
        both, features = (EngineKind.LLAMA_SERVER, EngineKind.TRANSFORMERS), (FEATURE, FOLDER_FEATURE)
        node(coordinator, clock, "attic", folder, ram_gb=8, features=features, engines=both)
        node(coordinator, clock, "barn", ram_gb=128, features=features)
        node(coordinator, clock, "old", ram_gb=128, engines=both)
        cellar = node(coordinator, clock, "cellar", ram_gb=64, features=features, engines=both)
        answer = asking(coordinator)
        order = await fetch_order(cellar)
        assert (order.folder, order.file_bytes) == (True, 21 * GB)
        answer.cancel()

    play(tmp_path, scenario)


def test_who_gives_up_meanwhile_hears_how_far_the_copy_is(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", BIG, ram_gb=8)
        cellar = node(coordinator, clock, "cellar", ram_gb=64)
        answer = asking(coordinator, queue_within_s=0.2)
        await fetch_order(cellar)
        with pytest.raises(Exception, match="cellar gets it: 0%"):
            await answer

    play(tmp_path, scenario)


def test_a_copy_that_fails_is_told_to_those_who_wait_and_not_tried_again_for_a_while(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", BIG, ram_gb=8)
        cellar = node(coordinator, clock, "cellar", ram_gb=64)
        answer = asking(coordinator)
        order = await fetch_order(cellar)
        full = FetchReport(
            transfer_id=order.transfer_id, state=TransferState.FAILED, error=InsufficientStorage("no room on the disk")
        )
        coordinator.fetch_reported(cellar.record, full)
        with pytest.raises(InsufficientStorage, match="cellar could not get a copy: no room on the disk"):
            await answer
        with pytest.raises(InsufficientStorage):
            await asking(coordinator)
        assert await fetched(coordinator) == ["cellar"]
        clock.advance(601)
        for one in coordinator._registry.records():  # pyright: ignore[reportPrivateUsage]  # both were heard of again
            one.beat_at_s = clock.monotonic_s()
        again = asking(coordinator)
        await fetch_order(cellar)
        assert await fetched(coordinator) == ["cellar", "cellar"]
        again.cancel()

    play(tmp_path, scenario)


def test_nothing_is_copied_where_it_would_not_fit_or_cannot_be_taken(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", BIG, ram_gb=8)
        node(coordinator, clock, "shed", ram_gb=16)
        node(coordinator, clock, "old", ram_gb=64, features=())
        with pytest.raises(InsufficientMemory):
            await asking(coordinator)
        assert await fetched(coordinator) == []

    play(tmp_path, scenario)


def test_copies_on_demand_can_be_forbidden(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node(coordinator, clock, "attic", BIG, ram_gb=8)
        node(coordinator, clock, "cellar", ram_gb=64)
        with pytest.raises(InsufficientMemory):
            await asking(coordinator)
        assert await fetched(coordinator) == []

    play(tmp_path, scenario, copy_on_demand=False)


def test_a_model_that_breaks_its_engine_is_not_carried_to_the_next_node(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node(coordinator, clock, "attic", BIG, ram_gb=64)
        node(coordinator, clock, "cellar", ram_gb=64)
        answer = asking(coordinator)
        await attic.ordered()
        attic.report(
            ReplicaState.FAILED, model="big", detail="bad tensor", failure_code="load_failed", keep_alive_s=300
        )
        with pytest.raises(LoadFailed, match="bad tensor"):
            await answer
        assert await fetched(coordinator) == []

    play(tmp_path, scenario)
