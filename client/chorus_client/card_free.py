"""What is free on each card while its driver says nothing: what it said last, less what our own loads took since.

A driver that is late once rests for a minute (`hardware/free_memory.py`). Loads of that minute must neither take the
card for empty nor give way without need.
"""

from __future__ import annotations

from collections.abc import Mapping

from chorus_client.card_use import Figures
from chorus_client.ledger import Place, gpu_place
from chorus_proto.ids import ModelName


class CardFree:
    """Tell it all that the drivers say, and which loads were completed and ended."""

    def __init__(self) -> None:
        self._last: dict[Place, int] = {}
        self._promised: dict[ModelName, Mapping[Place, int]] = {}

    def heard(self, told: Figures) -> None:
        """Bytes by card; None where its driver does not tell."""
        self._last |= {gpu_place(index): free for index, free in enumerate(told) if free is not None}

    def loaded(self, model: ModelName, promised: Mapping[Place, int], told: Figures) -> None:
        """`told`: what the drivers say after the load, which was promised so many bytes."""
        self.heard(told)
        self._promised[model] = promised
        shown = {gpu_place(index) for index, free in enumerate(told) if free is not None}
        self._change({place: -size for place, size in promised.items() if place not in shown})

    def gone(self, model: ModelName) -> None:
        """The model is unloaded."""
        self._change(self._promised.pop(model, {}))

    def _change(self, by: Mapping[Place, int]) -> None:
        self._last |= {place: max(0, self._last[place] + size) for place, size in by.items() if place in self._last}

    def on(self, place: Place) -> int | None:
        """Bytes, as far as is known; None for a card that has never told."""
        return self._last.get(place)

    def cards_of(self, model: ModelName) -> list[Place]:
        """Those that the load of the model was promised."""
        return [place for place in self._promised.get(model, {}) if place in self._last]
