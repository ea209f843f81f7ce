"""A model deleted over real gRPC: only what came over the network goes, and never what a PC's owner put there."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from chorus_proto.errors import InvalidRequest
from tests.server.test_dispatch import call_for, text_of
from tests.support.file_node import FileNode, file_node
from tests.support.model_files import model_bytes
from tests.support.small_cluster import SmallCluster, small_cluster

MODEL = model_bytes(300_000)
NAME = "big-model:latest"


async def holders(cluster: SmallCluster) -> set[str]:
    """Names of the nodes on whose disk the hub believes the model to be."""
    nodes = (await cluster.coordinator.state()).nodes
    return {node.name for node in nodes if any(file.name.startswith("big-model") for file in node.models)}


async def until_holders(cluster: SmallCluster, *names: str) -> None:
    async with asyncio.timeout(15):
        while await holders(cluster) != set(names):
            await asyncio.sleep(0.01)


def test_a_copied_model_is_deleted_where_it_came_to_and_stays_where_its_owner_has_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(40),
            small_cluster(tmp_path / "hub") as cluster,
            AsyncExitStack() as stack,
        ):

            async def node(name: str, models: dict[str, bytes] | None = None) -> FileNode:
                return await stack.enter_async_context(
                    file_node(cluster.hub.grpc_address, name, tmp_path, models=models)
                )

            attic = await node("attic", {"big-model": MODEL})
            cellar = await node("cellar")
            await until_holders(cluster, "attic")
            with pytest.raises(InvalidRequest, match="belongs to the owner of attic"):
                await cluster.coordinator.delete_model(NAME)
            async with asyncio.timeout(15):
                while await cluster.node("cellar") is None:
                    await asyncio.sleep(0.01)
            await cluster.coordinator.copy_model(NAME, to="cellar")
            await until_holders(cluster, "attic", "cellar")
            assert await text_of(cluster.coordinator.submit(call_for("big-model")))
            order = await cluster.coordinator.delete_model("Big-Model")
            assert [one.node_name for one in order.nodes] == ["cellar"]
            await until_holders(cluster, "attic")
            assert cellar.models() == []
            assert len(list((attic.folder / "own").iterdir())) == 1

    asyncio.run(run())
