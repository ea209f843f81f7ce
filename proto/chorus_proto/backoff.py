"""How long to wait before the next try of something that failed: 1, 2, 4 … 60 s by default. One formula for all."""

from __future__ import annotations

FIRST_S = 1.0
LAST_S = 60.0
JITTER = (0.5, 1.5)
"""Bounds of the factor to draw for `jitter`, so that those who failed together do not come back together."""

_MOST_DOUBLINGS = 64


def delay_s(failures: int, *, first_s: float = FIRST_S, last_s: float = LAST_S, jitter: float = 1.0) -> float:
    """Seconds to wait after `failures` tries failed in a row before this one did (0: this was the first)."""
    return min(last_s, first_s * 2.0 ** min(max(failures, 0), _MOST_DOUBLINGS)) * jitter
