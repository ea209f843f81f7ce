"""Texts as vectors: the one door to whatever computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from chorus_http.rag.store import Vectors
from chorus_proto.errors import EngineFailed


class Purpose(StrEnum):
    """Some models want to be told what a text is for."""

    DOCUMENT = "document"
    QUESTION = "question"


_PREFIXES = (
    ("nomic-embed", {Purpose.DOCUMENT: "search_document: ", Purpose.QUESTION: "search_query: "}),
    ("e5-", {Purpose.DOCUMENT: "passage: ", Purpose.QUESTION: "query: "}),
    ("mxbai-embed", {Purpose.QUESTION: "Represent this sentence for searching relevant passages: "}),
    ("snowflake-arctic-embed", {Purpose.QUESTION: "Represent this sentence for searching relevant passages: "}),
)
"""By a part of the model's name; from the models' cards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which model it is. Vectors of two digests are never compared."""

    model: str
    digest: str
    dimensions: int


class Embedder(Protocol):
    """All methods raise ClusterError: EngineUnavailable, EngineFailed, NoReplica, ModelNotFound, DeadlineExceeded…"""

    async def identity(self) -> Identity: ...

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Vectors:
        """One row of length 1 for each text. A text that is too long for the model counts by its beginning."""
        ...

    async def close(self) -> None: ...


def prefixed(texts: Sequence[str], model: str, purpose: Purpose) -> list[str]:
    """As the model wants them."""
    for part, prefixes in _PREFIXES:
        if part in model.lower():
            return [prefixes.get(purpose, "") + text for text in texts]
    return list(texts)


def unit_rows(rows: Sequence[Sequence[float]], *, model: str) -> Vectors:
    """Rows brought to length 1. Raises EngineFailed for what is no vector."""
    try:
        vectors = np.array(rows, dtype=np.float32)
    except ValueError:
        raise EngineFailed(f"{model} answered with vectors of different lengths") from None
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True) if vectors.ndim == 2 else np.zeros((1, 1))
    if vectors.ndim != 2 or not np.isfinite(lengths).all() or not lengths.all():
        raise EngineFailed(f"{model} answered with what is no vector")
    return np.divide(vectors, lengths, dtype=np.float32)
