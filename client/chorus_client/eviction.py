"""Which warm models to give up when another one needs their memory. Pure decisions; the caller brings the time.

A model's worth is what dropping it is expected to cost: how often it is asked for of late, times the seconds that
loading it again takes. How often is a count in which every use loses half its weight in each half-life, so that
yesterday's favourite does not outlive today's (`bench/pool_eviction.py` compares this with the last use alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chorus_proto.ids import ModelName

HALF_LIFE_S = 3600.0
"""30 minutes to 2 hours lie within 3 % of each other in `bench/pool_eviction.py`."""
_MOST_MODELS = 4096
"""More names than any disk holds models; the least used are forgotten beyond it."""


class UseLog:
    """How often each model was asked for, every use halved in weight per `half_life_s`."""

    def __init__(self, half_life_s: float = HALF_LIFE_S) -> None:
        self._half_life_s = half_life_s
        self._counts: dict[ModelName, tuple[float, float]] = {}

    def record(self, model: ModelName, now_s: float) -> None:
        """One request for `model` at `now_s` (monotonic seconds)."""
        self._counts[model] = (self.value(model, now_s) + 1.0, now_s)
        if len(self._counts) > _MOST_MODELS:
            del self._counts[min(self._counts, key=lambda name: (self.value(name, now_s), name))]

    def value(self, model: ModelName, now_s: float) -> float:
        """Uses as they count at `now_s`; 0 for a model never asked for."""
        count, at_s = self._counts.get(model, (0.0, now_s))
        return count * 2.0 ** (-max(0.0, now_s - at_s) / self._half_life_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmModel:
    """A loaded model as eviction sees it."""

    model: ModelName
    resident_bytes: int
    uses: float
    """`UseLog.value` now."""
    load_s: float
    """Seconds that loading it again takes, measured or expected."""
    running: int = 0
    pinned: bool = False
    preloaded: bool = False

    @property
    def evictable(self) -> bool:
        return self.running == 0 and not self.pinned and not self.preloaded and self.resident_bytes > 0

    @property
    def worth_s(self) -> float:
        """Seconds of loading that keeping it is expected to save."""
        return self.uses * self.load_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What to unload. When not even everything evictable would do, `models` is empty and `enough` is False."""

    models: tuple[ModelName, ...]
    freed_bytes: int
    enough: bool


def evict(warm: Sequence[WarmModel], needed_bytes: int) -> Eviction:
    """The models of least worth together that free `needed_bytes`, in the order in which to unload them.

    Cheapest per byte first, then whoever the rest makes superfluous is spared, dearest first; and one model alone is
    taken instead when it costs less than they do. Equal worth is settled by size (the larger goes), then by name.
    """
    if needed_bytes <= 0:
        return Eviction(models=(), freed_bytes=0, enough=True)
    candidates = sorted(
        (one for one in warm if one.evictable),
        key=lambda one: (one.worth_s / one.resident_bytes, -one.resident_bytes, one.model),
    )
    if sum(one.resident_bytes for one in candidates) < needed_bytes:
        return Eviction(models=(), freed_bytes=0, enough=False)
    chosen: list[WarmModel] = []
    freed_bytes = 0
    for one in candidates:
        if freed_bytes >= needed_bytes:
            break
        chosen.append(one)
        freed_bytes += one.resident_bytes
    for one in sorted(chosen, key=lambda one: (-one.worth_s, one.model)):
        if freed_bytes - one.resident_bytes >= needed_bytes:
            chosen.remove(one)
            freed_bytes -= one.resident_bytes
    alone = min(
        (one for one in candidates if one.resident_bytes >= needed_bytes),
        key=lambda one: (one.worth_s, one.model),
        default=None,
    )
    if alone is not None and alone.worth_s < sum(one.worth_s for one in chosen):
        chosen = [alone]
        freed_bytes = alone.resident_bytes
    return Eviction(models=tuple(one.model for one in chosen), freed_bytes=freed_bytes, enough=True)
