"""A real agent behind a real link loads what callers ask for, once, and lets go of it again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chorus_proto.errors import InsufficientMemory
from chorus_proto.values import Node, ReplicaState
from tests.support.small_cluster import SmallCluster, small_cluster
from tests.whole.test_cluster_contract import call_for, collected

BOTH = ("echo", "other")


async def joined(cluster: SmallCluster) -> tuple[Node, str]:
    """The node `attic` with both models, and the one of them that it is not assigned."""
    await cluster.join("attic", models=BOTH)
    await cluster.until_ready("attic")
    node = await cluster.node("attic")
    assert node is not None
    return node, next(model for model in BOTH if model != node.assigned_model)


async def answer(cluster: SmallCluster, model: str) -> str:
    _, text = await collected(cluster.coordinator.submit(call_for("one two", model=model)))
    return text


def test_ten_callers_of_a_model_on_the_disk_are_served_by_one_load_that_is_freed_later(tmp_path: Path) -> None:
    async def run() -> None:
        async with small_cluster(tmp_path, model_keep_alive_s=0.5) as cluster:
            node, guest = await joined(cluster)
            assert await asyncio.gather(*(answer(cluster, guest) for _ in range(10))) == ["onetwo"] * 10
            assert len(cluster.agents["attic"].engine.loads) == 2
            async with asyncio.timeout(10):
                while (now := await cluster.node("attic")) is None or len(now.replicas) > 1:
                    await asyncio.sleep(0.02)
            assert [(one.report.model, one.report.state) for one in now.replicas] == [
                (node.assigned_model, ReplicaState.READY)
            ]
            assert {one.model for one in now.footprints} == set(BOTH)

    asyncio.run(run())


def test_callers_of_a_model_that_does_not_fit_are_refused_at_once_with_the_agents_words(tmp_path: Path) -> None:
    async def run() -> None:
        async with small_cluster(tmp_path) as cluster:
            _, guest = await joined(cluster)
            cluster.agents["attic"].engine.too_big = True
            async with asyncio.timeout(5):
                for _ in range(2):
                    with pytest.raises(InsufficientMemory, match=r"attic answered.*needs 9 GB; free 8"):
                        await answer(cluster, guest)
            assert await answer(cluster, BOTH[0] if guest == BOTH[1] else BOTH[1]) == "onetwo"

    asyncio.run(run())
