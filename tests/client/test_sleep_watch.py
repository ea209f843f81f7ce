"""Clocks that jump, each for itself."""

from __future__ import annotations

import sys

import pytest

from chorus_client.sleep_watch import Gap, SleepWatch, asleep_s


class Clocks:
    """Three clocks that the test sets."""

    def __init__(self) -> None:
        self.monotonic = 100.0
        self.unix = 1_700_000_000.0
        self.asleep: float | None = 7.0

    def monotonic_s(self) -> float:
        return self.monotonic

    def unix_s(self) -> float:
        return self.unix

    def asleep_s(self) -> float | None:
        return self.asleep

    def passed(self, monotonic_s: float, unix_s: float | None = None, asleep_s: float = 0.0) -> None:
        self.monotonic += monotonic_s
        self.unix += monotonic_s if unix_s is None else unix_s
        if self.asleep is not None:
            self.asleep += asleep_s


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def watch_of(clocks: Clocks) -> SleepWatch:
    return SleepWatch(clocks, clocks.asleep_s, every_s=1, longest_s=5)


def test_looks_in_time_see_nothing(clocks: Clocks) -> None:
    watch = watch_of(clocks)
    for _ in range(10):
        clocks.passed(1.0)
        assert watch.look() is None
    clocks.passed(6.0)
    assert watch.look() is None, "a little late is no sleep"


def test_a_sleep_that_the_system_counts_is_certain_whether_or_not_the_monotonic_clock_went_on(clocks: Clocks) -> None:
    watch = watch_of(clocks)
    clocks.passed(1.0, unix_s=3601, asleep_s=3600)  # Linux, macOS
    assert watch.look() == Gap(seconds=3600, certain=True)
    clocks.passed(3601, asleep_s=3600)  # Windows
    assert watch.look() == Gap(seconds=3600, certain=True)
    clocks.passed(1.0)
    assert watch.look() is None, "each sleep is told once"


def test_a_process_that_was_stopped_is_not_certain_to_have_missed_anything(clocks: Clocks) -> None:
    watch = watch_of(clocks)
    clocks.passed(121)
    gap = watch.look()
    assert gap is not None
    assert gap == Gap(seconds=120, certain=False)
    assert gap.words == "this PC stood still for 120 s"


def test_a_wall_clock_that_ran_ahead_is_not_certain_and_one_set_back_is_nothing(clocks: Clocks) -> None:
    watch = watch_of(clocks)
    clocks.passed(1.0, unix_s=86_401)
    assert watch.look() == Gap(seconds=86_400, certain=False)
    clocks.passed(1.0, unix_s=-86_400)
    assert watch.look() is None


def test_a_system_that_does_not_count_its_sleep_is_judged_by_the_other_clocks(clocks: Clocks) -> None:
    clocks.asleep = None
    watch = watch_of(clocks)
    clocks.passed(1.0, unix_s=61)
    assert watch.look() == Gap(seconds=60, certain=False)


def test_this_system_counts_its_sleep_and_has_not_slept_just_now() -> None:
    before = asleep_s()
    after = asleep_s()
    if sys.platform in ("linux", "darwin", "win32"):
        assert before is not None and after is not None
        assert abs(after - before) < 1
        assert before >= -0.1
