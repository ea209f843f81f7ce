"""A model that is loaded nowhere is loaded for those who wait for it: once, where it fits, and said so when nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_proto.cluster import AskFinished, CallWaiting
from chorus_proto.errors import (
    CrashLoop,
    EngineFailed,
    ErrorCode,
    InsufficientMemory,
    LoadFailed,
    ModelDamaged,
    NodeLost,
    NoReplica,
    QueueTimeout,
)
from chorus_proto.ids import ModelName
from chorus_proto.load_time import expected_load_s, load_left_s
from chorus_proto.values import ReplicaReport, ReplicaState
from chorus_server.coordinator import Coordinator
from chorus_server.events import Event, LoadDemanded
from tests.server.test_council import ask_for, events_of
from tests.server.test_dispatch import call_for, play, text_of
from tests.support.clock import FakeClock
from tests.support.fake_node import STRONG, FakeNode, file_of, hello_of
from tests.support.played_agent import PlayedAgent

GB = 10**9
HOME, GUEST = "home", "guest"


def node_with(
    coordinator: Coordinator,
    clock: FakeClock,
    name: str = "attic",
    *,
    ram_gb: float = 64,
    guest_gb: float = 2,
    node_id: str | None = None,
    replicas: Sequence[ReplicaReport] = (),
) -> FakeNode:
    """A node that is assigned `home`; `guest` lies on its disk."""
    hardware = replace(STRONG, ram_bytes=round(ram_gb * GB), ram_available_bytes=round(ram_gb * GB))
    models = [file_of(HOME, GB), file_of(GUEST, round(guest_gb * GB), embedding=True)]
    hello = hello_of(name, models=models, hardware=hardware, node_id=node_id, replicas=replicas)
    node = FakeNode(coordinator, clock, name, hello=hello)
    assert node.record.assigned == HOME
    # Placement takes no embedding model, so `home` was chosen; requests may ask for it from now on.
    coordinator._registry.inventory(node.record, [replace(file, embedding=False) for file in models])  # pyright: ignore[reportPrivateUsage]  # without the placement that a report would start
    return node


async def home_is_ready(node: FakeNode) -> None:
    assert await node.ordered() == ["load home"]
    node.ready(model=HOME, resident_bytes=GB)


def asking(coordinator: Coordinator, model: str = GUEST, **more: object) -> asyncio.Task[str]:
    call = call_for(model, **more)  # pyright: ignore[reportArgumentType]  # names checked by call_for
    return asyncio.create_task(text_of(coordinator.submit(call)))


async def serve(node: FakeNode, text: str = "served") -> None:
    node.finish((await node.next_execute()).execution_id, text)


async def sweep(coordinator: Coordinator) -> None:
    """What `Coordinator.run` does four times a second."""
    coordinator._sweep()  # pyright: ignore[reportPrivateUsage]  # its task would wait on the real clock
    for _ in range(3):
        await asyncio.sleep(0)


def test_ten_callers_wait_for_one_load_on_demand_and_are_served(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        told: list[Event] = []
        coordinator.events.subscribe(told.append)
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        answers = [asking(coordinator) for _ in range(10)]
        assert await node.ordered() == ["load guest for 300 s"]
        await sweep(coordinator)
        node.report(ReplicaState.LOADING, model=GUEST, keep_alive_s=300)
        answers.append(asking(coordinator))
        assert await node.ordered() == []
        node.ready(model=GUEST, slots=16, keep_alive_s=300)
        for _ in answers:
            await serve(node)
        assert await asyncio.gather(*answers) == ["served"] * 11
        assert await node.ordered() == []
        demanded = [event for event in told if isinstance(event, LoadDemanded)]
        assert [(event.node_name, event.model) for event in demanded] == [("attic", "guest")]
        assert b'chorus_demanded_loads_total{model="guest",node="attic"} 1.0' in await coordinator.metrics()

    play(tmp_path, scenario)


def test_a_caller_who_will_not_wait_makes_nothing_load(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        with pytest.raises(NoReplica, match="guest is not loaded, and this request may not wait"):
            await asking(coordinator, queue_within_s=0)
        assert await node.ordered() == []

    play(tmp_path, scenario)


def test_the_agents_arithmetic_is_the_refusal_and_a_smaller_ready_model_the_proposal(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        answers = [asking(coordinator) for _ in range(3)]
        assert await node.ordered() == ["load guest for 300 s"]
        node.report(
            ReplicaState.FAILED,
            model=GUEST,
            detail="guest needs 9.8 GB = 7.1 weights + 2.0 KV at 16k + 0.7 buffers; free 8.6; fits at 8k",
            failure_code=ErrorCode.INSUFFICIENT_MEMORY,
        )
        for answer in answers:
            with pytest.raises(InsufficientMemory, match=r"attic.*7\.1 weights.*free 8\.6.*home is smaller and ready"):
                await answer
        with pytest.raises(InsufficientMemory) as caught:
            await asking(coordinator)
        assert caught.value.retry_after_s
        assert node.record.assigned == HOME
        assert await node.ordered() == []

    play(tmp_path, scenario)


def test_what_is_larger_than_every_memory_is_refused_without_asking_an_agent(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node_with(coordinator, clock, name, ram_gb=8, guest_gb=40) for name in ("attic", "cellar")]
        for node in nodes:
            await home_is_ready(node)
        with pytest.raises(InsufficientMemory, match=r"attic needs 48\.0 GB.*it has 8\.0 GB in all; cellar needs"):
            await asking(coordinator)
        assert [await node.ordered() for node in nodes] == [[], []]

    play(tmp_path, scenario)


def test_a_load_that_fails_on_one_node_is_tried_on_the_next_and_then_explained(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node_with(coordinator, clock, name) for name in ("attic", "cellar")]
        for node in nodes:
            await home_is_ready(node)
        first = asking(coordinator)
        orders = [await node.ordered() for node in nodes]
        assert sorted(orders) == [[], ["load guest for 300 s"]]
        one, other = nodes if orders[0] else reversed(nodes)
        one.report(ReplicaState.FAILED, model=GUEST, failure_code=ErrorCode.LOAD_FAILED, detail="bad magic")
        assert await other.ordered() == ["load guest for 300 s"]
        other.ready(model=GUEST, keep_alive_s=300)
        await serve(other)
        assert await first == "served"
        other.report(ReplicaState.FAILED, model=GUEST, failure_code=ErrorCode.CRASH_LOOP, detail="SIGSEGV")
        with pytest.raises(LoadFailed, match=rf"{one.record.name} could not load it: bad magic") as caught:
            await asking(coordinator)
        assert f"{other.record.name} ended again and again: SIGSEGV" in caught.value.message
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s <= 2
        clock.advance(2)
        third = asking(coordinator)
        assert await one.ordered() == ["load guest for 300 s"]
        third.cancel()

    play(tmp_path, scenario)


@pytest.mark.parametrize(("code", "kind"), [(ErrorCode.CRASH_LOOP, CrashLoop), (ErrorCode.MODEL_DAMAGED, ModelDamaged)])
def test_what_an_agent_gave_up_is_ordered_again_only_when_somebody_asks(
    tmp_path: Path, code: ErrorCode, kind: type[Exception]
) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        first = asking(coordinator)
        assert await node.ordered() == ["load guest for 300 s"]
        node.report(ReplicaState.FAILED, model=GUEST, failure_code=code, detail="last words")
        with pytest.raises(kind, match=r"attic.*last words"):
            await first
        clock.advance(3)
        node.beat()
        with pytest.raises(kind):
            await asking(coordinator)
        assert await node.ordered() == []
        await coordinator.reassign()
        second = asking(coordinator)
        assert "load guest for 300 s again" in await node.ordered()
        second.cancel()

    play(tmp_path, scenario)


def test_a_model_with_a_damaged_file_is_not_placed_there_until_somebody_asks(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        hello = hello_of("attic", models=("big", "small"))
        node = FakeNode(coordinator, clock, "attic", hello=hello)
        (order,) = await node.ordered()
        first = order.removeprefix("load ")
        node.report(ReplicaState.FAILED, model=first, failure_code=ErrorCode.MODEL_DAMAGED, detail="sha256")
        assert await node.ordered() == [f"load {'small' if first == 'big' else 'big'}"]

    play(tmp_path, scenario)


def test_what_the_owner_of_a_pc_starts_is_not_loaded_for_anybody(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic", hello=hello_of("attic", models=[file_of("mine", 1, owners=True)]))
        with pytest.raises(NoReplica, match="attic leaves it to its owner"):
            await asking(coordinator, "mine")
        assert await node.ordered() == []

    play(tmp_path, scenario)


def test_an_order_to_a_node_that_dies_is_given_to_another_node(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node_with(coordinator, clock, name) for name in ("attic", "cellar")]
        for node in nodes:
            await home_is_ready(node)
        answer = asking(coordinator)
        orders = [await node.ordered() for node in nodes]
        one, other = nodes if orders[0] else reversed(nodes)
        one.report(ReplicaState.LOADING, model=GUEST, keep_alive_s=300)
        one.lose()
        await sweep(coordinator)
        assert await other.ordered() == [], "most nodes are back at once"
        clock.advance(2.9)
        other.beat()
        clock.advance(0.2)
        await sweep(coordinator)
        assert await other.ordered() == ["load guest for 300 s"]
        other.ready(model=GUEST, keep_alive_s=300)
        await serve(other)
        assert await answer == "served"

    play(tmp_path, scenario)


def test_the_last_node_is_waited_for_while_its_lease_runs_and_then_named(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        anywhere, there = asking(coordinator), asking(coordinator, node="attic")
        await node.ordered()
        node.lose()
        clock.advance(9)
        await sweep(coordinator)
        assert not anywhere.done()
        clock.advance(2)
        await sweep(coordinator)
        with pytest.raises(NoReplica, match="no node that is here has model guest"):
            await anywhere
        with pytest.raises(NoReplica, match="attic is dead"):
            await there

    play(tmp_path, scenario)


def test_a_node_that_comes_back_is_told_again_and_once(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        answer = asking(coordinator)
        assert await node.ordered() == ["load guest for 300 s"]
        node.lose()
        ready = ReplicaReport(model=ModelName(HOME), state=ReplicaState.READY)
        back = node_with(coordinator, clock, replicas=[ready])
        assert await back.ordered() == ["load guest for 300 s"]
        back.report(ReplicaState.LOADING, model=GUEST, keep_alive_s=300)
        back.lose()
        loading = ReplicaReport(model=ModelName(GUEST), state=ReplicaState.LOADING, keep_alive_s=300)
        again = node_with(coordinator, clock, replicas=[ready, loading])
        assert await again.ordered() == []
        again.ready(model=GUEST, keep_alive_s=300)
        await serve(again)
        assert await answer == "served"

    play(tmp_path, scenario)


def test_a_model_on_its_way_out_is_ordered_once_it_is_gone(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        node.ready(model=GUEST, keep_alive_s=300)
        node.report(ReplicaState.UNLOADING, model=GUEST, keep_alive_s=300)
        answer = asking(coordinator)
        await sweep(coordinator)
        assert await node.ordered() == []
        node.report(ReplicaState.GONE, model=GUEST)
        assert await node.ordered() == ["load guest for 300 s"]
        answer.cancel()

    play(tmp_path, scenario)


def test_callers_bound_to_nodes_get_a_load_each_and_the_others_none_of_their_own(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node_with(coordinator, clock, name) for name in ("attic", "barn", "cellar")]
        for node in nodes:
            await home_is_ready(node)
        ask = replace(ask_for(nodes=("attic", "cellar")), model=ModelName(GUEST))
        council = asyncio.create_task(events_of(coordinator, ask))
        assert [await node.ordered() for node in nodes] == [["load guest for 300 s"], [], ["load guest for 300 s"]]
        anybody = [asking(coordinator) for _ in range(3)]
        assert [await node.ordered() for node in nodes] == [[], [], []]

        async def serve_all(node: FakeNode) -> None:
            while True:
                await serve(node)

        serving = [asyncio.create_task(serve_all(node)) for node in nodes]
        for node in (nodes[0], nodes[2]):
            node.ready(model=GUEST, slots=8, keep_alive_s=300)
        await asyncio.gather(*anybody)
        finished = (await council)[-1]
        assert isinstance(finished, AskFinished)
        assert [member.error for member in finished.members] == [None, None]
        for task in serving:
            task.cancel()

    play(tmp_path, scenario)


def test_a_question_to_all_who_have_a_model_that_nobody_has_loaded_makes_one_node_load_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node_with(coordinator, clock, name) for name in ("attic", "cellar")]
        for node in nodes:
            await home_is_ready(node)
        ask = replace(ask_for(), model=ModelName(GUEST))
        first = asyncio.create_task(events_of(coordinator, ask))
        orders = [await node.ordered() for node in nodes]
        assert sorted(orders) == [[], ["load guest for 300 s"]]
        one = nodes[0] if orders[0] else nodes[1]
        one.report(ReplicaState.LOADING, model=GUEST, keep_alive_s=300)
        second = asyncio.create_task(events_of(coordinator, ask))
        assert [await node.ordered() for node in nodes] == [[], []]
        one.ready(model=GUEST, slots=2, keep_alive_s=300)
        for _ in range(2):
            await serve(one)
        for council in (first, second):
            finished = (await council)[-1]
            assert isinstance(finished, AskFinished)
            assert [member.node_name for member in finished.members] == [one.record.name]

    play(tmp_path, scenario)


def test_a_displaced_assigned_model_comes_back_when_the_warm_copy_is_gone(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        answer = asking(coordinator)
        assert await node.ordered() == ["load guest for 300 s"]
        node.report(ReplicaState.LOADING, model=GUEST, keep_alive_s=300)
        node.report(ReplicaState.UNLOADING, model=HOME)
        node.report(ReplicaState.GONE, model=HOME, evicted_for=ModelName(GUEST))
        node.ready(model=GUEST, keep_alive_s=300)
        await serve(node)
        await answer
        assert await node.ordered() == []
        node.report(ReplicaState.GONE, model=GUEST)
        assert await node.ordered() == ["load home"]

    play(tmp_path, scenario)


def test_a_displaced_assigned_model_is_loaded_back_to_stay_when_somebody_waits_for_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        node.ready(model=GUEST, keep_alive_s=300)
        node.report(ReplicaState.GONE, model=HOME, evicted_for=ModelName(GUEST))
        assert await node.ordered() == []
        answer = asking(coordinator, HOME)
        assert await node.ordered() == ["load home"]
        node.report(ReplicaState.LOADING, model=HOME)
        node.report(ReplicaState.GONE, model=GUEST, evicted_for=ModelName(HOME))
        node.ready(model=HOME)
        await serve(node)
        assert await answer == "served"
        assert await node.ordered() == []

    play(tmp_path, scenario)


def test_a_new_coordinator_leaves_warm_copies_and_what_they_displaced_alone(tmp_path: Path) -> None:
    async def before(coordinator: Coordinator, clock: FakeClock) -> None:
        node_with(coordinator, clock)
        await coordinator.save()

    async def after(coordinator: Coordinator, clock: FakeClock) -> None:
        await coordinator.remember()
        warm = ReplicaReport(model=ModelName(GUEST), state=ReplicaState.READY, keep_alive_s=300, slots=1)
        node = node_with(coordinator, clock, replicas=[warm])
        assert await node.ordered() == []
        answer = asking(coordinator)
        await serve(node)
        assert await answer == "served"
        node.report(ReplicaState.GONE, model=GUEST)
        assert await node.ordered() == ["load home"]

    play(tmp_path, before)
    play(tmp_path, after)


def test_who_waited_for_a_load_in_vain_hears_how_far_it_is(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        answer = asking(coordinator, queue_within_s=0.05)
        await node.ordered()
        node.report(ReplicaState.LOADING, model=GUEST, detail="reading weights", progress=0.4, keep_alive_s=300)
        words = r"within 0\.05 s: attic loads it: 40%, reading weights, about \d+ s left"
        with pytest.raises(QueueTimeout, match=words) as late:
            await answer
        with pytest.raises(QueueTimeout, match="attic loads it: 40%") as at_once:
            await asking(coordinator, queue_within_s=0)
        expected_s = load_left_s(expected_load_s(2 * GB), 0.4)
        assert late.value.retry_after_s == at_once.value.retry_after_s == pytest.approx(expected_s)

    play(tmp_path, scenario)


def test_who_waits_for_a_load_hears_meanwhile_how_far_it_is(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        call = replace(call_for(GUEST), standing_every_s=0.01)
        async with aclosing(coordinator.submit(call)) as events:
            first = await anext(events)
            assert isinstance(first, CallWaiting)
            assert first.standing.going_on == "attic was told to load it and has not begun"
            await node.ordered()
            node.report(ReplicaState.LOADING, model=GUEST, detail="reading weights", progress=0.4, keep_alive_s=300)
            async for event in events:
                assert isinstance(event, CallWaiting)
                if event.standing.going_on.startswith("attic loads it: 40%, reading weights, about"):
                    assert event.standing.load_left_s == pytest.approx(load_left_s(expected_load_s(2 * GB), 0.4))
                    break

    play(tmp_path, scenario)


def test_a_request_survives_the_crash_of_its_engine_on_the_only_node(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        answer = asking(coordinator, HOME, within_s=600)
        order = await node.next_execute()
        # The attempt is heard of before the end of the engine.
        node.fail(order.execution_id, EngineFailed("the engine of home ended: signal 9"))
        await sweep(coordinator)
        assert not answer.done()
        node.report(ReplicaState.LOADING, model=HOME, detail="restarts", restarts=1)
        clock.advance(60)
        node.beat()
        await sweep(coordinator)
        assert not answer.done(), "it may wait for as long as any request may"
        node.ready(model=HOME, restarts=1)
        again = await node.next_execute()
        assert again.attempt == 2
        node.finish(again.execution_id, "served")
        assert await answer == "served"

    play(tmp_path, scenario)


def test_an_engine_that_only_refused_the_request_ends_it_with_its_reason(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        answer = asking(coordinator, HOME)
        order = await node.next_execute()
        node.fail(order.execution_id, EngineFailed("HTTP 500"))
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(1.1)
        await sweep(coordinator)
        with pytest.raises(EngineFailed, match="HTTP 500"):
            await answer

    play(tmp_path, scenario)


def test_a_request_moves_to_a_node_that_has_to_load_first(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node_with(coordinator, clock, name) for name in ("attic", "cellar")]
        for node in nodes:
            await home_is_ready(node)
        nodes[0].ready(model=GUEST, keep_alive_s=300)
        answer = asking(coordinator)
        await nodes[0].next_execute()
        nodes[0].lose()
        clock.advance(2)
        nodes[1].beat()
        clock.advance(2)
        await sweep(coordinator)
        assert await nodes[1].ordered() == ["load guest for 300 s"]
        clock.advance(20)
        nodes[1].beat()
        await sweep(coordinator)
        nodes[1].ready(model=GUEST, keep_alive_s=300)
        await serve(nodes[1])
        assert await answer == "served"

    play(tmp_path, scenario)


def test_a_request_whose_only_node_dies_waits_a_little_for_it_to_come_back(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = node_with(coordinator, clock)
        await home_is_ready(node)
        answer = asking(coordinator, HOME)
        await node.next_execute()
        node.lose()
        await asyncio.sleep(0)
        clock.advance(11)
        await sweep(coordinator)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not answer.done()
        clock.advance(2)
        await sweep(coordinator)
        with pytest.raises(NodeLost):
            await answer

    play(tmp_path, scenario)


async def lived(coordinator: Coordinator, clock: FakeClock, agent: PlayedAgent, *, seconds: float) -> None:
    """Let time pass, half a second at a time."""
    for _ in range(round(2 * seconds)):
        clock.advance(0.5)
        agent.tick()
        await sweep(coordinator)


def test_two_models_that_do_not_fit_together_are_served_one_after_the_other(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        sizes = {"one": 6 * GB, "two": 6 * GB}
        agent = PlayedAgent(coordinator, clock, "attic", sizes=sizes, memory_bytes=10 * GB)
        answers = [asking(coordinator, model) for model in sizes for _ in range(3)]
        await lived(coordinator, clock, agent, seconds=40)
        assert [answer.done() for answer in answers] == [True] * 6
        assert [answer.result() for answer in answers] == ["one"] * 3 + ["two"] * 3
        assert agent.most_bytes <= 10 * GB
        assert sorted(set(agent.orders)) == ["one", "two"]
        assert len(agent.orders) == 2, "each was loaded once"
        await lived(coordinator, clock, agent, seconds=400)
        (replica,) = (await coordinator.state()).nodes[0].replicas
        assert replica.report.model == agent.record.assigned, "the assigned one is back, the other one gone"
        assert replica.report.keep_alive_s is None
        agent.reader.cancel()

    play(tmp_path, scenario)


def test_endless_callers_of_one_model_do_not_starve_those_of_another_nor_make_it_thrash(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        sizes = {"one": 6 * GB, "two": 6 * GB}
        agent = PlayedAgent(coordinator, clock, "attic", sizes=sizes, memory_bytes=10 * GB)
        answers: dict[str, list[asyncio.Task[str]]] = {"one": [], "two": []}
        for _ in range(60):
            for model, tasks in answers.items():
                tasks.append(asking(coordinator, model, within_s=10_000, queue_within_s=3600))
            await lived(coordinator, clock, agent, seconds=2)
        done = {model: sum(task.done() for task in tasks) for model, tasks in answers.items()}
        assert min(done.values()) >= 15, done
        # A turn is a load of 4 s, at least 10 s of service and a drain of 3 s; 120 s hold no more than 8 of them.
        assert 4 <= len(agent.orders) <= 9
        for tasks in answers.values():
            for task in tasks:
                task.cancel()
        await asyncio.gather(*answers["one"], *answers["two"], return_exceptions=True)
        agent.reader.cancel()

    play(tmp_path, scenario)
