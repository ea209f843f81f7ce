from __future__ import annotations

import random

import pytest

from chorus_client.restarts import RestartRules, Restarts


def test_the_pause_doubles_from_one_second_to_a_minute() -> None:
    restarts = Restarts(RestartRules(loop_crashes=100))
    pauses = [restarts.crashed(now_s=float(index), chance=0.5).after_s for index in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_pause_is_spread_by_half_of_itself() -> None:
    assert Restarts().crashed(0, chance=0).after_s == 0.5
    assert Restarts().crashed(0, chance=1).after_s == 1.5


def test_an_engine_that_was_good_for_ten_minutes_starts_afresh() -> None:
    restarts = Restarts()
    for now_s in (0.0, 10.0, 20.0):
        restarts.started(now_s)
        restarts.crashed(now_s + 1, chance=0.5)
    restarts.started(30)
    assert restarts.crashed(629, chance=0.5).after_s == 8
    restarts.started(700)
    found = restarts.crashed(1300, chance=0.5)
    assert (found.after_s, found.crashes) == (1, 1)


def test_five_crashes_in_ten_minutes_are_a_loop_with_one_probe_every_ten_minutes() -> None:
    restarts = Restarts()
    starts, now_s = 0, 0.0
    while not restarts.crash_loop:
        restarts.started(now_s)
        starts += 1
        now_s += 3
        found = restarts.crashed(now_s, chance=0.5)
        now_s += found.after_s
    assert starts == 5
    for _ in range(3):
        restarts.started(now_s)
        found = restarts.crashed(now_s + 3, chance=0.5)
        assert (found.crash_loop, found.after_s) == (True, 600)
        now_s += 603


def test_crashes_spread_over_more_than_ten_minutes_are_no_loop() -> None:
    restarts = Restarts()
    for index in range(20):
        assert not restarts.crashed(index * 151.0, chance=0.5).crash_loop


def test_a_probe_that_stays_up_ends_the_loop() -> None:
    restarts = Restarts()
    for index in range(5):
        restarts.crashed(float(index), chance=0.5)
    restarts.started(604)
    assert not restarts.good(700)
    assert restarts.crash_loop
    assert restarts.good(1204)
    assert not restarts.crash_loop
    assert restarts.crashed(1205, chance=0.5).after_s == 1


def test_somebody_may_ask_for_another_try() -> None:
    restarts = Restarts()
    for index in range(5):
        restarts.crashed(float(index), chance=0.5)
    restarts.retry_now()
    assert not restarts.crash_loop
    assert restarts.crashed(6, chance=0.5).crash_loop is False


@pytest.mark.parametrize("run_s", [0.0, 1.5, 3.0])
def test_an_engine_that_always_dies_is_started_at_most_five_times_in_ten_minutes(run_s: float) -> None:
    rng = random.Random(5)
    for _ in range(200):
        restarts = Restarts()
        starts: list[float] = []
        now_s = 0.0
        while now_s < 7200:
            starts.append(now_s)
            restarts.started(now_s)
            now_s += run_s
            now_s += restarts.crashed(now_s, rng.random()).after_s
        assert all(later - first >= 600 for first, later in zip(starts, starts[5:], strict=False))
