"""How much two texts say the same, and which of several is nearest to all. Pure, but for whoever makes embeddings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from chorus_server.aggregate import normalised

SAME_FROM = 0.8
"""Cosine from which two answers count as saying the same."""
_GRAM = 3

Vector = Sequence[float]


class Embedder(Protocol):
    """Turns texts into vectors, where an engine of the cluster can."""

    async def __call__(self, texts: Sequence[str], *, within_s: float) -> Sequence[Vector] | None:
        """One vector for each text; None when nobody can now. Raises ClusterError."""
        ...


def cosine(one: Vector, other: Vector) -> float:
    """-1 to 1; 0 where one of them is nothing."""
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    size = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    return dot / size if size else 0.0


def lexical(texts: Sequence[str]) -> list[list[float]]:
    """Likeness of each pair by their words and groups of three letters, 0-1: what is left without embeddings."""
    grams = [_grams(text) for text in texts]
    return [[_likeness(one, other) for other in grams] for one in grams]


def by_vectors(vectors: Sequence[Vector]) -> list[list[float]]:
    """Likeness of each pair."""
    return [[cosine(one, other) for other in vectors] for one in vectors]


def nearest_to_all(likeness: Sequence[Sequence[float]], weights: Sequence[float]) -> int:
    """Index of the text that is most like all, each weighed; its own weight breaks ties. The first of equals."""
    scores = [
        (sum(weight * like for weight, like in zip(weights, row, strict=True)), weights[index])
        for index, row in enumerate(likeness)
    ]
    return max(range(len(scores)), key=lambda index: (scores[index], -index))


def _grams(text: str) -> Counter[str]:
    plain = normalised(text)
    padded = f" {plain} "
    return Counter(plain.split()) + Counter(padded[i : i + _GRAM] for i in range(max(1, len(padded) - _GRAM + 1)))


def _likeness(one: Counter[str], other: Counter[str]) -> float:
    dot = sum(count * other[gram] for gram, count in one.items())
    size = math.sqrt(sum(n * n for n in one.values())) * math.sqrt(sum(n * n for n in other.values()))
    return dot / size if size else 0.0
