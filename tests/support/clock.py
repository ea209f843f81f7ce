"""A clock that moves only when a test says so."""

from __future__ import annotations


class FakeClock:
    """Satisfies `chorus_proto.clock.Clock`; both clocks advance together."""

    def __init__(self, *, monotonic_s: float = 1_000.0, unix_s: float = 1_700_000_000.0) -> None:
        self._monotonic_s = monotonic_s
        self._unix_s = unix_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def unix_s(self) -> float:
        return self._unix_s

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._monotonic_s += seconds
        self._unix_s += seconds
