"""How fast one model generates on this PC when nothing else runs on it: what later speeds are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_proto.generation import Done

_NEWEST_WEIGHT = 0.2
_LEAST_TOKENS = 8
"""Of fewer tokens no speed can be told."""
_BACK_SHARE = 0.75


@dataclass(slots=True)
class SpeedRecord:
    """Tokens per second of generations that ran alone, exponentially averaged; None until one was measured."""

    tokens_per_s: float | None = None

    def learn(self, done: Done) -> None:
        newest, known = _speed(done), self.tokens_per_s
        if newest is not None:
            self.tokens_per_s = newest if known is None else known + _NEWEST_WEIGHT * (newest - known)

    def is_back(self, done: Done) -> bool:
        """Whether this generation ran about as fast as those before."""
        newest = _speed(done)
        return newest is not None and self.tokens_per_s is not None and newest >= _BACK_SHARE * self.tokens_per_s


def _speed(done: Done) -> float | None:
    return done.decode_tokens_per_s if done.completion_tokens >= _LEAST_TOKENS else None
