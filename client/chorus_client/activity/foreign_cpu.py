"""How much of the CPU programs use that are not Chorus's: the whole machine less our processes, between two looks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from chorus_client.activity.family import Family

_REFRESH_EVERY_S = 20.0
_JUMP_PERCENT = 10.0
"""Such a rise since the last look may be an engine of ours that was just started: the family is looked at again."""


@dataclass(frozen=True, slots=True)
class _Look:
    at_s: float
    machine_s: float
    ours_s: dict[int, float]


class ForeignCpu:
    """Each `percent` speaks of the time since the one before. Blocks for a millisecond, now and then for several."""

    def __init__(
        self,
        family: Family,
        *,
        now_s: Callable[[], float] = time.monotonic,
        machine: Callable[[], tuple[float, ...]] = psutil.cpu_times,
    ) -> None:
        self._family = family
        self._now_s = now_s
        self._machine = machine
        self._cores = psutil.cpu_count() or 1
        self._refreshed_s = -math.inf
        self._last_percent = 0.0
        self._before: _Look | None = None

    def percent(self) -> float | None:
        """Of all cores, 0-100; None at the first look, and when one of our processes went meanwhile."""
        if self._now_s() - self._refreshed_s >= _REFRESH_EVERY_S:
            self._refresh()
        now = self._look()
        used = self._used(now)
        if used is not None and used >= self._last_percent + _JUMP_PERCENT:
            self._refresh()
            now = self._look()
            used = self._used(now)
        if used is not None:
            self._last_percent = used
        self._before = now
        return used

    def _refresh(self) -> None:
        self._family.refresh()
        self._refreshed_s = self._now_s()

    def _used(self, now: _Look) -> float | None:
        """A process of ours that is new brings all its work along; what one that went did meanwhile nobody knows."""
        before = self._before
        if before is None or now.at_s <= before.at_s or not before.ours_s.keys() <= now.ours_s.keys():
            return None
        ours_s = sum(used_s - before.ours_s.get(pid, 0.0) for pid, used_s in now.ours_s.items())
        foreign_s = now.machine_s - before.machine_s - ours_s
        return min(100.0, max(0.0, 100 * foreign_s / (self._cores * (now.at_s - before.at_s))))

    def _look(self) -> _Look:
        times = self._machine()
        # Waiting for a disk or for a host is no work; what guests use is part of `user` already (Linux's proc(5)).
        idle_s = getattr(times, "idle", 0.0) + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
        guests_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        machine_s = sum(times) - idle_s - guests_s
        ours_s: dict[int, float] = {}
        for pid, process in self._family.members.items():
            try:
                used = process.cpu_times()
            except psutil.Error:
                continue
            ours_s[pid] = used.user + used.system
        return _Look(self._now_s(), machine_s, ours_s)
