"""When the free slot of a slow PC is left empty, and when not."""

from __future__ import annotations

import pytest

from chorus_proto.ids import ModelName, NodeId
from chorus_server.rates import speeds_of
from chorus_server.routing import NOTHING_HELD, Candidate, Held, Need
from chorus_server.worth_waiting import Better, better_later

NEED = Need(prompt_tokens=0, expected_tokens=100)
CALM = NEED._replace(urgent=False)


def pc(name: str, tokens_per_s: float | None, *, busy: int, slots: int = 1, left: float | None = None) -> Candidate:
    return Candidate(
        node_id=NodeId(name),
        node_name=name,
        model=ModelName("tiny"),
        slots=slots,
        slots_busy=busy,
        speeds=None if tokens_per_s is None else speeds_of(1000.0, tokens_per_s),
        tokens_left=left,
    )


SLOW = pc("laptop", 5, busy=0)


def waits(
    free: Candidate = SLOW,
    *full: Candidate,
    need: Need = NEED,
    others: int = 0,
    may_wait_s: float = 60.0,
    held: Held = NOTHING_HELD,
) -> Better | None:
    return better_later(free, [free, *full], need, held, others=others, may_wait_s=may_wait_s)


def test_a_request_waits_for_a_fast_pc_that_is_done_sooner_than_a_slow_one_would_be() -> None:
    better = waits(SLOW, pc("desktop", 50, busy=1, left=50))
    assert better is not None
    assert better.node_name == "desktop"
    assert better.free_in_s == pytest.approx(1.0, rel=0.1), "50 tokens at 50 a second"


@pytest.mark.parametrize(
    ("fast", "why"),
    [
        (pc("desktop", 50, busy=1, left=2000), "it is busy for too long"),
        (pc("desktop", 6, busy=1, left=0), "it is hardly faster"),
        (pc("desktop", None, busy=1, left=0), "nobody knows how fast it is"),
        (pc("desktop", 50, busy=0, slots=0), "it has no slot at all"),
    ],
)
def test_it_takes_the_free_slot_otherwise(fast: Candidate, why: str) -> None:
    assert waits(SLOW, fast) is None, why


def test_nothing_is_left_empty_that_was_never_measured() -> None:
    assert waits(pc("laptop", None, busy=0), pc("desktop", 50, busy=1, left=0)) is None


def test_with_many_waiting_every_slot_is_taken() -> None:
    """One after the other on the fast one takes 2 s each, on the slow one 20 s: the tenth is no sooner by waiting."""
    fast = pc("desktop", 50, busy=1, left=0)
    assert [waits(SLOW, fast, others=others) is not None for others in (0, 5, 10, 200)] == [True, True, False, False]


def test_several_fast_pcs_take_more_of_those_who_wait() -> None:
    fast = [pc(f"desktop {number}", 50, busy=4, slots=4, left=0) for number in range(3)]
    assert waits(SLOW, *fast, others=30) is not None
    assert waits(SLOW, fast[0], others=30) is None


def test_who_may_not_wait_so_long_takes_what_there_is() -> None:
    fast = pc("desktop", 50, busy=1, left=100)
    assert waits(SLOW, fast, may_wait_s=1.0) is None
    assert waits(SLOW, fast, may_wait_s=3.0) is not None


def test_a_first_token_is_put_off_beyond_its_time_only_where_nobody_could_read_along() -> None:
    fast, brisk = pc("desktop", 200, busy=1, left=1000), pc("laptop", 15, busy=0)
    need = NEED._replace(expected_tokens=500)
    soon = Held({}, left_s=2.0)
    assert waits(brisk, fast, need=need, held=soon) is None, "15 tokens a second are read with ease"
    assert waits(SLOW, fast, need=need, held=soon) is not None
    assert waits(brisk, fast, need=need, held=Held({}, left_s=-1.0)) is not None, "it is late already"
    assert waits(brisk, fast, need=need._replace(urgent=False), held=soon) is not None, "only its end counts"


def test_weights_count_as_speed() -> None:
    fast = pc("desktop", 50, busy=1, left=50)
    liked, spared = pc("laptop", 5, busy=0)._replace(weight=20.0), pc("cloud", 50, busy=0)._replace(weight=0.1)
    assert waits(liked, fast) is None
    assert waits(spared, fast) is not None
    assert waits(spared) is None


def test_what_a_full_pc_has_read_already_makes_it_worth_more() -> None:
    free = pc("laptop", 30, busy=0)
    full = pc("desktop", 50, busy=1, left=20)._replace(incarnation=7)
    need = CALM._replace(prompt_tokens=4000)
    assert waits(free, full, need=need) is None
    assert waits(free, full, need=need, held=Held({7: 3900.0})) is not None
