from __future__ import annotations

from chorus_client.transfer.pace import Pace
from tests.support.clock import FakeClock

Told = list[tuple[int, int | None, float]]


def made() -> tuple[Pace, FakeClock, Told]:
    clock, told = FakeClock(), Told()
    pace = Pace(clock, lambda done, total, speed: told.append((done, total, speed)))
    return pace, clock, told


def test_the_first_and_the_last_are_told_and_one_each_half_second_between() -> None:
    pace, clock, told = made()
    pace.total_bytes = 1000
    for done in range(0, 1001, 10):
        pace.at(done)
        clock.advance(0.0625)
    assert [done for done, _, _ in told] == [*range(0, 1000, 80), 1000]
    assert told[-1][1] == 1000


def test_the_speed_is_of_the_last_seconds() -> None:
    pace, clock, _ = made()
    assert pace.bytes_per_s == 0
    for second in range(10):
        pace.at(1000 * second)
        clock.advance(1)
    assert pace.bytes_per_s == 1000
    for second in range(10):
        pace.at(9000 + 10 * (second + 1))
        clock.advance(1)
    assert pace.bytes_per_s < 11


def test_a_fetch_that_begins_anew_has_no_negative_speed() -> None:
    pace, clock, told = made()
    pace.at(1000)
    clock.advance(1)
    pace.at(0)
    clock.advance(1)
    pace.at(500)
    assert pace.bytes_per_s == 500
    assert all(speed >= 0 for _, _, speed in told)
