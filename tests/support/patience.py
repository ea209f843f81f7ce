"""How long a test waits for what is promised within a time, on a machine that does other things too.

Whether a promise is kept to the tenth of a second is told by bench/, on a quiet PC; a test tells that it is kept at
all, and not by some other, longer limit.
"""

from __future__ import annotations

PATIENCE = 5.0
"""A machine with two busy cores has stood still for more than a second; none for longer than this has been seen."""


def granted_s(promised_s: float) -> float:
    return promised_s * PATIENCE
