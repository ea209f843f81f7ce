"""Memory that loads on their way were promised and do not hold yet, so that two cannot both count on the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NewType

from chorus_proto.ids import ModelName

Place = NewType("Place", str)
"""One memory: `RAM`, or a card by `gpu_place`."""

RAM = Place("ram")

DOUBT = 0.08
"""A load on its way may take so much more than it was promised: about what the worst predictions measured were short by
(`bench/footprint_prediction.py`). Loads that start together would otherwise spend the reserve, each a part of it."""


def gpu_place(index: int) -> Place:
    """The memory of the card with this index in `Hardware.gpus`."""
    return Place(f"gpu{index}")


class Ledger:
    """Promises by model. Reserve before the load starts; then `commit` when it is resident or `release` when it failed.

    In between `grown` tells how much of it is resident already, because those bytes are gone from the free ones too.
    """

    def __init__(self) -> None:
        self._promised: dict[ModelName, dict[Place, int]] = {}
        self._resident: dict[ModelName, dict[Place, int]] = {}

    def reserve(self, model: ModelName, needs: Mapping[Place, int]) -> None:
        """Promise `needs` bytes in each place to the load of `model`; a second promise replaces the first."""
        self._promised[model] = {place: max(0, size) for place, size in needs.items()}
        self._resident[model] = {}

    def grown(self, model: ModelName, place: Place, resident_bytes: int) -> None:
        """The load holds this much in `place` by now. Without a promise nothing happens: the load is over."""
        if model in self._promised:
            self._resident[model][place] = max(0, resident_bytes)

    def promised(self, model: ModelName) -> Mapping[Place, int]:
        """What the load of `model` was promised, by place; nothing when it has no promise."""
        return self._promised.get(model, {})

    def commit(self, model: ModelName) -> None:
        """The load is complete: what it takes shows in the free memory from now on."""
        self._forget(model)

    def release(self, model: ModelName) -> None:
        """The load failed or was given up: others may have the memory. Without a promise nothing happens."""
        self._forget(model)

    def _forget(self, model: ModelName) -> None:
        self._promised.pop(model, None)
        self._resident.pop(model, None)

    def outstanding_bytes(self, place: Place, *, but: ModelName | None = None) -> int:
        """Bytes promised in `place`, with their doubt, and not resident yet; those of the load of `but` left out."""
        return sum(
            max(0, round(needs.get(place, 0) * (1 + DOUBT)) - self._resident[model].get(place, 0))
            for model, needs in self._promised.items()
            if model != but
        )
