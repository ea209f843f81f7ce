"""Waiting for a slot through the real coordinator: limits, caps, classes, and what a refusal says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_proto.cluster import Call, CallWaiting
from chorus_proto.errors import QueueFull, QueueTimeout
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.values import Dialect, Priority, ReplicaState
from chorus_server.coordinator import Coordinator
from chorus_server.rates import Rates
from chorus_server.settings import CoordinatorSettings
from chorus_server.store import Store
from tests.server.test_dispatch import text_of
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode

MODEL = ModelName("scripted")

Scenario = Callable[[Coordinator, FakeClock], Awaitable[None]]


def play(tmp_path: Path, scenario: Scenario, **settings: object) -> None:
    async def run() -> None:
        store = Store.open(tmp_path / "state.sqlite")
        try:
            clock = FakeClock()
            values = CoordinatorSettings(state_dir=tmp_path, **settings)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass
            async with asyncio.timeout(20):
                await scenario(Coordinator(values, store, clock), clock)
        finally:
            store.close()

    asyncio.run(run())


def call_for(user: str = "ann", priority: Priority = Priority.INTERACTIVE, **more: object) -> Call:
    call = Call(
        request_id=new_request_id(),
        model=MODEL,
        dialect=Dialect.TEXT,
        stream=True,
        generation=Generation(messages=(Message("user", "Hi"),)).encoded(),
        prompt_tokens_estimate=1,
        within_s=3600,
        user=user,
        priority=priority,
    )
    return replace(call, **more)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass


def ready_at(coordinator: Coordinator, clock: FakeClock, name: str, tokens_per_s: float) -> FakeNode:
    """A node with one slot, whose speed has been measured."""
    node = FakeNode(coordinator, clock, name)
    node.ready()
    node.record.rates[MODEL] = Rates(tokens_per_s, 1000.0)
    return node


async def sent(coordinator: Coordinator, call: Call) -> asyncio.Task[str]:
    task = asyncio.create_task(text_of(coordinator.submit(call)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def ended(*tasks: asyncio.Task[str]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_users_take_turns_whoever_sent_more(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        calls = [call_for("heavy") for _ in range(4)] + [call_for("light")]
        tasks = [await sent(coordinator, call) for call in calls]
        users = {call.request_id: call.user for call in calls}
        order: list[str] = []
        for _ in calls:
            execute = await node.next_execute()
            order.append(users[execute.request_id])  # pyright: ignore[reportArgumentType]  # a RequestId is a str
            node.finish(execute.execution_id)
        await asyncio.gather(*tasks)
        assert order == ["heavy", "light", "heavy", "heavy", "heavy"]

    play(tmp_path, scenario)


def test_each_class_is_told_no_after_its_own_cap_and_durable_work_never_is(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        running = await sent(coordinator, call_for())
        execute = await node.next_execute()
        person = await sent(coordinator, call_for())
        batch = await sent(coordinator, call_for(priority=Priority.BATCH))
        durable = await sent(coordinator, call_for(priority=Priority.DURABLE))
        with pytest.raises(QueueTimeout, match=r"within 0\.05 s") as caught:
            await person
        assert caught.value.retry_after_s is not None
        assert not batch.done()
        with pytest.raises(QueueTimeout, match=r"within 0\.2 s"):
            await batch
        await asyncio.sleep(0.1)
        assert not durable.done()
        node.finish(execute.execution_id)
        await running
        node.finish((await node.next_execute()).execution_id, "at last")
        assert await durable == "at last"

    play(tmp_path, scenario, queue_within_s=0.05, batch_within_s=0.2)


def test_a_full_queue_refuses_all_but_durable_work_and_says_when_to_come_again(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        first = await sent(coordinator, call_for())
        execute = await node.next_execute()
        clock.advance(4)
        node.finish(execute.execution_id)
        await first
        tasks = [await sent(coordinator, call_for()) for _ in range(3)]
        with pytest.raises(QueueFull, match="2 of your requests") as caught:
            await text_of(coordinator.submit(call_for()))
        assert caught.value.retry_after_s == pytest.approx(4 * 3)
        tasks.append(await sent(coordinator, call_for("bob")))
        with pytest.raises(QueueFull, match="3 requests are waiting for scripted"):
            await text_of(coordinator.submit(call_for("cid")))
        with pytest.raises(QueueFull):
            await text_of(coordinator.submit(call_for("cid", Priority.BATCH)))
        tasks.append(await sent(coordinator, call_for("cid", Priority.DURABLE)))
        assert (await coordinator.queue_state()).waiting_total == 4
        await ended(*tasks)
        assert (await coordinator.queue_state()).waiting_total == 0

    play(tmp_path, scenario, queue_user_limit=2, queue_model_limit=3)


def test_who_could_not_be_served_within_its_patience_by_far_is_told_so_at_once(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        first = await sent(coordinator, call_for())
        execute = await node.next_execute()
        clock.advance(50)
        node.finish(execute.execution_id)
        await first
        tasks = [await sent(coordinator, call_for()) for _ in range(3)]
        with pytest.raises(QueueFull, match="are ahead of this request, it may wait 60 s") as caught:
            await text_of(coordinator.submit(call_for()))
        assert caught.value.retry_after_s == 60
        tasks.append(await sent(coordinator, call_for("bob")))  # whose turn comes sooner
        tasks.append(await sent(coordinator, call_for(priority=Priority.BATCH)))
        assert not any(task.done() for task in tasks)
        await ended(*tasks)

    play(tmp_path, scenario)


def test_the_wait_for_a_load_is_no_wait_for_others(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.report(ReplicaState.LOADING)
        patient = await sent(coordinator, call_for())
        hasty = await sent(coordinator, call_for(queue_within_s=0.05))
        with pytest.raises(QueueTimeout, match="attic loads it"):
            await hasty
        await asyncio.sleep(0.1)
        assert not patient.done()
        node.ready()
        node.finish((await node.next_execute()).execution_id, "ok")
        assert await patient == "ok"

    play(tmp_path, scenario, queue_within_s=0.05)


def test_a_load_that_takes_too_long_ends_the_wait_all_the_same(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.report(ReplicaState.LOADING)
        waiting = await sent(coordinator, call_for())
        with pytest.raises(QueueTimeout, match="attic loads it"):
            await waiting

    play(tmp_path, scenario, queue_within_s=0.05, load_within_s=0)


def test_who_does_not_ask_for_its_place_hears_nothing_of_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        running = await sent(coordinator, call_for())
        await node.next_execute()
        telling = coordinator.submit(call_for(standing_every_s=0.01))
        assert isinstance(await anext(telling), CallWaiting)
        silent = asyncio.ensure_future(anext(coordinator.submit(call_for())))
        await asyncio.sleep(0.1)
        assert not silent.done()
        silent.cancel()
        await asyncio.gather(silent, return_exceptions=True)
        await telling.aclose()
        await ended(running)

    play(tmp_path, scenario)


@pytest.mark.parametrize(("spared", "first"), [("attic", "cellar"), ("cellar", "attic")])
def test_a_node_of_small_weight_comes_after_its_equal(tmp_path: Path, spared: str, first: str) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        for name in ("attic", "cellar"):
            FakeNode(coordinator, clock, name).ready(slots=4)
        explained = await coordinator.explain(call_for())
        assert [one.node_name for one in explained.ranking] == [first, spared]

    play(tmp_path, scenario, node_weights=(f"{spared}=0.2",))


def test_who_would_be_done_sooner_on_the_fast_pc_waits_for_it_and_is_told_so(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        fast = ready_at(coordinator, clock, "attic", 80.0)
        slow = ready_at(coordinator, clock, "cellar", 4.0)
        running = await sent(coordinator, call_for())
        await fast.next("execute")
        told = await coordinator.explain(call_for())
        assert told.chosen is None
        assert "for attic, which is done sooner than cellar, where a slot is free" in told.verdict
        patient = await sent(coordinator, call_for("ben"))
        assert coordinator._room.waiting == 1  # pyright: ignore[reportPrivateUsage]  # no order shows it
        at_once = await sent(coordinator, call_for("cay", queue_within_s=0.0))
        assert (await slow.next("execute")).execute.request_id
        running.cancel()
        assert (await fast.next("execute")).execute.request_id, "the patient one's"
        await ended(running, patient, at_once)

    play(tmp_path, scenario)


def test_who_may_not_wait_as_long_as_the_fast_pc_seems_to_take_gets_the_free_slot_of_the_slow_one(
    tmp_path: Path,
) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        fast = ready_at(coordinator, clock, "attic", 80.0)
        slow = ready_at(coordinator, clock, "cellar", 4.0)
        first = await sent(coordinator, call_for())
        order = (await fast.next("execute")).execute
        clock.advance(60.0)  # that is how long requests hold a slot here
        fast.finish(order.execution_id)
        await first
        running = await sent(coordinator, call_for())
        await fast.next("execute")
        hurried = await sent(coordinator, call_for("ben", queue_within_s=5.0))
        assert (await slow.next("execute")).execute.request_id
        await ended(running, hurried)

    play(tmp_path, scenario)


def test_a_first_token_is_not_put_off_for_a_faster_pc_where_the_free_one_is_fast_enough(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        fast = ready_at(coordinator, clock, "attic", 200.0)
        ready_at(coordinator, clock, "cellar", 15.0)
        running = await sent(coordinator, call_for(max_tokens=2000))
        await fast.next("execute")
        fast.record.replicas[MODEL].in_flight.tokens_left = 1000.0
        told = await coordinator.explain(call_for())
        assert told.verdict == "cellar would run it at once"
        await ended(running)

    play(tmp_path, scenario)
