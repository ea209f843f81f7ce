"""Notices that this PC, or this process alone, stood still: what was agreed before with others may be void then.

Three clocks tell, as far as the system has them. The system's own count of time asleep is certain. A look that comes
far too late (a stopped process, a PC that swaps) and a wall clock that ran ahead of the monotonic one (a virtual
machine that was paused, or only a person who set the clock) are not: what counts is whether the coordinator still
knows our link.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from chorus_proto.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch of time that this process did not live through. `certain`: the PC has slept."""

    seconds: float
    certain: bool

    @property
    def words(self) -> str:
        return f"this PC stood still for {self.seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class _Look:
    monotonic_s: float
    unix_s: float
    asleep_s: float


class SleepWatch:
    """`look` is to be called every `every_s`; a gap is one of more than `longest_s`."""

    def __init__(
        self, clock: Clock, asleep_s: Callable[[], float | None], *, every_s: float = 1.0, longest_s: float = 5.0
    ) -> None:
        self._clock = clock
        self._asleep_s = asleep_s
        self._every_s = every_s
        self._longest_s = longest_s
        self._before = self._now()

    def _now(self) -> _Look:
        return _Look(self._clock.monotonic_s(), self._clock.unix_s(), self._asleep_s() or 0.0)

    def look(self) -> Gap | None:
        """What happened since the look before; None when nothing did."""
        before, now = self._before, self._now()
        self._before = now
        passed_s = now.monotonic_s - before.monotonic_s
        slept_s = now.asleep_s - before.asleep_s
        if slept_s > self._longest_s:
            return Gap(seconds=slept_s, certain=True)
        stood_s = max(passed_s - self._every_s, now.unix_s - before.unix_s - passed_s)
        return Gap(seconds=stood_s, certain=False) if stood_s > self._longest_s else None


def asleep_s() -> float | None:
    """Seconds that this PC has been asleep since it was switched on, where the system counts them."""
    if sys.platform == "win32":
        # QueryUnbiasedInterruptTime leaves out sleep, GetTickCount64 does not; both count from the start.
        kernel, awake = ctypes.windll.kernel32, ctypes.c_uint64()
        kernel.GetTickCount64.restype = ctypes.c_uint64
        if not kernel.QueryUnbiasedInterruptTime(ctypes.byref(awake)):
            return None
        return kernel.GetTickCount64() / 1000 - awake.value / 1e7
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return None
