from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_proto.cluster import MemberAnswer
from chorus_proto.errors import ClusterError, NoAnswer, NodeLost
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import AggregateStrategy
from chorus_server.aggregate import aggregate, meaning, normalised


def said(node: str, text: str, error: ClusterError | None = None) -> MemberAnswer:
    return MemberAnswer(node_id=NodeId(f"id-{node}"), node_name=node, model=ModelName("tiny"), text=text, error=error)


PARIS = [said("attic", "Lyon"), said("office", "**Paris.**"), said("cellar", "paris")]


def test_first_takes_the_answer_that_came_first_and_tells_how_many_agree() -> None:
    got = aggregate(AggregateStrategy.FIRST, PARIS)
    assert (got.text, got.winners) == ("Lyon", ("id-attic",))
    assert got.agreement == pytest.approx(1 / 3)


def test_vote_takes_the_first_original_of_the_largest_group() -> None:
    got = aggregate(AggregateStrategy.VOTE, PARIS)
    assert (got.text, got.winners) == ("**Paris.**", ("id-office", "id-cellar"))
    assert got.agreement == pytest.approx(2 / 3)


def test_a_tied_vote_goes_to_the_group_whose_first_member_came_earliest() -> None:
    got = aggregate(AggregateStrategy.VOTE, [said("a", "x"), said("b", "y"), said("c", "Y!"), said("d", "X")])
    assert (got.text, got.winners) == ("x", ("id-a", "id-d"))


def test_longest_takes_the_longest_and_of_equally_long_ones_the_earliest() -> None:
    members = [said("a", "one      "), said("b", "three"), said("c", "seven")]
    got = aggregate(AggregateStrategy.LONGEST, members)
    assert (got.text, got.winners) == ("three", ("id-b",))


def test_concat_shows_every_answer_under_its_node_and_model() -> None:
    got = aggregate(AggregateStrategy.CONCAT, PARIS)
    assert got.text == "[attic, tiny]\nLyon\n\n[office, tiny]\n**Paris.**\n\n[cellar, tiny]\nparis"
    assert got.agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize("strategy", AggregateStrategy)
def test_a_member_that_failed_or_said_nothing_is_left_out(strategy: AggregateStrategy) -> None:
    members = [said("a", "half an ans", NodeLost("it went away")), said("b", "  \n"), said("c", "Paris")]
    got = aggregate(strategy, members)
    assert got.text.endswith("Paris")
    assert (got.agreement, got.winners) == (1.0, ("id-c",))


@pytest.mark.parametrize("strategy", AggregateStrategy)
def test_when_nobody_answered_each_reason_is_named(strategy: AggregateStrategy) -> None:
    with pytest.raises(NoAnswer) as caught:
        aggregate(strategy, [said("attic", "", NodeLost("it went away")), said("office", " ")])
    assert caught.value.message == ("none of 2 nodes answered; attic: it went away; office: the answer was empty")
    with pytest.raises(NoAnswer, match="no node was asked"):
        aggregate(strategy, [])


@pytest.mark.parametrize(
    "same",
    [
        ["42", "It is 42.", "**42**", "The answer is **42**.", "2 + 40 = 42", "$42$", "\\boxed{42}", "42.00", "+42"],
        ["I thought about it.\n2 + 40 makes\nFinal answer: 42", "sum\n**Answer:** 42", "#### 42", "42"],
        ["1,000", "1000", "1000.0"],
        ["-5", "\u22125", "It's -5.0"],
        [".5", "0.50"],
        ["B", "(b)", "B) Lyon", "The answer is (B).", "Option B", "answer: b, because Lyon is one"],
        ["Paris", " paris.", "\u201cParis\u201d!", "\uff30aris"],
        ['{"b": 1, "a": 2}', '```json\n{"a":2,"b":1}\n```'],
        ["new\n  york", "New York"],
    ],
)
def test_answers_that_say_the_same_have_one_meaning(same: list[str]) -> None:
    assert len({meaning(text) for text in same}) == 1


def test_answers_that_say_different_things_differ() -> None:
    different = [
        *("5", "-5", "50", "50%", "0.5", "not 5", "5 km", "5 m", "10:30", "11:30", "1.2.3"),
        *("B", "C", "C#", "C++", "J. Smith", "J. Doe", "The answer is a cat", "The answer is a dog"),
        *("The Paris", "Paris", '{"a": 1}', '{"a": 2}', "{broken", "Paris has 2 million people", "Lyon has 2 million"),
    ]
    assert len({meaning(text) for text in different}) == len(different)


def test_a_long_text_is_not_reduced_to_the_number_it_ends_in() -> None:
    assert meaning("reason " * 40 + "so it is 4") != meaning("other " * 40 + "so it is 4")


@given(st.text())
def test_every_text_has_a_meaning_and_case_and_space_around_it_change_nothing(text: str) -> None:
    assert normalised(f"  {text}\n") == normalised(text)
    assert isinstance(meaning(text), str)
