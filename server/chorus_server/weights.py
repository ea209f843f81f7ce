"""What each node counts for, as if it were so many times as fast: by its registration, else by the settings, else 1."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class Weights:
    """By the node's name."""

    def __init__(self, told: Mapping[str, float]) -> None:
        """`told`: by the settings."""
        self._told = dict(told)
        self._now = dict(told)
        self.by_name: Mapping[str, float] = MappingProxyType(self._now)
        """As they are now, whenever it is looked at; who is not in it counts for 1."""

    def registered(self, name: str, weight: float | None) -> None:
        """None: the backend has no word of its own, or is no more."""
        wanted = self._told.get(name) if weight is None else weight
        if wanted is None:
            self._now.pop(name, None)
        else:
            self._now[name] = wanted
