from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chorus_proto.errors import ClusterError, DeadlineExceeded, EngineDied, EngineFailed, InvalidRequest, NodeLost
from chorus_proto.ids import ModelName, NodeId
from chorus_server.breakers import BreakerRules, Breakers
from chorus_server.coordinator import Coordinator
from chorus_server.routing import Candidate
from tests.server.test_dispatch import call_for, nodes_of, play, text_of
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode

TINY = ModelName("tiny")


def pc(number: int, *, slots: int = 4) -> Candidate:
    return Candidate(NodeId(f"n{number}"), f"n{number}", TINY, slots, 0)


class Played:
    """A few nodes of one model, all with breakers."""

    def __init__(self, nodes: int) -> None:
        self.clock = FakeClock()
        self.breakers = Breakers(self.clock, BreakerRules())
        self.nodes = [pc(number) for number in range(nodes)]
        self._incarnation = 0

    def fails(
        self, node: int, times: int, error: ClusterError | None = None, *, began_s: float | None = None
    ) -> list[str]:
        """What people were told."""
        told: list[str] = []
        for _ in range(times):
            self._incarnation += 1
            words = self.breakers.failed(
                NodeId(f"n{node}"),
                TINY,
                error or EngineFailed("it broke"),
                incarnation=self._incarnation,
                began_s=self.clock.monotonic_s() if began_s is None else began_s,
            )
            told += [] if words is None else [words]
        return told

    def answers(self, node: int, times: int = 1, *, began_s: float | None = None) -> None:
        for _ in range(times):
            at_s = self.clock.monotonic_s() if began_s is None else began_s
            self.breakers.answered(NodeId(f"n{node}"), TINY, began_s=at_s)

    def given(self) -> dict[str, int]:
        """The nodes that get work, with their slots."""
        return {one.node_id: one.slots for one in self.breakers.sifted(self.nodes)}


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    played = Played(2)
    played.fails(0, 4)
    played.answers(0)
    assert played.fails(0, 4) == [] and set(played.given()) == {"n0", "n1"}
    (told,) = played.fails(0, 1)
    assert told == "gets no tiny for 30 s: 5 failures in a row, the last: it broke"
    assert set(played.given()) == {"n1"}
    assert "5 failures in a row" in played.breakers.words(NodeId("n0"), TINY)
    assert not played.breakers.words(NodeId("n1"), TINY)


def test_half_of_ten_answers_of_late_open_it_too() -> None:
    played = Played(2)
    played.fails(0, 1)
    for _ in range(4):
        played.answers(0)
        assert not played.fails(0, 1)
    assert set(played.given()) == {"n0", "n1"}
    played.answers(0)
    assert played.fails(0, 1)
    assert set(played.given()) == {"n1"}


def test_after_its_time_one_request_tries_and_its_end_decides() -> None:
    played = Played(2)
    played.fails(0, 5)
    played.clock.advance(29)
    assert set(played.given()) == {"n1"}
    played.clock.advance(2)
    assert played.given() == {"n0": 1, "n1": 4}
    (told,) = played.fails(0, 1)
    assert "for 60 s" in told and set(played.given()) == {"n1"}
    played.clock.advance(61)
    played.answers(0)
    assert played.given() == {"n0": 4, "n1": 4}


def test_it_stays_open_for_longer_each_time_up_to_a_limit_and_forgets_after_a_good_while() -> None:
    played = Played(2)
    waits: list[str] = []
    for _ in range(12):
        (told,) = played.fails(0, 5)[:1]
        waits.append(told.split()[4])
        played.clock.advance(301)
        played.answers(0)
    assert waits[:3] == ["30", "60", "90"] and waits[-2:] == ["300", "300"]
    played.clock.advance(901)
    assert "for 30 s" in played.fails(0, 5)[0]


def test_never_more_than_half_of_a_models_nodes_are_left_out_and_never_the_last_one() -> None:
    alone = Played(1)
    alone.fails(0, 50)
    assert alone.given() == {"n0": 4}
    alone.clock.advance(31)
    assert alone.given() == {"n0": 4}
    five = Played(5)
    for node in range(5):
        five.clock.advance(1)
        five.fails(node, 5)
    assert len(five.given()) == 3


def test_what_ran_before_it_opened_says_nothing_about_now() -> None:
    played = Played(2)
    before_s = played.clock.monotonic_s()
    played.clock.advance(1)
    played.fails(0, 5)
    played.answers(0, began_s=before_s)
    assert set(played.given()) == {"n1"}
    played.clock.advance(31)
    played.fails(0, 1, began_s=before_s)
    assert set(played.given()) == {"n0", "n1"}


@pytest.mark.parametrize("error", [InvalidRequest("no"), DeadlineExceeded("late")])
def test_what_the_caller_is_to_blame_for_does_not_count(error: ClusterError) -> None:
    played = Played(2)
    assert not played.fails(0, 20, error)
    assert set(played.given()) == {"n0", "n1"}


@pytest.mark.parametrize("error", [EngineDied("gone"), NodeLost("gone")])
def test_an_end_under_many_requests_counts_once(error: ClusterError) -> None:
    clock = FakeClock()
    breakers = Breakers(clock)
    for _ in range(20):
        assert breakers.failed(NodeId("n0"), TINY, error, incarnation=7, began_s=clock.monotonic_s()) is None


def test_requests_leave_a_node_that_fails_alone_until_one_of_them_goes_well_there(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        bad, good = FakeNode(coordinator, clock, "attic"), FakeNode(coordinator, clock, "cellar")
        bad.ready(slots=4)
        good.ready(slots=4)

        async def asked(*, fails: bool) -> None:
            task = asyncio.create_task(text_of(coordinator.submit(call_for(node="attic"))))
            order = await bad.next_execute()
            if fails:
                bad.fail(order.execution_id, EngineFailed("it broke"))
                with pytest.raises(ClusterError):
                    await task
            else:
                bad.finish(order.execution_id)
                await task

        for _ in range(5):
            await asked(fails=True)
        explained = await coordinator.explain(call_for())
        assert [one.node_name for one in explained.ranking] == ["cellar"]
        assert explained.refused[0].reason.startswith("gets none of it for 30 s more: 5 failures in a row")
        for _ in range(4):
            names = asyncio.create_task(nodes_of(coordinator.submit(call_for())))
            good.finish((await good.next_execute()).execution_id)
            assert await names == ["cellar"]
        # Who wants this node and no other still gets it, and how that ends is believed.
        clock.advance(31)
        good.beat()
        await asked(fails=False)
        assert {one.node_name for one in (await coordinator.explain(call_for())).ranking} == {"attic", "cellar"}

    play(tmp_path, scenario, attempts=1)
