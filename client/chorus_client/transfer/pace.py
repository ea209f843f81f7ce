"""How fast a file comes: bytes, speed, and reports at a bearable rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from chorus_proto.clock import Clock

REPORT_EVERY_S = 0.5
_WINDOW_S = 5.0


class Pace:
    """`tell(done_bytes, total_bytes, bytes_per_s)` hears at most every `REPORT_EVERY_S`, and of the first and last."""

    def __init__(self, clock: Clock, tell: Callable[[int, int | None, float], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._seen: deque[tuple[float, int]] = deque()
        self._told_at_s: float | None = None
        self.total_bytes: int | None = None

    def at(self, done_bytes: int) -> None:
        """So much is there now."""
        now_s = self._clock.monotonic_s()
        if self._seen and done_bytes < self._seen[-1][1]:
            self._seen.clear()  # it began anew
        self._seen.append((now_s, done_bytes))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        is_last = done_bytes == self.total_bytes
        if self._told_at_s is None or now_s - self._told_at_s >= REPORT_EVERY_S or is_last:
            self._told_at_s = now_s
            self._tell(done_bytes, self.total_bytes, self.bytes_per_s)

    @property
    def bytes_per_s(self) -> float:
        """Over the last seconds; 0 until it can be known."""
        if len(self._seen) < 2:
            return 0.0
        (from_s, from_bytes), (to_s, to_bytes) = self._seen[0], self._seen[-1]
        return (to_bytes - from_bytes) / (to_s - from_s) if to_s > from_s else 0.0
