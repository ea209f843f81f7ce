"""How long answers are: the median of the latest ones, for each model and kind of work."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

from chorus_proto.ids import ModelName

USUAL_TOKENS = 190
"""Before any was seen: the median-like constant of chat traces."""

LATEST = 101
ENOUGH = 5


class AnswerLengths:
    """The router does not know how long an answer will be; callers' limits are mostly far above it."""

    def __init__(self) -> None:
        self._latest: dict[tuple[ModelName, bool], tuple[deque[int], list[int]]] = {}

    def saw(self, model: ModelName, tokens: int, *, background: bool) -> None:
        latest, ordered = self._latest.setdefault((model, background), (deque(), []))
        latest.append(tokens)
        insort(ordered, tokens)
        if len(latest) > LATEST:
            del ordered[bisect_left(ordered, latest.popleft())]

    def expected(self, model: ModelName, *, background: bool, limit: int | None = None) -> int:
        """Tokens of the next answer; no more than the caller's `limit`."""
        _, ordered = self._latest.get((model, background), ((), ()))
        tokens = ordered[len(ordered) // 2] if len(ordered) >= ENOUGH else USUAL_TOKENS
        return max(1, tokens if limit is None else min(limit, tokens))
