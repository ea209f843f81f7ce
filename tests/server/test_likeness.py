"""Which of several texts is nearest to all."""

from __future__ import annotations

import pytest

from chorus_server.likeness import SAME_FROM, by_vectors, cosine, lexical, nearest_to_all


def test_texts_that_say_nearly_the_same_are_alike_and_others_are_not() -> None:
    likeness = lexical(["The capital is Paris.", "the capital is Paris!", "It is Paris", "Cows eat grass."])
    assert likeness[0][1] == pytest.approx(1.0)
    assert likeness[0][2] > 2 * likeness[0][3]
    assert likeness[0][1] > SAME_FROM > likeness[0][3]


def test_the_nearest_to_all_is_of_the_larger_group() -> None:
    likeness = by_vectors([(1.0, 0.0), (0.9, 0.2), (0.0, 1.0), (1.0, 0.1)])
    assert nearest_to_all(likeness, [1.0] * 4) == 1
    assert nearest_to_all(likeness, [1.0, 1.0, 9.0, 1.0]) == 2
    assert nearest_to_all([[1.0]], [1.0]) == 0


def test_nothing_is_like_nothing() -> None:
    assert cosine((0.0, 0.0), (1.0, 0.0)) == 0.0
    assert lexical(["", "x"])[0][1] < SAME_FROM
