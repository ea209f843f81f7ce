"""Weights of votes, and when enough have come."""

from __future__ import annotations

import random

import pytest

from chorus_server.voting import (
    Ballot,
    beta_above_half,
    decided,
    disagreement,
    fewest_to_decide,
    regularised_beta,
    tally,
    weights_of,
)


def ballots(*meanings: str, weight: float = 1.0) -> list[Ballot]:
    return [Ballot(meaning, weight) for meaning in meanings]


def test_a_better_model_outvotes_two_that_hardly_know_more_than_chance() -> None:
    strong, weak = weights_of([0.8, 0.38])
    assert strong > 2 * weak > 0
    assert tally([Ballot("Paris", strong), Ballot("Rome", weak), Ballot("Rome", weak)])[0][0] == "Paris"


def test_a_model_no_better_than_chance_has_no_vote_unless_nobody_is() -> None:
    assert weights_of([0.8, 0.29])[1] == 0
    assert weights_of([0.1, 0.2, 0.05]) == [0.1, 0.2, 0.05]
    assert all(weight > 0 for weight in weights_of([0.0, 0.0]))


def test_log_odds_votes_beat_equal_ones_and_do_not_fall_behind_the_best_alone() -> None:
    """1 x 8B + 3 x 3B + 6 x 1B, wrong answers spread over three: the panel of scheduling studies."""
    qualities = [0.8] + [0.62] * 3 + [0.38] * 6
    weights = weights_of(qualities)
    draw = random.Random(4)
    best = equal = weighted = 0
    rounds = 4000
    for _ in range(rounds):
        said = ["right" if draw.random() < p else draw.choice(("a", "b", "c")) for p in qualities]
        best += said[0] == "right"
        equal += tally([Ballot(one, 1.0) for one in said])[0][0] == "right"
        weighted += tally([Ballot(one, w) for one, w in zip(said, weights, strict=True)])[0][0] == "right"
    assert weighted > equal
    assert weighted > best


def test_ties_go_to_who_came_first() -> None:
    assert [meaning for meaning, _ in tally(ballots("b", "a", "a", "b", "c"))] == ["b", "a", "c"]


def test_disagreement_is_the_share_of_the_votes_against() -> None:
    assert disagreement([Ballot("a", 3), Ballot("b", 1)], "a") == 0.25
    assert disagreement(ballots("a", "a"), "a") == 0
    assert disagreement([], "a") == 0


@pytest.mark.parametrize(("a", "b"), [(1, 1), (5, 1), (3, 2), (2.5, 7.1), (40, 30)])
def test_the_beta_test_is_what_draws_say(a: float, b: float) -> None:
    draw = random.Random(1)
    share = sum(draw.betavariate(a, b) > 0.5 for _ in range(40_000)) / 40_000
    assert beta_above_half(a, b) == pytest.approx(share, abs=0.01)


def test_the_incomplete_beta_function_has_its_known_values() -> None:
    assert regularised_beta(1, 1, 0.3) == pytest.approx(0.3)
    assert regularised_beta(2, 3, 0.5) == pytest.approx(0.6875)
    assert regularised_beta(5, 1, 0.5) == pytest.approx(0.5**5)
    assert (regularised_beta(2, 2, 0), regularised_beta(2, 2, 1)) == (0, 1)


def test_it_is_decided_when_nobody_can_catch_up_or_the_lead_is_sure_to_last() -> None:
    assert not decided([], [1.0])
    assert not decided(ballots("a", "a"), [1.0] * 3)
    assert decided(ballots("a", "a", "a"), [1.0] * 2)  # three of five
    assert not decided(ballots("a", "a", "a"), [1.0] * 7)
    assert decided(ballots("a", "a", "a", "a"), [1.0] * 6)  # 1 - 0.5^5 > 0.95
    assert not decided(ballots("a", "a", "a", "a", "b", "b"), [1.0] * 6)
    assert decided(ballots("a", "b"), [])
    assert decided([Ballot("a", 5.0), Ballot("b", 1.0)], [1.0, 1.0])


def test_no_more_are_asked_than_could_decide_it() -> None:
    assert fewest_to_decide([], [], [1.0] * 5) == 3
    assert fewest_to_decide([], [], [1.0] * 10) == 4
    assert fewest_to_decide(ballots("a", "a", "b"), [], [1.0] * 2) == 1
    assert fewest_to_decide(ballots("a", "a"), [1.0], [1.0] * 2) == 0
    assert fewest_to_decide([], [], [5.0, 1.0, 1.0]) == 1
    assert fewest_to_decide(ballots("a"), [], []) == 0
