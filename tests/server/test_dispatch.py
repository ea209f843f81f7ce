"""One request through the real coordinator: waiting, retrying, failing, leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_proto.cluster import Call, CallEvent, CallFinished, CallOutput, CallStarted
from chorus_proto.errors import (
    BodyTooLarge,
    ClusterError,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    NodeLost,
    NoNodes,
    NoReplica,
    QueueFull,
    QueueTimeout,
    UnsupportedParameter,
)
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.values import Dialect, EngineKind
from chorus_server.coordinator import Coordinator
from chorus_server.settings import CoordinatorSettings
from chorus_server.store import Store
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode, file_of, hello_of

GENERATION = Generation(messages=(Message("user", "Hi"),)).encoded()


def call_for(
    model: str = "scripted",
    *,
    within_s: float = 30.0,
    queue_within_s: float | None = None,
    node: str | None = None,
    generation: bytes = GENERATION,
) -> Call:
    return Call(
        request_id=new_request_id(),
        model=ModelName(model),
        dialect=Dialect.TEXT,
        stream=True,
        generation=generation,
        prompt_tokens_estimate=1,
        within_s=within_s,
        queue_within_s=queue_within_s,
        node=node,
    )


Scenario = Callable[[Coordinator, FakeClock], Awaitable[None]]


def play(tmp_path: Path, scenario: Scenario, **settings: object) -> None:
    """Run a scenario against a coordinator on a real store and a clock that stands still."""

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


async def text_of(events: AsyncGenerator[CallEvent, None]) -> str:
    text = b""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, CallOutput | CallFinished):
                text += event.payload
    return text.decode()


async def nodes_of(events: AsyncGenerator[CallEvent, None]) -> list[str]:
    async with aclosing(events):
        return [event.node_name async for event in events if isinstance(event, CallStarted)]


def test_a_request_runs_on_the_node_and_gives_its_slot_back(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await node.next_execute()
        assert (await coordinator.state()).nodes[0].replicas[0].slots_busy == 1
        node.say(order.execution_id, "Hel")
        node.finish(order.execution_id, "lo")
        assert await answer == "Hello"
        state = await coordinator.state()
        assert state.nodes[0].replicas[0].slots_busy == 0
        assert (state.finished_total, state.cancelled_total, state.failed_total) == (1, 0, 0)
        assert state.nodes[0].replicas[0].decode_tokens_per_s == pytest.approx(100, rel=0.02)

    play(tmp_path, scenario)


@pytest.mark.parametrize("other_engine", [EngineKind.OLLAMA, EngineKind.SCRIPTED])
def test_a_field_that_one_engine_has_not_is_asked_of_another_engine_of_the_model(
    tmp_path: Path, other_engine: EngineKind
) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        unable, able = FakeNode(coordinator, clock, "attic"), FakeNode(coordinator, clock, "cellar")
        unable.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await unable.next_execute()
        able.ready(engine=other_engine)
        unable.fail(order.execution_id, UnsupportedParameter("no suffix here", param="suffix"))
        if other_engine is EngineKind.SCRIPTED:
            with pytest.raises(UnsupportedParameter, match="no suffix here"):
                await answer
            return
        able.finish((await able.next_execute()).execution_id, "filled in")
        assert await answer == "filled in"

    play(tmp_path, scenario)


def test_of_two_files_of_one_name_only_the_named_one_is_used(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [
            FakeNode(coordinator, clock, name, hello=hello_of(name, models=(file_of("scripted", digest=digest),)))
            for name, digest in (("attic", "sha256:aa"), ("cellar", "sha256:bb"))
        ]
        for node in nodes:
            node.ready(slots=4)
        for place, digest in enumerate(("sha256:aa", "sha256:bb")):
            for _ in range(3):
                call = replace(call_for(), digest=digest, dialect=Dialect.EMBEDDINGS)
                answer = asyncio.create_task(text_of(coordinator.submit(call)))
                order = await nodes[place].next_execute()
                nodes[place].finish(order.execution_id, digest)
                assert await answer == digest
        with pytest.raises(ClusterError):
            await text_of(coordinator.submit(replace(call_for(), digest="sha256:cc")))

    play(tmp_path, scenario)


def test_a_node_lost_before_the_first_token_moves_the_request_unnoticed(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = {name: FakeNode(coordinator, clock, name) for name in ("attic", "cellar")}
        for node in nodes.values():
            node.ready()
        events = coordinator.submit(call_for())
        started = await anext(events)
        assert isinstance(started, CallStarted)
        first = nodes[started.node_name]
        other = next(node for node in nodes.values() if node is not first)
        answer = asyncio.create_task(text_of(events))
        await first.next_execute()
        first.lose()
        order = await other.next_execute()
        assert order.attempt == 2
        other.finish(order.execution_id, "done")
        assert await answer == "done"

    play(tmp_path, scenario)


def test_a_node_lost_after_the_first_token_ends_the_stream_with_node_lost(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        spare = FakeNode(coordinator, clock, "cellar")
        node.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await node.next_execute()
        spare.ready()
        node.say(order.execution_id, "Hel")
        await asyncio.sleep(0)
        node.lose()
        with pytest.raises(NodeLost, match="attic"):
            await answer

    play(tmp_path, scenario)


def test_frames_of_a_given_up_attempt_are_dropped(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = {name: FakeNode(coordinator, clock, name) for name in ("attic", "cellar")}
        for node in nodes.values():
            node.ready()
        events = coordinator.submit(call_for())
        started = await anext(events)
        assert isinstance(started, CallStarted)
        first = nodes[started.node_name]
        other = next(node for node in nodes.values() if node is not first)
        answer = asyncio.create_task(text_of(events))
        stale = await first.next_execute()
        first.fail(stale.execution_id, EngineFailed("broke"))
        order = await other.next_execute()
        first.say(stale.execution_id, "STALE")
        other.say(order.execution_id, "fresh")
        other.finish(order.execution_id)
        assert await answer == "fresh"

    play(tmp_path, scenario)


def test_a_lost_sole_node_that_rejoins_serves_the_waiting_request(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        await node.next_execute()
        node.lose()
        await asyncio.sleep(0)
        back = FakeNode(coordinator, clock, "attic")
        back.ready()
        order = await back.next_execute()
        back.finish(order.execution_id, "late")
        assert await answer == "late"

    play(tmp_path, scenario)


def test_a_request_is_tried_three_times_and_no_more(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = {name: FakeNode(coordinator, clock, name) for name in ("a", "b", "c", "d")}
        for node in nodes.values():
            node.ready()
        events = coordinator.submit(call_for())
        tried: list[str] = []
        with pytest.raises(EngineFailed):
            async for event in events:
                assert isinstance(event, CallStarted)
                tried.append(event.node_name)
                node = nodes[event.node_name]

                async def break_it(node: FakeNode = node) -> None:
                    node.fail((await node.next_execute()).execution_id, EngineFailed("broke"))

                breaking = asyncio.create_task(break_it())
                breaking.add_done_callback(lambda task: task.result())
        assert len(tried) == len(set(tried)) == 3

    play(tmp_path, scenario)


def test_a_refusal_by_the_engine_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await node.next_execute()
        node.fail(order.execution_id, InvalidRequest("stop is too long", param="stop"))
        with pytest.raises(InvalidRequest) as caught:
            await answer
        assert caught.value.param == "stop"

    play(tmp_path, scenario)


def test_a_caller_who_leaves_frees_the_slot_and_the_node_is_told(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await node.next_execute()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        assert (await node.next("cancel")).cancel.execution_id == order.execution_id
        state = await coordinator.state()
        assert state.nodes[0].replicas[0].slots_busy == 0
        assert state.cancelled_total == 1

    play(tmp_path, scenario)


def test_a_freed_slot_goes_to_the_oldest_waiter(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        calls = [call_for() for _ in range(3)]
        answers: list[asyncio.Task[str]] = []
        for call in calls:
            answers.append(asyncio.create_task(text_of(coordinator.submit(call))))
            await asyncio.sleep(0)
        for call, answer in zip(calls, answers, strict=True):
            order = await node.next_execute()
            assert order.request_id == call.request_id
            node.finish(order.execution_id)
            await answer

    play(tmp_path, scenario)


def test_a_cancelled_waiter_does_not_keep_the_slot_it_was_just_given(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        first = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await node.next_execute()
        second = asyncio.create_task(text_of(coordinator.submit(call_for())))
        await asyncio.sleep(0)
        node.finish(order.execution_id)
        await first
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (await coordinator.state()).nodes[0].replicas[0].slots_busy == 0

    play(tmp_path, scenario)


def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        tasks = [asyncio.create_task(text_of(coordinator.submit(call_for()))) for _ in range(2)]
        await node.next_execute()
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await text_of(coordinator.submit(call_for()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    play(tmp_path, scenario, queue_limit=1)


def test_a_caller_who_will_not_wait_is_refused_at_once(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready(slots=1)
        running = asyncio.create_task(text_of(coordinator.submit(call_for())))
        await node.next_execute()
        with pytest.raises(QueueTimeout):
            await text_of(coordinator.submit(call_for(queue_within_s=0)))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    play(tmp_path, scenario)


def test_a_request_whose_time_is_over_ends_with_a_deadline_and_cancels_the_node(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic")
        node.ready()
        with pytest.raises(DeadlineExceeded):
            await text_of(coordinator.submit(call_for(within_s=0.05)))
        await node.next("cancel")

    play(tmp_path, scenario)


def test_a_node_named_by_the_caller_is_used_or_refused(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        for name in ("attic", "cellar"):
            FakeNode(coordinator, clock, name).ready(slots=9)
        for name in ("attic", "cellar", "attic"):
            events = coordinator.submit(call_for(node=name))
            started = await anext(events)
            assert isinstance(started, CallStarted)
            assert started.node_name == name
            await events.aclose()
        with pytest.raises(ClusterError, match="no node is called"):
            await text_of(coordinator.submit(call_for(node="garage")))

    play(tmp_path, scenario)


def test_what_cannot_be_served_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        with pytest.raises(NoNodes):
            await text_of(coordinator.submit(call_for()))
        hello = hello_of("attic", models=[file_of("scripted", owners=True)])
        FakeNode(coordinator, clock, "attic", hello=hello)
        with pytest.raises(ModelNotFound, match="scripted"):
            await text_of(coordinator.submit(call_for("scriptd")))
        with pytest.raises(BodyTooLarge):
            await text_of(coordinator.submit(call_for(generation=b"x" * 5_000_000)))
        with pytest.raises(NoReplica, match="attic leaves it to its owner"):
            await text_of(coordinator.submit(call_for()))

    play(tmp_path, scenario)


def test_a_caller_who_reads_nothing_is_cut_after_the_limit(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic", window_bytes=100)
        node.ready()
        events = coordinator.submit(call_for())
        await anext(events)
        taking = asyncio.create_task(anext(events))
        order = await node.next_execute()
        node.say(order.execution_id, "x")
        await taking
        node.say(order.execution_id, "y" * 100)
        node.link.cut_slow_callers(after_s=30)
        clock.advance(31)
        node.link.cut_slow_callers(after_s=30)
        assert (await node.next("cancel")).cancel.execution_id == order.execution_id
        with pytest.raises(ClusterError, match="read nothing"):
            await text_of(events)

    play(tmp_path, scenario)


def test_the_reader_grants_the_node_what_it_has_read_once_half_a_window_is_worth_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        node = FakeNode(coordinator, clock, "attic", window_bytes=20)
        node.ready()
        answer = asyncio.create_task(text_of(coordinator.submit(call_for())))
        order = await node.next_execute()
        for _ in range(3):
            node.say(order.execution_id, "12345")
            await asyncio.sleep(0.001)
        credit = (await node.next("credit")).credit
        assert (credit.execution_id, credit.bytes) == (order.execution_id, 10)
        node.finish(order.execution_id)
        await answer

    play(tmp_path, scenario)
