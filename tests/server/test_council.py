"""Asking several nodes: late and failed members are named, never fatal."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from chorus_proto.cluster import Ask, AskEvent, AskFinished, MemberDelta, MemberStarted
from chorus_proto.errors import EngineFailed, ErrorCode, NoAnswer, NodeNotFound, NoReplica
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import new_request_id
from chorus_proto.values import AggregateStrategy
from chorus_server.coordinator import Coordinator
from tests.server.test_dispatch import play
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode


def ask_for(
    *,
    nodes: tuple[str, ...] = (),
    within_s: float = 10.0,
    quorum: int | None = None,
    strategy: AggregateStrategy = AggregateStrategy.VOTE,
) -> Ask:
    return Ask(
        request_id=new_request_id(),
        generation=Generation(messages=(Message("user", "Hi"),)).encoded(),
        prompt_tokens_estimate=1,
        within_s=within_s,
        nodes=nodes,
        quorum=quorum,
        strategy=strategy,
    )


async def events_of(coordinator: Coordinator, ask: Ask) -> list[AskEvent]:
    async with aclosing(coordinator.ask(ask)) as events:
        return [event async for event in events]


async def answer(node: FakeNode, text: str) -> None:
    order = await node.next_execute()
    node.say(order.execution_id, text)
    node.finish(order.execution_id)


def last(events: list[AskEvent]) -> AskFinished:
    finished = events[-1]
    assert isinstance(finished, AskFinished)
    return finished


def test_every_node_is_asked_and_the_majority_wins(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [FakeNode(coordinator, clock, name) for name in ("a", "b", "c")]
        for node in nodes:
            node.ready()
        asking = asyncio.create_task(events_of(coordinator, ask_for()))
        await asyncio.gather(*(answer(n, t) for n, t in zip(nodes, ("Paris.", "Rome", "paris"), strict=True)))
        events = await asking
        assert {event.node_name for event in events if isinstance(event, MemberStarted)} == {"a", "b", "c"}
        assert b"Rome" in [event.text for event in events if isinstance(event, MemberDelta)]
        assert last(events).text.strip(".").lower() == "paris"
        assert last(events).agreement == pytest.approx(2 / 3)

    play(tmp_path, scenario)


def test_a_failed_and_a_late_member_are_named(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        good, broken, late = (FakeNode(coordinator, clock, name) for name in ("good", "broken", "late"))
        for node in (good, broken, late):
            node.ready()
        asking = asyncio.create_task(events_of(coordinator, ask_for(within_s=0.3)))
        await answer(good, "Paris")
        broken.fail((await broken.next_execute()).execution_id, EngineFailed("out of coffee"))
        await late.next_execute()
        finished = last(await asking)
        assert finished.text == "Paris"
        codes = {member.node_name: member.error.code if member.error else None for member in finished.members}
        assert codes["good"] is None
        assert codes["broken"] is ErrorCode.ENGINE_FAILED
        assert codes["late"] is ErrorCode.DEADLINE_EXCEEDED
        await late.next("cancel")

    play(tmp_path, scenario)


def test_nobody_answering_is_one_error_with_every_reason(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        asking = asyncio.create_task(events_of(coordinator, ask_for()))
        node.fail((await node.next_execute()).execution_id, EngineFailed("out of coffee"))
        with pytest.raises(NoAnswer, match=r"attic.*out of coffee"):
            await asking

    play(tmp_path, scenario)


def test_a_quorum_ends_the_wait_and_cancels_the_rest(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        quick, slow = FakeNode(coordinator, clock, "quick"), FakeNode(coordinator, clock, "slow")
        quick.ready()
        slow.ready()
        asking = asyncio.create_task(events_of(coordinator, ask_for(quorum=1)))
        await slow.next_execute()
        await answer(quick, "Paris")
        finished = last(await asking)
        assert [member.node_name for member in finished.members if member.error is None] == ["quick"]
        await slow.next("cancel")

    play(tmp_path, scenario)


def test_only_the_nodes_named_are_asked_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic, cellar = FakeNode(coordinator, clock, "attic"), FakeNode(coordinator, clock, "cellar")
        attic.ready()
        cellar.ready()
        asking = asyncio.create_task(events_of(coordinator, ask_for(nodes=("cellar",))))
        await answer(cellar, "Paris")
        assert [member.node_name for member in last(await asking).members] == ["cellar"]
        with pytest.raises(NodeNotFound, match="garage"):
            await events_of(coordinator, ask_for(nodes=("garage",)))

    play(tmp_path, scenario)


def test_asking_when_nothing_is_loaded_says_so(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        FakeNode(coordinator, clock, "attic")
        with pytest.raises(NoReplica):
            await events_of(coordinator, ask_for())

    play(tmp_path, scenario)


def test_a_node_that_is_away_is_named_at_once_and_holds_up_nobody(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        here, away = FakeNode(coordinator, clock, "here"), FakeNode(coordinator, clock, "away")
        here.ready()
        away.ready()
        away.lose()
        asking = asyncio.create_task(events_of(coordinator, ask_for(within_s=600)))
        await answer(here, "Paris")
        codes = {member.node_name: member.error and member.error.code for member in last(await asking).members}
        assert codes == {"here": None, "away": ErrorCode.NODE_LOST}

    play(tmp_path, scenario)


def test_a_member_lost_on_its_way_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        here, away = FakeNode(coordinator, clock, "here"), FakeNode(coordinator, clock, "away")
        here.ready()
        away.ready()
        asking = asyncio.create_task(events_of(coordinator, ask_for(within_s=600)))
        await away.next_execute()
        away.lose()
        await answer(here, "Paris")
        codes = {member.node_name: member.error and member.error.code for member in last(await asking).members}
        assert codes == {"here": None, "away": ErrorCode.NODE_LOST}

    play(tmp_path, scenario)


def test_a_node_named_twice_is_asked_once(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        asking = asyncio.create_task(events_of(coordinator, ask_for(nodes=("attic", node.node_id), within_s=600)))
        await answer(node, "Paris")
        assert [member.node_name for member in last(await asking).members] == ["attic"]

    play(tmp_path, scenario)
