"""What an agent hears when the coordinator will not have it, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import aio

from chorus_client.link import Refused
from chorus_proto import common_pb2, node_pb2, node_pb2_grpc
from chorus_proto.channel import DIALER_OPTIONS
from chorus_proto.convert import hello_message
from chorus_proto.ids import NodeId
from chorus_proto.values import Hello, NodeState
from tests.support.fake_node import hello_of
from tests.support.small_cluster import InProcessAgent, small_cluster


def too_new(hello: Hello) -> Hello:
    return replace(hello, protocol_min=7, protocol_max=9)


def too_old(hello: Hello) -> Hello:
    return replace(hello, protocol_min=0, protocol_max=0)


def nameless(hello: Hello) -> Hello:
    return replace(hello, name="")


def without_id(hello: Hello) -> Hello:
    return replace(hello, node_id=NodeId("not-a-uuid"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (too_new, "upgrade the coordinator"),
        (too_old, "upgrade the agent"),
        (nameless, "name must be"),
        (without_id, "node_id"),
    ],
)
def test_an_agent_that_can_never_join_stops_and_says_why(
    tmp_path: Path, change: Callable[[Hello], Hello], says: str
) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(20), small_cluster(tmp_path, "attic") as cluster:
            stranger = InProcessAgent(cluster.hub.grpc_address, "stranger")
            introduction = stranger.agent.hello
            stranger.agent.hello = lambda: change(introduction())
            await stranger.start()
            assert stranger.task is not None
            with pytest.raises(Refused, match=says):
                await stranger.task
            stranger.task = None
            await stranger.aclose()
            assert [node.name for node in (await cluster.coordinator.state()).nodes] == ["attic"]

    asyncio.run(scenario())


def test_a_first_frame_that_is_not_hello_ends_the_link_with_a_clear_status(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(20), small_cluster(tmp_path, "attic") as cluster:
            async with aio.insecure_channel(cluster.hub.grpc_address, options=DIALER_OPTIONS) as channel:
                call = node_pb2_grpc.NodeServiceStub(channel).Link()
                beat = node_pb2.AgentFrame(heartbeat=node_pb2.Heartbeat(sequence=1))
                await call.write(node_pb2.AgentBatch(frames=[beat]))
                with pytest.raises(aio.AioRpcError, match="must be Hello") as caught:
                    await call.read()
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            node = await cluster.node("attic")
            assert node is not None
            assert node.state is NodeState.ALIVE

    asyncio.run(scenario())


def test_an_agent_that_says_nothing_is_let_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            asyncio.timeout(20),
            small_cluster(tmp_path, "attic", hello_within_s=0.2) as cluster,
            aio.insecure_channel(cluster.hub.grpc_address, options=DIALER_OPTIONS) as channel,
        ):
            call = node_pb2_grpc.NodeServiceStub(channel).Link()
            with pytest.raises(aio.AioRpcError, match="no Hello"):
                await call.read()

    asyncio.run(scenario())


def test_an_agent_that_dies_right_after_its_hello_leaves_no_living_node_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            asyncio.timeout(30),
            small_cluster(tmp_path, "attic", dead_after_s=60, suspect_after_s=50) as cluster,
        ):
            for number in range(20):
                async with aio.insecure_channel(cluster.hub.grpc_address, options=DIALER_OPTIONS) as channel:
                    call = node_pb2_grpc.NodeServiceStub(channel).Link()
                    frame = node_pb2.AgentFrame(hello=hello_message(hello_of(f"ghost{number}")))
                    await call.write(node_pb2.AgentBatch(frames=[frame]))
                    await asyncio.sleep(0.0005 * number)
                    call.cancel()
            async with asyncio.timeout(5):
                while any(
                    node.state is NodeState.ALIVE and node.name != "attic"
                    for node in (await cluster.coordinator.state()).nodes
                ):
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_batch_of_too_many_frames_ends_the_link_and_disturbs_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(30), small_cluster(tmp_path, "attic") as cluster:
            async with aio.insecure_channel(cluster.hub.grpc_address, options=DIALER_OPTIONS) as channel:
                call = node_pb2_grpc.NodeServiceStub(channel).Link()
                hello = node_pb2.AgentFrame(hello=hello_message(hello_of("flood")))
                await call.write(node_pb2.AgentBatch(frames=[hello]))
                assert isinstance(await call.read(), node_pb2.CoordinatorBatch)
                report = node_pb2.AgentFrame(
                    replica=node_pb2.ReplicaReport(model="scripted", state=common_pb2.REPLICA_STATE_READY)
                )
                await call.write(node_pb2.AgentBatch(frames=[report] * 50_000))
                while isinstance(await call.read(), node_pb2.CoordinatorBatch):
                    pass
            await cluster.until_ready("attic")

    asyncio.run(scenario())
