"""Mirrors chorus_server/weights.py."""

from __future__ import annotations

from chorus_server.weights import Weights


def test_a_backends_own_weight_goes_before_the_settings_for_as_long_as_it_is_registered() -> None:
    weights = Weights({"attic": 2.0})
    seen = weights.by_name
    assert dict(seen) == {"attic": 2.0}
    weights.registered("attic", 0.5)
    weights.registered("cloud", 3.0)
    assert dict(seen) == {"attic": 0.5, "cloud": 3.0}
    weights.registered("attic", None)
    weights.registered("cloud", None)
    weights.registered("never", None)
    assert dict(seen) == {"attic": 2.0}
