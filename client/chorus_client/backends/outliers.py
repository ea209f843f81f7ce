"""When a backend that answers its probes fails too often at its work. Only its own failures are told here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from chorus_proto.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierRules:
    """Suspect: `in_a_row` failures, or `share` of at least `of_least` answers within `window_s`.

    Ejected for `first_s` times the number of ejections without a good answer in between, `longest_s` at the most.
    """

    in_a_row: int = 5
    share: float = 0.5
    of_least: int = 10
    window_s: float = 30.0
    first_s: float = 30.0
    longest_s: float = 300.0


class Outliers:
    """The record of one backend."""

    def __init__(self, clock: Clock, rules: OutlierRules) -> None:
        self._clock = clock
        self._rules = rules
        self._answers: deque[tuple[float, bool]] = deque(maxlen=1_000)
        self._in_a_row = 0
        self._ejections = 0

    @property
    def suspect(self) -> bool:
        """It fails too often; whether it is broken, or was asked what nobody can answer, a probe must tell."""
        if self._in_a_row >= self._rules.in_a_row:
            return True
        since_s = self._clock.monotonic_s() - self._rules.window_s
        recent = [good for at_s, good in self._answers if at_s >= since_s]
        return len(recent) >= self._rules.of_least and recent.count(False) >= self._rules.share * len(recent)

    @property
    def failures_in_a_row(self) -> int:
        return self._in_a_row

    def answered(self, *, good: bool) -> None:
        self._answers.append((self._clock.monotonic_s(), good))
        self._in_a_row = 0 if good else self._in_a_row + 1
        if good and not self.suspect:
            self._ejections = 0

    def eject(self) -> float:
        """It is broken: for how long to leave it alone, in seconds."""
        self._ejections += 1
        return min(self._rules.longest_s, self._ejections * self._rules.first_s)

    def acquit(self) -> None:
        """A probe went well: what was before counts no more. A next ejection is still longer than the last."""
        self._answers.clear()
        self._in_a_row = 0
