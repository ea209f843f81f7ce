"""An embedding model for tests: a text's vector is made of its words alone, at once and always the same."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from chorus_http.rag.embedder import Identity, Purpose, unit_rows
from chorus_http.rag.store import Vectors

DIMENSIONS = 64


class WordEmbedder:
    """Texts that share words are near. `gate`: each call waits for it; `error`: each call fails with it."""

    def __init__(self, digest: str = "sha256:words") -> None:
        self.digest = digest
        self.texts: list[str] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.waiting = 0

    async def identity(self) -> Identity:
        return Identity(model="words", digest=self.digest, dimensions=DIMENSIONS)

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Vectors:
        self.texts += texts
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return unit_rows([_row(text) for text in texts], model="words")

    async def close(self) -> None: ...


def _row(text: str) -> list[float]:
    row = np.full(DIMENSIONS, 0.01)
    for word in re.findall(r"\w+", text.lower()):
        row[hashlib.blake2b(word.encode(), digest_size=1).digest()[0] % DIMENSIONS] += 1.0
    return row.tolist()
