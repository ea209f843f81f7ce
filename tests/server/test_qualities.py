"""How able a model of some size is taken to be."""

from __future__ import annotations

import pytest

from chorus_server.qualities import UNKNOWN, prior_quality


def test_the_anchors_lie_where_the_catalogue_has_them() -> None:
    for billions, quality in ((1, 0.38), (3, 0.62), (8, 0.80)):
        assert prior_quality(round(billions * 1e9)) == pytest.approx(quality, abs=0.01)


def test_larger_is_better_within_limits_and_the_unknown_stands_between() -> None:
    sizes = [10**6, 10**8, 10**9, 7 * 10**9, 10**12]
    qualities = [prior_quality(size) for size in sizes]
    assert qualities == sorted(qualities)
    assert (qualities[0], qualities[-1]) == (0.05, 0.95)
    assert prior_quality(None) == prior_quality(0) == UNKNOWN
