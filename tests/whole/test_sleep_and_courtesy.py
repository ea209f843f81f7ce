"""Real agents on real links that sleep, wake up and yield to their owner; the engines are the test's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from chorus_client import link as link_module
from chorus_proto.errors import NodeLost
from chorus_proto.values import ALL_OURS, Courtesy, NodeState, ReplicaState
from tests.support.patience import granted_s
from tests.support.small_cluster import SmallCluster, small_cluster
from tests.whole.test_cluster_contract import call_for, collected

PAUSE = Courtesy(paused=True, reason="its owner is at the keyboard")


def play(folder: Path, scenario: Callable[[SmallCluster], Awaitable[None]], *names: str) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), small_cluster(folder, *names) as cluster:
            await scenario(cluster)

    asyncio.run(run())


async def until(what: str, met: Callable[[], Awaitable[bool]], *, within_s: float = 5.0) -> float:
    """Seconds that it took."""
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(granted_s(within_s)):
            while not await met():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None
    return time.monotonic() - began_s


def test_a_pc_that_goes_to_sleep_leaves_cleanly_in_time_and_rejoins_when_it_wakes_up(tmp_path: Path) -> None:
    async def scenario(cluster: SmallCluster) -> None:
        attic = cluster.agents["attic"]
        began_s = time.monotonic()
        await attic.link.leave_for_sleep()
        assert time.monotonic() - began_s < granted_s(2)
        await cluster.until_state("attic", NodeState.ASLEEP)
        await asyncio.sleep(0.5)  # longer than every pause between two tries
        node = await cluster.node("attic")
        assert node is not None and node.state is NodeState.ASLEEP, "it must not dial again before it has slept"
        attic.link.reopen("this PC slept")

        async def is_ready() -> bool:
            return cluster._serves(await cluster.node("attic"))  # pyright: ignore[reportPrivateUsage]  # its own look

        assert await until("it serves again", is_ready)
        assert (await collected(cluster.coordinator.submit(call_for("one two"))))[1] == "onetwo"

    play(tmp_path, scenario, "attic")


def test_a_pc_that_stays_awake_after_all_comes_back_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "ASLEEP_WITHIN_S", 0.3)

    async def scenario(cluster: SmallCluster) -> None:
        await cluster.agents["attic"].link.leave_for_sleep()
        await cluster.until_state("attic", NodeState.ASLEEP)
        await cluster.until_state("attic", NodeState.ALIVE)

    play(tmp_path, scenario, "attic")


def test_a_pc_without_a_link_may_go_to_sleep_too(tmp_path: Path) -> None:
    async def scenario(cluster: SmallCluster) -> None:
        attic = cluster.agents["attic"]
        await attic.cut()
        async with asyncio.timeout(granted_s(1)):
            await attic.link.leave_for_sleep()

    play(tmp_path, scenario, "attic")


def test_what_was_not_shown_yet_moves_to_another_node_when_a_pc_falls_asleep(tmp_path: Path) -> None:
    async def scenario(cluster: SmallCluster) -> None:
        attic = cluster.agents["attic"]
        attic.loaded.hold.clear()
        answer = asyncio.create_task(collected(cluster.coordinator.submit(call_for("one two"))))

        async def runs() -> bool:
            return attic.loaded.generating == 1

        await until("it runs in the attic", runs)
        await cluster.join("cellar")
        await cluster.until_ready("cellar")
        await attic.link.leave_for_sleep()
        assert (await answer)[1] == "onetwo"

        async def is_quiet() -> bool:
            return attic.loaded.generating == 0

        assert await until("its engine is quiet", is_quiet) < granted_s(2)

    play(tmp_path, scenario, "attic")


def test_a_link_opened_anew_drops_what_ran_on_the_old_one_and_no_old_token_is_shown(tmp_path: Path) -> None:
    async def scenario(cluster: SmallCluster) -> None:
        attic = cluster.agents["attic"]
        attic.loaded.words_before_hold = 1
        attic.loaded.hold.clear()
        shown: list[str] = []

        async def ask() -> None:
            async for event in cluster.coordinator.submit(call_for("begun never")):
                shown.append(type(event).__name__)

        first = asyncio.create_task(ask())

        async def has_begun() -> bool:
            return "CallOutput" in shown

        await until("the first word", has_begun)
        attic.link.reopen("this PC slept")
        with pytest.raises(NodeLost):
            await first
        attic.loaded.hold.set()
        await cluster.until_ready("attic")
        assert (await collected(cluster.coordinator.submit(call_for("one two"))))[1] == "onetwo"
        assert shown.count("CallOutput") == 1

    play(tmp_path, scenario, "attic")


def test_the_hub_hears_of_the_owner_within_a_second_and_again_after_a_lost_link(tmp_path: Path) -> None:
    async def scenario(cluster: SmallCluster) -> None:
        attic = cluster.agents["attic"]

        async def shows(courtesy: Courtesy) -> bool:
            node = await cluster.node("attic")
            return node is not None and node.state is NodeState.ALIVE and node.courtesy == courtesy

        few = Courtesy(slots=1, reason="other programs use 80 % of the CPU")
        attic.agent.be_polite(few)
        assert await until("fewer slots are seen", lambda: shows(few)) < granted_s(1)
        await attic.cut()
        attic.agent.be_polite(PAUSE)
        await attic.start()
        await until("the pause is seen", lambda: shows(PAUSE))
        attic.agent.be_polite(ALL_OURS)
        assert await until("the end is seen", lambda: shows(ALL_OURS)) < granted_s(1)

    play(tmp_path, scenario, "attic")


def test_an_owner_who_wants_his_memory_gets_it_and_the_model_comes_back_when_he_leaves(tmp_path: Path) -> None:
    async def scenario(cluster: SmallCluster) -> None:
        attic = cluster.agents["attic"]

        async def holds(state: ReplicaState | None) -> bool:
            node = await cluster.node("attic")
            states = [] if node is None else [replica.report.state for replica in node.replicas]
            return states == ([] if state is None else [state])

        attic.loaded.hold.clear()
        running = asyncio.create_task(collected(cluster.coordinator.submit(call_for("one two"))))

        async def runs() -> bool:
            return attic.loaded.generating == 1

        await until("it runs", runs)
        attic.agent.be_polite(PAUSE)
        attic.agent.free_idle_models(PAUSE.reason)
        assert await holds(ReplicaState.READY), "what runs is not cut"
        attic.loaded.hold.set()
        assert (await running)[1] == "onetwo"
        attic.agent.free_idle_models(PAUSE.reason)
        await until("the model is gone", lambda: holds(None))
        waiting = asyncio.create_task(collected(cluster.coordinator.submit(call_for("three"))))
        await asyncio.sleep(0.6)  # two sweeps of the coordinator
        assert await holds(None), "it is not loaded again while its owner needs the memory"
        attic.agent.be_polite(ALL_OURS)
        assert (await waiting)[1] == "three"

    play(tmp_path, scenario, "attic")
