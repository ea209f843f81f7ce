"""What is learnt of models from how they vote."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from chorus_proto.ids import ModelName
from chorus_server.opinions import Opinions, keep_opinions, read_opinions
from chorus_server.voting import Ballot

A, B, C = ModelName("a"), ModelName("b"), ModelName("c")


def votes(**said: str) -> list[tuple[ModelName, Ballot]]:
    return [(ModelName(model), Ballot(meaning, 1.0)) for model, meaning in said.items()]


def test_a_prior_stands_until_votes_come() -> None:
    assert Opinions().quality(A, 0.62) == 0.62


def test_models_that_the_others_agree_with_rise_and_the_odd_one_falls() -> None:
    opinions = Opinions()
    for _ in range(100):
        opinions.learn(votes(a="x", b="x", c="y"))
    assert opinions.quality(A, 0.5) == opinions.quality(B, 0.5) > 0.45
    assert opinions.quality(C, 0.5) < 0.1


def test_qualities_come_near_the_truth_whatever_the_prior_said() -> None:
    opinions = Opinions()
    draw = random.Random(3)
    truth = {A: 0.9, B: 0.85, C: 0.4, ModelName("d"): 0.8}
    for _ in range(600):
        opinions.learn(
            [(m, Ballot("right" if draw.random() < p else draw.choice("uvw"), 1.0)) for m, p in truth.items()]
        )
    learnt = {model: opinions.quality(model, 0.5) for model in truth}
    assert learnt[A] > learnt[B] > learnt[C]
    assert learnt == {model: pytest.approx(p, abs=0.15) for model, p in truth.items()}


@pytest.mark.parametrize(
    "said",
    [
        votes(a="x", b="x"),
        [(A, Ballot("x", 1.0)), (A, Ballot("x", 1.0)), (A, Ballot("y", 1.0))],
        votes(a="x", b="y", c="z"),
        [],
    ],
)
def test_nothing_is_learnt_where_agreement_says_nothing(said: list[tuple[ModelName, Ballot]]) -> None:
    opinions = Opinions()
    opinions.learn(said)
    assert not opinions.changed
    assert opinions.quality(A, 0.5) == 0.5


def test_a_model_does_not_vouch_for_itself() -> None:
    opinions = Opinions()
    many = [(A, Ballot("x", 1.0))] * 8
    opinions.learn([*many, (B, Ballot("y", 1.0)), (C, Ballot("y", 1.0))])
    assert opinions.quality(A, 0.5) < 0.5


def test_what_was_learnt_survives_a_restart_and_a_damaged_file_costs_that_alone(tmp_path: Path) -> None:
    opinions, again = Opinions(), Opinions()
    opinions.learn(votes(a="x", b="x", c="y"))
    asyncio.run(keep_opinions(opinions, tmp_path))
    read_opinions(again, tmp_path)
    assert again.quality(A, 0.1) == opinions.quality(A, 0.1) > 0.1
    asyncio.run(keep_opinions(again, tmp_path / "nowhere"))  # nothing has changed: nothing is written
    (tmp_path / "opinions.json").write_bytes(b'{"a": 7}')
    read_opinions(again, tmp_path)
    assert again.quality(A, 0.5) == opinions.quality(A, 0.5)
