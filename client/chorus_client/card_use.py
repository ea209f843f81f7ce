"""What single loads took of the cards, by what was free before and after each: no driver tells it by model.

The engine's process does not tell either: its footprint is in the host's memory, where little of such a model lies.
"""

from __future__ import annotations

from collections.abc import Sequence

from chorus_proto.ids import ModelName

Figures = Sequence[int | None]
"""Bytes by card; None where its driver does not tell."""


class CardUse:
    """Tell it how each load begins and ends, and when a model is gone."""

    def __init__(self) -> None:
        self._before: dict[ModelName, Figures] = {}
        self._taken: dict[ModelName, Figures] = {}
        self._disturbed: set[ModelName] = set()
        """Another load or unload of ours fell into their own load: what is missing now is not theirs alone."""

    def begins(self, model: ModelName, free: Figures) -> None:
        self._before.pop(model, None)
        self._disturbed.discard(model)
        if self._before:
            self._disturbed |= {model, *self._before}
        self._before[model] = free

    def ends(self, model: ModelName, free: Figures) -> None:
        """The load is complete. What it took is at most what is missing now: others may have taken some of it."""
        before = self._before.pop(model, ())
        self._taken[model] = tuple(fallen(was, now) for was, now in zip(before, free, strict=False))

    def failed(self, model: ModelName) -> None:
        self._before.pop(model, None)

    def gone(self, model: ModelName) -> Figures:
        """It is unloaded, or its load was given up. What its load took, by card; empty for one that was not loaded."""
        self._before.pop(model, None)
        self._disturbed.discard(model)
        taken = self._taken.pop(model, ())
        if taken:
            self._disturbed |= set(self._before)
        return taken

    def by_card(self, model: ModelName) -> Figures:
        """What was missing on each card after its load; empty where nobody saw it or something of ours disturbed it."""
        return () if model in self._disturbed else self._taken.get(model, ())

    def bytes_of(self, model: ModelName) -> int | None:
        """What the model took of all cards; None when a driver did not tell or something of ours disturbed its load."""
        taken = self._taken.get(model, ())
        known = [took for took in taken if took is not None]
        return None if model in self._disturbed or not known else sum(known)


def fallen(was: int | None, now: int | None) -> int | None:
    """By how many bytes a figure fell; None when one of both is unknown."""
    return None if was is None or now is None else was - now
