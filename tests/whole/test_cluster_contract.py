"""The Cluster contract, run on both implementations over real agents: in process, and across gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from grpc import aio

from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto import coordinator_pb2, coordinator_pb2_grpc
from chorus_proto.backends import NewBackend
from chorus_proto.cluster import (
    FOR_EVER_S,
    Ask,
    AskDelta,
    AskFinished,
    Call,
    CallEvent,
    CallFinished,
    CallOutput,
    CallStarted,
    CallWaiting,
    Cluster,
    MemberAnswer,
)
from chorus_proto.convert_calls import submit_message
from chorus_proto.errors import (
    BodyTooLarge,
    CoordinatorUnavailable,
    Draining,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    NodeLost,
    NodeNotFound,
    NotFound,
    RateLimitExceeded,
    Unsupported,
)
from chorus_proto.event_log import Position
from chorus_proto.generation import Generation
from chorus_proto.happenings import HubEvent, RequestEnded, RequestStarted
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.keys import NewKey, Scope, claim_of
from chorus_proto.queue_state import QueueState
from chorus_proto.transfers import TransferKind, TransferState
from chorus_proto.values import (
    AggregateStrategy,
    Dialect,
    NodeState,
    Priority,
    ReplicaReport,
    ReplicaState,
    RoutingStrategy,
)
from tests.support.file_node import file_node
from tests.support.model_files import model_bytes
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


def test_a_council_is_asked_under_its_name_through_both_doors(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        async with aclosing(door.ask(ask_for("yes", council=ModelName("council/all")))) as events:
            seen = [event async for event in events]
        finished = seen[-1]
        assert isinstance(finished, AskFinished)
        assert (finished.strategy, finished.text, finished.disagreement) == (AggregateStrategy.VOTE, "yes", 0.0)
        assert b"".join(event.text for event in seen if isinstance(event, AskDelta)) == b"yes"
        assert {member.node_name: member.agrees for member in finished.members} == {"attic": True, "cellar": True}
        assert sorted(member.member for member in finished.members) == [0, 1]
        assert all(member.weight for member in finished.members)
        _, text = await collected(door.submit(call_for("yes", model="council/all")))
        assert text == "yes"
        with pytest.raises(ModelNotFound, match="council/all"):
            await collected(door.submit(call_for("yes", model="council/none")))
        assert [one.name for one in (await door.state()).councils] == ["council/all"]

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


def test_waking_a_node_needs_one_that_sleeps_and_told_its_address(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        woken = await door.wake("attic")
        assert (woken.node_name, woken.mac_addresses) == ("attic", ()), "it is here"
        await cluster.agents["attic"].link.leave_for_sleep()
        await cluster.until_state("attic", NodeState.ASLEEP)
        with pytest.raises(InvalidRequest, match="no address"):
            await door.wake("attic")
        with pytest.raises(NodeNotFound):
            await door.wake("garage")

    play(scenario, "attic")


def test_who_waits_hears_its_place_and_the_queue_shows_it_with_who_runs(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        loaded = cluster.agents["attic"].loaded
        await collected(door.submit(call_for("how long does one take")))
        slots = (await door.state()).nodes[0].replicas[0].report.slots
        loaded.hold.clear()
        running = [
            asyncio.create_task(collected(door.submit(replace(call_for("one two"), user="ann")))) for _ in range(slots)
        ]
        while (await door.queue_state()).running_total < slots:
            await asyncio.sleep(0.005)
        waits = replace(call_for("three"), user="bob", priority=Priority.BATCH, standing_every_s=0.02)
        events = door.submit(waits)
        first = await anext(events)
        assert isinstance(first, CallWaiting)
        assert (first.standing.position, first.standing.of) == (1, 1)
        assert first.standing.expected_wait_s is not None
        assert isinstance(await anext(events), CallWaiting)
        state = await door.queue_state()
        assert (state.waiting_total, state.running_total) == (1, slots)
        (one,) = state.waiting
        assert (one.request_id, one.user, one.priority) == (waits.request_id, "bob", Priority.BATCH)
        assert {(other.user, other.node_name) for other in state.running} == {("ann", "attic")}
        (model,) = state.models
        assert (model.model, model.waiting, model.running, model.slots) == ("echo", 1, slots, slots)
        loaded.hold.set()
        seen, text = await collected(events)
        assert text == "three"
        assert any(isinstance(event, CallStarted) for event in seen)
        await asyncio.gather(*running)
        assert await door.queue_state() == QueueState(limit=state.limit)

    play(scenario, "attic")


def test_a_route_is_explained_and_nothing_is_run(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        await cluster.join("cellar", models=("parrot",))
        await cluster.until_ready("cellar")
        found = await door.explain(replace(call_for("one two"), max_tokens=7))
        nodes = {node.name: node.node_id for node in (await door.state()).nodes}
        assert (found.model, found.chosen, found.expected_tokens) == ("echo", nodes["attic"], 7)
        assert found.verdict == "attic would run it at once"
        assert [one.node_name for one in found.ranking] == ["attic"]
        assert found.ranking[0].cost_s is not None and "prompt" in found.ranking[0].reason
        assert [(one.node_name, one.reason) for one in found.refused] == [("cellar", "does not have the model")]
        by_turn = await door.explain(replace(call_for("x"), strategy=RoutingStrategy.ROUND_ROBIN))
        assert by_turn.ranking[0].cost_s is None
        pinned = await door.explain(call_for("x", node="cellar"))
        assert pinned.chosen is None and "refused" in pinned.verdict
        with pytest.raises(ModelNotFound):
            await door.explain(call_for("x", model="ecko"))
        assert (await door.state()).finished_total == 0

    play(scenario, "attic")


async def until(door: Cluster, model: str, states: set[ReplicaState | None]) -> ReplicaReport | None:
    """Wait until the one node's replica of `model` is in one of these states; None: it has none."""
    async with asyncio.timeout(10):
        while True:
            (node,) = (await door.state()).nodes
            report = next((r.report for r in node.replicas if r.report.model == model), None)
            if (None if report is None else report.state) in states:
                return report
            await asyncio.sleep(0.01)


def test_a_model_freed_by_name_comes_back_only_when_it_is_asked_for(
    play: Callable[..., None],
) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        order = await door.unload_model("Echo:latest")
        assert [(one.node_name, one.state) for one in order.nodes] == [("attic", ReplicaState.READY)]
        await until(door, "echo", {None})
        await asyncio.sleep(0.5)  # two sweeps: it is assigned, and rests all the same
        assert await until(door, "echo", {None, *ReplicaState}) is None
        assert (await door.unload_model("echo")).nodes == ()
        order = await door.load_model("echo", node="attic")
        assert (order.model, order.nodes[0].state) == ("echo", None)
        await until(door, "echo", {ReplicaState.READY})
        await door.unload_model("echo", node="attic")
        await until(door, "echo", {None})
        assert (await collected(door.submit(call_for("one two"))))[1] == "onetwo"
        with pytest.raises(ModelNotFound, match="parrot"):
            await door.load_model("parrot")
        with pytest.raises(NodeNotFound):
            await door.load_model("echo", node="garage")
        with pytest.raises(ModelNotFound):
            await door.unload_model("parrot")

    play(scenario, "attic")


def test_a_further_name_is_asked_for_as_the_model_is_and_can_be_deleted_while_its_owners_file_cannot(
    play: Callable[..., None],
) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        assert await door.alias_model("house-model", "Echo:latest") == "echo"
        models = {str(model.name): model for model in (await door.state()).models}
        assert (models["house-model"].alias_of, models["echo"].alias_of) == ("echo", None)
        assert models["house-model"].ready_on == models["echo"].ready_on != ()
        assert (await collected(door.submit(call_for("one two", model="House-Model:latest"))))[1] == "onetwo"
        with pytest.raises(InvalidRequest, match="already"):
            await door.alias_model("ECHO", "house-model")
        with pytest.raises(InvalidRequest, match="letters"):
            await door.alias_model("../x", "echo")
        with pytest.raises(ModelNotFound):
            await door.alias_model("other", "parrot")
        assert (await door.delete_model("house-model")).nodes == ()
        with pytest.raises(ModelNotFound):
            await collected(door.submit(call_for("one two", model="house-model")))
        with pytest.raises(InvalidRequest, match="belongs to the owner of attic"):
            await door.delete_model("echo")
        with pytest.raises(ModelNotFound):
            await door.delete_model("parrot")

    play(scenario, "attic")


def test_a_model_that_is_asked_for_stays_as_long_as_it_was_said(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        agent = await cluster.join("attic", models=("echo", "parrot"))
        await cluster.until_ready("attic")
        (node,) = (await door.state()).nodes
        other = "parrot" if node.assigned_model == "echo" else "echo"
        await door.load_model(other, keep_alive_s=FOR_EVER_S)
        report = await until(door, other, {ReplicaState.READY})
        assert report is not None and report.keep_alive_s == FOR_EVER_S
        again = await door.load_model(other, keep_alive_s=77)
        assert again.nodes[0].state is ReplicaState.READY
        async with asyncio.timeout(5):
            while (report := await until(door, other, {ReplicaState.READY})) is None or report.keep_alive_s != 77:
                await asyncio.sleep(0.01)
        assert len(agent.engine.loads) == 2
        await door.load_model(str(node.assigned_model), keep_alive_s=1)
        report = await until(door, str(node.assigned_model), {ReplicaState.READY})
        assert report is not None and report.keep_alive_s is None

    play(scenario)


def test_a_load_that_failed_is_tried_again_when_somebody_asks(play: Callable[..., None]) -> None:
    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        agent = await cluster.join("attic", models=("echo", "parrot"))
        await cluster.until_ready("attic")
        (node,) = (await door.state()).nodes
        other = "parrot" if node.assigned_model == "echo" else "echo"
        agent.engine.too_big = True
        await door.load_model(other)
        await until(door, other, {ReplicaState.FAILED})
        agent.engine.too_big = False
        await door.load_model(other)
        await until(door, other, {ReplicaState.READY})

    play(scenario)


def test_models_are_copied_between_nodes_listed_and_cancelled(play: Callable[..., None], tmp_path: Path) -> None:
    content = model_bytes(300_000)

    async def scenario(door: Cluster, cluster: SmallCluster) -> None:
        address = cluster.hub.grpc_address
        async with (
            file_node(address, "attic", tmp_path / "nodes", models={"m": content}),
            file_node(address, "cellar", tmp_path / "nodes") as cellar,
        ):
            for name in ("attic", "cellar"):
                await cluster.until_state(name, NodeState.ALIVE)
            begun = await door.copy_model("M", to="cellar")
            assert (begun.kind, begun.node_name, begun.total_bytes) == (TransferKind.COPY, "cellar", len(content))
            while not (listed := await door.transfers())[0].state.is_over:
                await asyncio.sleep(0.01)
            (transfer,) = listed
            assert (transfer.state, transfer.source, transfer.share) == (TransferState.DONE, "attic", 1.0)
            assert [path.read_bytes() == content for path in cellar.models()] == [True]
            pulled = await door.pull_model("nothing:1b", node="cellar", sha256="ab" * 32)
            assert (pulled.kind, pulled.source, pulled.digest) == (TransferKind.PULL, "nothing:1b", "ab" * 32)
            assert (await door.cancel_transfer(pulled.transfer_id)).state.is_over
            with pytest.raises(NotFound):
                await door.cancel_transfer("nonsense")
            with pytest.raises(InvalidRequest, match="no model to pull"):
                await door.pull_model("../x")
            with pytest.raises(ModelNotFound):
                await door.copy_model("parrot", to="cellar")
            with pytest.raises(NodeNotFound):
                await door.copy_model("m", to="garage")

    play(scenario)


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


def test_keys_are_made_checked_listed_and_revoked_alike(play: Callable[..., None]) -> None:
    async def scenario(cluster: Cluster, _small: SmallCluster) -> None:
        made = await cluster.create_key(NewKey(name="ann", scopes=(Scope.INFER,), parallel=2))
        claim = claim_of(made.text.encode())
        assert claim is not None
        assert (await cluster.check_key(claim)).name == "ann"
        assert [key.key_id for key in await cluster.list_keys()] == [made.key.key_id]
        with pytest.raises(InvalidRequest):
            await cluster.create_key(NewKey(name="ann", scopes=(Scope.INFER,)))
        with pytest.raises(InvalidRequest):
            await cluster.create_key(NewKey(name="", scopes=()))
        assert (await cluster.revoke_key("ann")).revoked_unix_s is not None
        with pytest.raises(InvalidApiKey):
            await cluster.check_key(claim)
        with pytest.raises(NotFound):
            await cluster.revoke_key("nobody")

    play(scenario)


def test_backends_need_somebody_who_runs_them(play: Callable[..., None]) -> None:
    async def scenario(cluster: Cluster, _small: SmallCluster) -> None:
        assert await cluster.backends() == ()
        for wish, error in (
            (NewBackend(name="a", url="http://x:1"), Unsupported),
            (NewBackend(name="", url=""), InvalidRequest),
        ):
            with pytest.raises(error):
                await cluster.register_backend(wish)
        with pytest.raises(Unsupported):
            await cluster.unregister_backend("a")

    play(scenario)


def test_a_request_counts_towards_the_quota_of_its_key(play: Callable[..., None]) -> None:
    async def scenario(cluster: Cluster, _small: SmallCluster) -> None:
        made = await cluster.create_key(NewKey(name="ann", scopes=(Scope.INFER,), tokens_per_day=1))
        call = replace(call_for("hello"), key_id=made.key.key_id)
        assert [event async for event in cluster.submit(call)]
        assert (await cluster.list_keys())[0].tokens_today >= 1
        with pytest.raises(RateLimitExceeded):
            [event async for event in cluster.submit(replace(call, request_id=new_request_id()))]

    play(scenario, "attic")


def test_what_happens_is_told_in_order_and_from_where_a_watcher_was(play: Callable[..., None]) -> None:
    async def scenario(cluster: Cluster, small: SmallCluster) -> None:
        async with aclosing(cluster.watch()) as batches:
            began = (await anext(batches)).position
            assert [event async for event in cluster.submit(call_for("hello"))]
            seen: list[HubEvent] = []
            while not any(isinstance(event.what, RequestEnded) for event in seen):
                seen += (await anext(batches)).events
        assert [event.id for event in seen] == list(range(began.id + 1, began.id + 1 + len(seen)))
        served = [event.what for event in seen if isinstance(event.what, RequestStarted | RequestEnded)]
        assert [type(what) for what in served] == [RequestStarted, RequestEnded]
        assert {what.node_name for what in served} == {"attic"}
        async with aclosing(cluster.watch(began)) as batches:
            again: list[HubEvent] = []
            while len(again) < len(seen):
                again += (await anext(batches)).events
        assert again[: len(seen)] == seen
        async with aclosing(cluster.watch(Position(began.epoch + 1, 1))) as batches:
            assert (await anext(batches)).missed

    play(scenario, "attic")
