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
from chorus_proto import node_pb2, node_pb2_grpc
from chorus_proto.channel import DIALER_OPTIONS
from chorus_proto.ids import NodeId
from chorus_proto.values import Hello, NodeState
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
