"""How often a model of some size is right, before it was ever asked. Pure.

Through the catalogue's anchors (1B 0.38, 3B 0.62, 8B 0.80) as a logistic function of the logarithm of the size.
"""

from __future__ import annotations

import math

UNKNOWN = 0.5
_AT_1B, _PER_LOG = -0.49, 0.9
_LEAST, _MOST = 0.05, 0.95


def prior_quality(parameters: int | None) -> float:
    """Expected share of right answers, 0-1; `UNKNOWN` for None or 0."""
    if not parameters:
        return UNKNOWN
    logit = _AT_1B + _PER_LOG * math.log(parameters / 1e9)
    return min(_MOST, max(_LEAST, 1 / (1 + math.exp(-logit))))
