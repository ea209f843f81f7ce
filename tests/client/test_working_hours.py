"""Hours as people write them."""

from __future__ import annotations

import pytest

from chorus_client.working_hours import ALWAYS, LocalTime, working_hours
from chorus_proto.settings import SettingsError

MONDAY, FRIDAY, SATURDAY, SUNDAY = 0, 4, 5, 6


def at(weekday: int, clock: str) -> LocalTime:
    hour, minute = clock.split(":")
    return LocalTime(weekday=weekday, minute=int(hour) * 60 + int(minute))


def test_without_hours_a_pc_may_always_work() -> None:
    assert working_hours([]) == ALWAYS
    assert all(ALWAYS.allow(LocalTime(day, minute)) for day in range(7) for minute in (0, 720, 1439))


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("09:00-17:00", [at(MONDAY, "9:00"), at(SUNDAY, "16:59")], [at(MONDAY, "8:59"), at(MONDAY, "17:00")]),
        ("mon-fri 9:00-17:00", [at(FRIDAY, "12:00")], [at(SATURDAY, "12:00"), at(SUNDAY, "12:00")]),
        (
            "Fri 18:00-08:00",
            [at(FRIDAY, "18:00"), at(SATURDAY, "7:59")],
            [at(FRIDAY, "7:00"), at(SATURDAY, "8:00"), at(SATURDAY, "18:00")],
        ),
        ("sun 22:00-06:00", [at(SUNDAY, "23:00"), at(MONDAY, "5:59")], [at(MONDAY, "6:00"), at(SUNDAY, "5:00")]),
        ("sat+sun 00:00-24:00", [at(SATURDAY, "0:00"), at(SUNDAY, "23:59")], [at(MONDAY, "0:00")]),
        ("sat,sun 8:00 - 9:00", [at(SATURDAY, "8:30"), at(SUNDAY, "8:30")], [at(FRIDAY, "8:30")]),
        ("fri-mon 8:00-9:00", [at(d, "8:30") for d in (FRIDAY, SATURDAY, SUNDAY, MONDAY)], [at(1, "8:30")]),
    ],
)
def test_spans_are_read_as_written(written: str, inside: list[LocalTime], outside: list[LocalTime]) -> None:
    hours = working_hours([written])
    assert all(hours.allow(time) for time in inside)
    assert not any(hours.allow(time) for time in outside)
    assert hours.words == written


def test_several_spans_add_up() -> None:
    hours = working_hours(["mon-fri 18:00-08:00", "sat+sun 00:00-24:00"])
    assert hours.allow(at(SATURDAY, "12:00"))
    assert hours.allow(at(FRIDAY, "7:00"))
    assert not hours.allow(at(MONDAY, "7:00")), "Sunday's evening is no span that goes over midnight"
    assert not hours.allow(at(MONDAY, "12:00"))
    assert hours.words == "mon-fri 18:00-08:00, sat+sun 00:00-24:00"


@pytest.mark.parametrize(
    "written",
    [
        *("", "always", "9-17", "9:00", "9:00-9:00", "24:01-3:00", "25:00-3:00", "9:60-10:00"),
        *("mun 9:00-10:00", "mon-tue-wed 9:00-10:00", "mon- 9:00-10:00", "9:00-10:00 mon", "mon 9:00-10:00,"),
    ],
)
def test_what_cannot_be_read_is_refused_and_shown_how_to_write(written: str) -> None:
    with pytest.raises(SettingsError, match="mon-fri 18:00-08:00"):
        working_hours([written])
