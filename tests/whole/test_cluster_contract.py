"""The Cluster contract, run on both implementations over real agents: in process, and across gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio

from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto import coordinator_pb2, coordinator_pb2_grpc
from chorus_proto.cluster import (
    Ask,
    AskFinished,
    Call,
    CallEvent,
    CallFinished,
    CallOutput,
    CallStarted,
    Cluster,
    MemberAnswer,
)
from chorus_proto.convert_calls import submit_message
from chorus_proto.errors import BodyTooLarge, CoordinatorUnavailable, Draining, ModelNotFound, NodeLost, NodeNotFound
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.values import AggregateStrategy, Dialect
from tests.support.small_cluster import SmallCluster, small_cluster

Scenario = Callable[[Cluster, SmallCluster], Awaitable[None]]


@asynccontextmanager
async def in_process(cluster: SmallCluster) -> AsyncGenerator[Cluster]:
    yield cluster.coordinator


@asynccontextmanager
async def over_grpc(cluster: SmallCluster) -> AsyncGenerator[Cluster]:
    remote = GrpcCluster(cluster.hub.grpc_address, within_s=5)
    try:
        yield remote
    finally:
        await remote.aclose()


@pytest.fixture(params=[in_process, over_grpc])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Runs a scenario on a fresh cluster through one of the two doors."""

    def run(scenario: Scenario, *names: str) -> None:
        async def all_of_it() -> None:
            async with (
                asyncio.timeout(30),
                small_cluster(tmp_path, *names) as cluster,
                request.param(cluster) as door,
            ):
                await scenario(door, cluster)

        asyncio.run(all_of_it())

    return run


def call_for(prompt: str, *, model: str = "echo", node: str | None = None) -> Call:
    return Call(
        request_id=new_request_id(),
        model=ModelName(model),
        dialect=Dialect.TEXT,
        stream=True,
        generation=Generation(prompt=prompt).encoded(),
        prompt_tokens_estimate=1,
        within_s=20,
        node=node,
    )


def ask_for(prompt: str, **changes: object) -> Ask:
    values: dict[str, object] = {
        "request_id": new_request_id(),
        "generation": Generation(prompt=prompt).encoded(),
        "prompt_tokens_estimate": 1,
        "within_s": 10.0,
        **changes,
    }
    return Ask(**values)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass


async def collected(events: AsyncGenerator[CallEvent, None]) -> tuple[list[CallEvent], str]:
    seen: list[CallEvent] = []
    async with aclosing(events):
        async for event in events:
            seen.append(event)
    text = b"".join(event.payload for event in seen if isinstance(event, CallOutput | CallFinished))
    return seen, text.decode()


def test_a_request_starts_streams_and_finishes(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        events, text = await collected(door.submit(call_for("one two three")))
        assert isinstance(events[0], CallStarted)
        assert events[0].node_name == "attic"
        assert text == "onetwothree"
        assert isinstance(events[-1], CallFinished)
        assert events[-1].usage.completion_tokens == 3

    play(scenario, "attic")


def test_many_requests_at_once_do_not_mix(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        prompts = [f"a{n} b{n} c{n}" for n in range(60)]
        answers = await asyncio.gather(*(collected(door.submit(call_for(prompt))) for prompt in prompts))
        assert [text for _, text in answers] == [prompt.replace(" ", "") for prompt in prompts]

    play(scenario, "attic", "cellar")


def test_a_long_answer_to_a_slow_reader_arrives_whole(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        prompt = " ".join(f"{n:0>200}" for n in range(4000))
        text = b""
        async with aclosing(door.submit(call_for(prompt))) as events:
            async for event in events:
                await asyncio.sleep(0)
                if isinstance(event, CallOutput | CallFinished):
                    text += event.payload
        assert text.decode() == prompt.replace(" ", "")

    play(scenario, "attic")


def test_errors_arrive_with_their_type_and_field(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        with pytest.raises(ModelNotFound, match="echo") as caught:
            await collected(door.submit(call_for("x", model="ecko")))
        assert caught.value.param == "model"
        with pytest.raises(NodeNotFound):
            await collected(door.submit(call_for("x", node="garage")))

    play(scenario, "attic")


def test_leaving_early_stops_the_engine(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        loaded = cluster.agents["attic"].loaded
        loaded.hold.clear()
        reading = asyncio.create_task(collected(door.submit(call_for("one two"))))
        while not loaded.generating:
            await asyncio.sleep(0.005)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        while loaded.generating:
            await asyncio.sleep(0.005)
        state = await door.state()
        assert state.nodes[0].replicas[0].slots_busy == 0

    play(scenario, "attic")


def test_a_lost_node_ends_a_started_answer_with_node_lost(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        agent = cluster.agents["attic"]
        agent.loaded.words_before_hold = 1
        agent.loaded.hold.clear()
        async with aclosing(door.submit(call_for("one two three"))) as events:
            assert isinstance(await anext(events), CallStarted)
            first = await anext(events)
            assert isinstance(first, CallOutput)
            assert first.payload == b"one"
            await agent.cut()
            with pytest.raises(NodeLost, match="attic"):
                await anext(events)

    play(scenario, "attic")


def test_all_nodes_can_be_asked(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        async with aclosing(door.ask(ask_for("yes", strategy=AggregateStrategy.VOTE))) as events:
            seen = [event async for event in events]
        assert {event.node_name for event in seen if isinstance(event, MemberAnswer)} == {"attic", "cellar"}
        finished = seen[-1]
        assert isinstance(finished, AskFinished)
        assert (finished.text, finished.agreement) == ("yes", 1.0)
        with pytest.raises(NodeNotFound):
            async with aclosing(door.ask(ask_for("yes", nodes=("garage",)))) as events:
                async for _ in events:
                    pass

    play(scenario, "attic", "cellar")


def test_state_reassign_and_metrics_answer(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        state = await door.state()
        assert [node.name for node in state.nodes] == ["attic"]
        assert state.models[0].ready_on == (state.nodes[0].node_id,)
        (assignment,) = (await door.reassign()).assignments
        assert (assignment.node_name, assignment.model) == ("attic", "echo")
        assert b"chorus_node_up" in await door.metrics()

    play(scenario, "attic")


def test_a_coordinator_that_is_away_is_one_clear_error_and_found_again() -> None:
    async def scenario() -> None:
        remote = GrpcCluster("127.0.0.1:9", within_s=2)
        with pytest.raises(CoordinatorUnavailable, match=r"127\.0\.0\.1:9"):
            await remote.state()
        with pytest.raises(CoordinatorUnavailable):
            await collected(remote.submit(call_for("x")))
        await remote.aclose()

    asyncio.run(scenario())


def test_a_coordinator_that_stops_fails_open_calls_and_serves_the_next_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = 0
        remote: GrpcCluster | None = None
        for _ in range(2):
            async with small_cluster(tmp_path, "attic", grpc_port=port) as cluster:
                port = int(cluster.hub.grpc_address.rpartition(":")[2])
                remote = remote or GrpcCluster(cluster.hub.grpc_address, within_s=5)
                async with asyncio.timeout(15):
                    while True:
                        try:
                            _, text = await collected(remote.submit(call_for("one two")))
                            break
                        except CoordinatorUnavailable:
                            await asyncio.sleep(0.1)
                assert text == "onetwo"
                cluster.agents["attic"].loaded.hold.clear()
                events = remote.submit(call_for("one two"))
                assert isinstance(await anext(events), CallStarted)
            with pytest.raises((CoordinatorUnavailable, NodeLost)):
                await anext(events)
        assert remote is not None
        await remote.aclose()

    asyncio.run(scenario())


def test_a_coordinator_that_shuts_down_says_so_and_not_that_it_is_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(20), small_cluster(tmp_path, "attic") as cluster, over_grpc(cluster) as remote:
            await cluster.coordinator.drain()
            with pytest.raises(Draining, match="shutting down"):
                await remote.reassign()
            with pytest.raises(Draining, match="shutting down"):
                await collected(remote.submit(call_for("x")))

    asyncio.run(scenario())


def test_a_prompt_too_large_for_a_message_is_refused_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(30), small_cluster(tmp_path, "attic") as cluster, over_grpc(cluster) as remote:
            cluster.agents["attic"].loaded.hold.clear()
            running = asyncio.create_task(collected(remote.submit(call_for("one two"))))
            while not cluster.agents["attic"].loaded.generating:
                await asyncio.sleep(0.005)
            with pytest.raises(BodyTooLarge):
                await collected(remote.submit(call_for("x" * 5_000_000)))
            with pytest.raises(BodyTooLarge):
                async with aclosing(remote.ask(ask_for("x" * 5_000_000))) as events:
                    await anext(events)
            cluster.agents["attic"].loaded.hold.set()
            assert (await running)[1] == "onetwo"

    asyncio.run(scenario())


def test_a_remote_caller_who_never_reads_loses_its_slot(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            asyncio.timeout(30),
            small_cluster(tmp_path, "attic", slow_caller_s=1.0) as cluster,
            aio.insecure_channel(cluster.hub.grpc_address) as channel,
        ):
            stream = coordinator_pb2_grpc.CoordinatorServiceStub(channel).Calls()
            submit = submit_message(call_for("one two three"), window_bytes=1)
            frame = coordinator_pb2.CallerFrame(call_id=1, submit=submit)
            await stream.write(coordinator_pb2.CallerBatch(frames=[frame]))
            failed = ""
            while not failed:
                batch = await stream.read()
                assert isinstance(batch, coordinator_pb2.ReplyBatch)
                failed = "".join(one.failed.code for one in batch.frames)
            assert failed == "slow_consumer"
            assert (await cluster.coordinator.state()).nodes[0].replicas[0].slots_busy == 0
            stream.cancel()

    asyncio.run(scenario())
