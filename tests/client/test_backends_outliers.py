from __future__ import annotations

from chorus_client.backends.outliers import OutlierRules, Outliers
from tests.support.clock import FakeClock

RULES = OutlierRules(in_a_row=5, of_least=10, window_s=30, first_s=30, longest_s=75)


def told(outliers: Outliers, text: str) -> None:
    """`+` a good answer, `-` a failure."""
    for one in text:
        outliers.answered(good=one == "+")


def test_five_failures_in_a_row_make_a_suspect_and_four_do_not() -> None:
    outliers = Outliers(FakeClock(), RULES)
    told(outliers, "----")
    assert not outliers.suspect
    told(outliers, "-")
    assert outliers.suspect


def test_half_of_ten_within_the_window_do_too() -> None:
    clock = FakeClock()
    outliers = Outliers(clock, RULES)
    told(outliers, "+-+-+-+-+")
    assert not outliers.suspect
    told(outliers, "-")
    assert outliers.suspect
    clock.advance(31)
    assert not outliers.suspect


def test_rests_grow_up_to_a_limit_until_a_good_answer() -> None:
    outliers = Outliers(FakeClock(), RULES)
    assert [outliers.eject() for _ in range(4)] == [30, 60, 75, 75]
    outliers.acquit()
    assert not outliers.suspect
    assert outliers.eject() == 75
    outliers.acquit()
    told(outliers, "+")
    assert outliers.eject() == 30
