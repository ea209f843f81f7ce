from __future__ import annotations

import pytest

from chorus_http.buckets import Buckets
from tests.support.clock import FakeClock


def test_a_minute_of_requests_may_come_at_once_and_then_they_come_back_evenly() -> None:
    clock = FakeClock()
    buckets = Buckets(clock, limit=10)
    assert [buckets.take("a", per_minute=3) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a", per_minute=3) == pytest.approx(20)
    clock.advance(20)
    assert buckets.take("a", per_minute=3) == 0
    assert buckets.take("a", per_minute=3) == pytest.approx(20)
    clock.advance(1_000_000)
    assert [buckets.take("a", per_minute=3) == 0 for _ in range(4)] == [True, True, True, False]


def test_names_do_not_share() -> None:
    buckets = Buckets(FakeClock(), limit=10)
    assert buckets.take("a", per_minute=1) == 0
    assert buckets.take("b", per_minute=1) == 0
    assert buckets.take("a", per_minute=1) > 0


def test_only_so_many_names_are_remembered_the_busiest_of_them() -> None:
    buckets = Buckets(FakeClock(), limit=2)
    assert buckets.take("busy", per_minute=2) == 0
    for other in ("b", "c"):
        assert buckets.take(other, per_minute=2) == 0
        buckets.take("busy", per_minute=2)
    assert buckets.take("busy", per_minute=2) > 0
    assert buckets.take("b", per_minute=1) == 0
