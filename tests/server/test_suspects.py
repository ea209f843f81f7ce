"""Requests that kill engines, alone and among innocent ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from chorus_proto import node_pb2
from chorus_proto.errors import EngineDied, RequestCrashesEngine
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName
from chorus_server.coordinator import Coordinator
from chorus_server.suspects import BLOCKED_FOR_S, Ran, Suspects
from tests.server.test_dispatch import call_for, play, text_of
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode

TINY = ModelName("tiny")
POISON = Generation(prompt="poison").encoded()


def text(prompt: str) -> bytes:
    return Generation(prompt=prompt).encoded()


def test_the_second_death_blocks_the_request_for_ten_minutes_under_whatever_name_it_comes() -> None:
    clock = FakeClock()
    suspects = Suspects(clock)
    assert not suspects.check(TINY, POISON)
    suspects.died(1, "attic", [Ran(TINY, POISON)])
    assert suspects.check(TINY, POISON)
    suspects.died(2, "cellar", [Ran(TINY, POISON)])
    renamed = msgspec.structs.replace(Generation.decoded(POISON), answer_id="other", choice=1, choices=2, seed=4)
    for same in (POISON, renamed.encoded()):
        with pytest.raises(RequestCrashesEngine, match=r"on attic and on cellar.*10 min"):
            suspects.check(TINY, same)
    assert not suspects.check(ModelName("other"), POISON)
    assert not suspects.check(TINY, text("harmless"))
    clock.advance(BLOCKED_FOR_S)
    assert not suspects.check(TINY, POISON)


def test_one_death_is_counted_once_whoever_tells_of_it() -> None:
    suspects = Suspects(FakeClock())
    for _ in range(3):
        suspects.died(1, "attic", [Ran(TINY, POISON), Ran(TINY, text("innocent"))])
    assert suspects.check(TINY, POISON)
    assert suspects.check(TINY, text("innocent"))


def test_when_an_engine_dies_under_a_suspect_those_beside_it_are_taken_for_innocent() -> None:
    suspects = Suspects(FakeClock())
    suspects.died(1, "attic", [Ran(TINY, POISON), Ran(TINY, text("innocent"))])
    suspects.died(2, "cellar", [Ran(TINY, POISON), Ran(TINY, text("newcomer"))])
    assert not suspects.check(TINY, text("newcomer"))
    with pytest.raises(RequestCrashesEngine):
        suspects.check(TINY, POISON)
    suspects.finished(TINY, text("innocent"))
    assert not suspects.check(TINY, text("innocent"))


def test_what_is_no_generation_stands_for_itself() -> None:
    suspects = Suspects(FakeClock())
    suspects.died(1, "attic", [Ran(TINY, b"\xff")])
    assert suspects.check(TINY, b"\xff")
    assert not suspects.check(TINY, b"\xfe")


def run_nodes(nodes: list[FakeNode], ran: list[tuple[str, str]], *, slots: int) -> list[asyncio.Task[None]]:
    """Engines that die of the poison, with all that runs there, and come back; `ran` notes (node, prompt)."""

    async def run(node: FakeNode) -> None:
        restarts = 0
        open_ones: list[node_pb2.Execute] = []
        while True:
            order = await node.next_execute()
            prompt = Generation.decoded(order.generation).prompt or ""
            ran.append((node.hello.name, prompt))
            open_ones.append(order)
            await asyncio.sleep(0.01)  # others may join it
            if prompt != "poison":
                if all(one.execution_id != order.execution_id for one in open_ones):
                    continue
                node.finish(order.execution_id, prompt)
                open_ones.remove(order)
                continue
            for one in [*open_ones, *joined(node)]:
                node.fail(one.execution_id, EngineDied("the engine ended with code -11"))
            open_ones.clear()
            restarts += 1
            node.ready(slots=slots, restarts=restarts)

    def joined(node: FakeNode) -> list[node_pb2.Execute]:
        frames = node.take_pending()
        orders = [frame.execute for frame in frames if frame.WhichOneof("kind") == "execute"]
        ran.extend((node.hello.name, Generation.decoded(order.generation).prompt or "") for order in orders)
        return orders

    return [asyncio.create_task(run(node)) for node in nodes]


def scenario_of(
    prompts: list[str], *, slots: int, names: tuple[str, ...] = ("a", "b", "c")
) -> tuple[Callable[[Coordinator, FakeClock], Awaitable[None]], list[tuple[str, str]], list[object]]:
    ran: list[tuple[str, str]] = []
    results: list[object] = []

    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [FakeNode(coordinator, clock, name) for name in names]
        for node in nodes:
            node.ready(slots=slots)
        running = run_nodes(nodes, ran, slots=slots)
        asks = [replace(call_for(), generation=text(prompt)) for prompt in prompts]
        results.extend(
            await asyncio.gather(*(text_of(coordinator.submit(ask)) for ask in asks), return_exceptions=True)
        )
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    return scenario, ran, results


def test_a_poison_request_kills_two_engines_and_no_third(tmp_path: Path) -> None:
    scenario, ran, results = scenario_of(["poison"], slots=1)
    play(tmp_path, scenario)
    assert isinstance(results[0], RequestCrashesEngine)
    assert len(ran) == 2


def test_a_poison_request_kills_the_only_node_twice_and_no_more(tmp_path: Path) -> None:
    scenario, ran, results = scenario_of(["poison"], slots=1, names=("a",))
    play(tmp_path, scenario)
    assert isinstance(results[0], RequestCrashesEngine)
    assert len(ran) == 2


def test_those_that_ran_beside_a_poison_request_are_answered(tmp_path: Path) -> None:
    prompts = ["one", "two", "poison", "three"]
    scenario, ran, results = scenario_of(prompts, slots=4, names=("a", "b"))
    play(tmp_path, scenario)
    assert [result for result in results if isinstance(result, str)] == ["one", "two", "three"]
    assert isinstance(results[2], RequestCrashesEngine)
    assert [prompt for _, prompt in ran].count("poison") == 2


def test_the_same_poison_sent_again_and_again_kills_two_engines_in_all(tmp_path: Path) -> None:
    scenario, ran, results = scenario_of(["poison"] * 6, slots=1, names=("a",))
    play(tmp_path, scenario)
    assert all(isinstance(result, RequestCrashesEngine) for result in results)
    assert len(ran) == 2
