"""Who of a council is asked, in which order. Pure.

The best answer of a panel comes from members of like ability (Li et al., "Rethinking mixture-of-agents", arXiv
2502.00674): those far below the best are left out, and as the cluster fills up the panel shrinks to its best member.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import Tier

BUSY_FROM, FULL_FROM = 0.5, 0.7
"""Shares of slots taken: from the first on panels shrink, from the second on only the best member is asked."""
_TIER_ORDER = {Tier.SMALL: 0, Tier.MEDIUM: 1, Tier.LARGE: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A replica that could answer. `quality` is the share of right answers it is expected to give, 0-1."""

    node_id: NodeId
    node_name: str
    model: ModelName
    quality: float
    tier: Tier | None = None
    slots: int = 1
    slots_busy: int = 0
    tokens_per_s: float | None = None


def panel(
    candidates: Sequence[Candidate], *, most: int | None, tiers_apart: int | None, yield_when_busy: bool
) -> list[Candidate]:
    """The members, best first; equals by speed, then by name. At least one where there is a candidate."""
    fitting = comparable(candidates, tiers_apart)
    ranked = sorted(fitting, key=lambda one: (-one.quality, -(one.tokens_per_s or 0.0), one.node_name, one.model))
    wanted = len(ranked) if most is None else min(most, len(ranked))
    if yield_when_busy:
        slots = sum(one.slots for one in candidates)
        wanted = allowed(wanted, sum(one.slots_busy for one in candidates) / slots if slots else 0.0)
    return ranked[:wanted]


def comparable(candidates: Sequence[Candidate], tiers_apart: int | None) -> list[Candidate]:
    """Those at most so many tiers below the best; one of unknown tier is taken for small."""
    if tiers_apart is None or not candidates:
        return list(candidates)
    best = max(_rank(one) for one in candidates)
    return [one for one in candidates if _rank(one) >= best - tiers_apart]


def _rank(candidate: Candidate) -> int:
    return 0 if candidate.tier is None else _TIER_ORDER[candidate.tier]


def allowed(wanted: int, utilisation: float) -> int:
    """How many of `wanted` may be asked when this share of the slots is taken."""
    left = min(1.0, max(0.0, (FULL_FROM - utilisation) / (FULL_FROM - BUSY_FROM)))
    return min(wanted, max(1, math.ceil(wanted * left)))


def racers(candidates: Sequence[Candidate], most: int | None) -> list[Candidate]:
    """The best model's replicas with a free slot, fastest first: a race is run by equals that have nothing to do."""
    best = panel(candidates, most=1, tiers_apart=None, yield_when_busy=False)
    same = [one for one in candidates if best and one.model == best[0].model]
    idle = [one for one in same if one.slots_busy < one.slots]
    ranked = sorted(idle or best, key=lambda one: (-(one.tokens_per_s or 0.0), one.node_name))
    return ranked[: most or len(ranked)]
