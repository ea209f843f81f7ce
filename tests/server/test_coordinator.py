"""What a coordinator remembers, saves, drains, and decides when a node has no memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_proto.errors import Draining, ErrorCode, InsufficientStorage
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, Footprint, NodeState, ReplicaReport, ReplicaState
from chorus_server.coordinator import Coordinator
from chorus_server.store import Store
from tests.server.test_dispatch import call_for, play, text_of
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode, hello_of


def test_what_was_learnt_survives_a_restart(tmp_path: Path) -> None:
    async def first(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        node.finish((await node.next_execute()).execution_id)
        await answer
        await coordinator.save()

    async def second(coordinator: Coordinator, clock: FakeClock) -> None:
        await coordinator.remember()
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        state = await coordinator.state()
        assert state.epoch == 2
        assert state.nodes[0].replicas[0].decode_tokens_per_s == pytest.approx(100, rel=0.02)

    play(tmp_path, first)
    play(tmp_path, second)


def test_what_a_load_took_is_shown_when_the_model_is_gone_and_after_a_restart(tmp_path: Path) -> None:
    async def first(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.report(ReplicaState.LOADING, expected_bytes=1)
        node.ready(
            slots=4,
            arithmetic="needs 110",
            context_tokens=2048,
            predicted_bytes=90,
            expected_bytes=110,
            resident_bytes=100,
            load_s=1.5,
        )
        node.report(ReplicaState.GONE)
        await coordinator.save()
        assert (await coordinator.state()).nodes[0].footprints == (footprint,)

    async def second(coordinator: Coordinator, clock: FakeClock) -> None:
        await coordinator.remember()
        FakeNode(coordinator, clock, "attic")
        assert (await coordinator.state()).nodes[0].footprints == (footprint,)

    footprint = Footprint(
        model=ModelName("scripted"),
        engine=EngineKind.SCRIPTED,
        slots=4,
        arithmetic="needs 110",
        context_tokens=2048,
        predicted_bytes=90,
        expected_bytes=110,
        resident_bytes=100,
        load_s=1.5,
    )
    play(tmp_path, first)
    play(tmp_path, second)


def test_what_could_not_be_saved_is_saved_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.save_node

    async def full(*_: object, **__: object) -> None:
        raise InsufficientStorage("the disk is full")

    async def first(coordinator: Coordinator, clock: FakeClock) -> None:
        FakeNode(coordinator, clock, "attic").ready()
        monkeypatch.setattr(Store, "save_node", full)
        await coordinator.save()
        monkeypatch.setattr(Store, "save_node", real)
        await coordinator.save()

    play(tmp_path, first)
    store = Store.open(tmp_path / "state.sqlite")
    try:
        assert [node.name for node in asyncio.run(store.nodes())] == ["attic"]
    finally:
        store.close()


def test_a_drain_lets_running_requests_finish_and_takes_nothing_new(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await node.next_execute()
        draining: Awaitable[None] = asyncio.create_task(coordinator.drain())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await text_of(coordinator.submit(call_for()))
        with pytest.raises(Draining):
            FakeNode(coordinator, clock, "cellar")
        node.finish(order.execution_id, "done")
        assert await answer == "done"
        await draining
        assert (await node.next("goodbye")).goodbye.reason

    play(tmp_path, scenario)


def test_a_model_that_did_not_fit_a_node_is_not_ordered_there_until_somebody_asks(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        hello = hello_of("attic", models=("big", "small"))
        node = FakeNode(coordinator, clock, "attic", hello=hello)
        first = (await node.next("load")).load.model
        report = ReplicaReport(
            model=ModelName(first), state=ReplicaState.FAILED, failure_code=ErrorCode.INSUFFICIENT_MEMORY
        )
        coordinator.replica_reported(node.record, report)
        second = (await node.next("load")).load.model
        assert {first, second} == {"big", "small"}
        coordinator.replica_reported(node.record, replace(report, model=ModelName(second)))
        assert (await coordinator.state()).nodes[0].assigned_model is None
        await coordinator.reassign()
        assert (await coordinator.state()).nodes[0].assigned_model == first

    play(tmp_path, scenario)


def test_a_pc_set_up_anew_under_its_old_name_is_the_one_that_is_meant(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        old = FakeNode(coordinator, clock, "attic")
        coordinator.said_goodbye(old.record, "reinstalled")
        new = FakeNode(
            coordinator,
            clock,
            "attic",
            hello=hello_of("attic", node_id="00000000-0000-4000-8000-00000000000a"),
        )
        new.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for(node="attic"))))
        new.finish((await new.next_execute()).execution_id, "new")
        assert await answer == "new"
        states = {node.node_id: node.state for node in (await coordinator.state()).nodes}
        assert states[old.node_id] is NodeState.DEAD

    play(tmp_path, scenario)
