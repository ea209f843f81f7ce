from __future__ import annotations

from chorus_proto.backoff import JITTER, delay_s


def test_the_delay_doubles_from_one_second_to_a_minute() -> None:
    assert [delay_s(failures) for failures in (-1, 0, 1, 2, 5, 6, 5000)] == [1, 1, 2, 4, 32, 60, 60]


def test_the_jitter_spreads_it_by_half_to_both_sides() -> None:
    assert [delay_s(2, jitter=factor) for factor in JITTER] == [2, 6]


def test_first_and_last_can_be_chosen() -> None:
    assert [delay_s(failures, first_s=0.5, last_s=3) for failures in range(5)] == [0.5, 1, 2, 3, 3]
