"""How near documents lie to a query, by their vectors: for models that make vectors and do not rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from chorus_proto.errors import EngineFailed

_encode = msgspec.json.Encoder().encode


def nearness(vectors: Sequence[bytes]) -> list[bytes]:
    """A JSON number for each vector behind the first: the cosine of the angle between the two, 0 at least.

    Raises EngineFailed for vectors that cannot be compared.
    """
    try:
        query, *documents = (msgspec.json.decode(vector, type=list[float]) for vector in vectors)
        return [_encode(_cosine(query, one)) for one in documents]
    except (msgspec.DecodeError, ValueError) as error:
        raise EngineFailed(f"The vectors cannot be compared: {error}") from None


def _cosine(left: list[float], right: list[float]) -> float:
    product = sum(a * b for a, b in zip(left, right, strict=True))
    return max(0.0, product / (math.hypot(*left) * math.hypot(*right) or 1.0))
