"""Embeddings by an engine on the nodes: the model that the setting `rag_embedding_model` names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from chorus_http.rag.embedder import Identity, Purpose, prefixed, unit_rows
from chorus_http.rag.store import Vectors
from chorus_http.state import StateReader, find_model
from chorus_proto.errors import DeadlineExceeded, InvalidRequest
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelSummary

DIGEST_WITHIN_S = 30.0
"""A node that has just started still reads its files; a collection must not be made by name meanwhile, because it would
not fit the digest that comes then."""
_LOOK_EVERY_S = 0.2


class VectorSource(Protocol):
    """What asks the nodes. A text that is too long for the model counts by its beginning."""

    async def __call__(
        self, model: ModelName, texts: Sequence[str], *, digest: str, background: bool
    ) -> Sequence[Sequence[float]]:
        """One vector for each text, all of the file of this digest ("": any). `background`: nobody waits for
        just these. Raises what `Cluster.submit` raises."""
        ...


class ClusterEmbedder:
    """See `Embedder`. Nodes come and go; the model is asked for by its file, so vectors of two files never mix."""

    def __init__(
        self,
        model: str,
        source: VectorSource,
        states: StateReader,
        *,
        within_s: float,
        digest_within_s: float = DIGEST_WITHIN_S,
    ) -> None:
        self._digest_within_s = digest_within_s
        self._model = model
        self._source = source
        self._states = states
        self._within_s = within_s
        self._dimensions: dict[str, int] = {}

    async def identity(self) -> Identity:
        """Raises ModelNotFound, InvalidRequest for a model that makes no embeddings."""
        model = await self._found()
        if not model.digest and model.on_disk_at and self._digest_within_s:
            model = await self._with_digest(model)
        # A model whose file nobody can see, in a server of its own, is known by its name alone.
        digest = model.digest or f"name:{model.name}"
        if digest not in self._dimensions:
            (row,) = await self._rows(["dimensions"], digest=model.digest)
            self._dimensions[digest] = len(row)
        return Identity(model=model.name, digest=digest, dimensions=self._dimensions[digest])

    async def _found(self) -> ModelSummary:
        model = find_model(await self._states.state(), self._model)
        if not model.embedding:
            raise InvalidRequest(f"The setting rag_embedding_model names '{self._model}', which makes no embeddings.")
        return model

    async def _with_digest(self, model: ModelSummary) -> ModelSummary:
        """The model once its file has been read; as it is where nobody reads it. That is waited for once."""
        try:
            async with asyncio.timeout(self._digest_within_s):
                while not model.digest:
                    await asyncio.sleep(_LOOK_EVERY_S)
                    model = await self._found()
        except TimeoutError:
            self._digest_within_s = 0.0
        return model

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Vectors:
        identity = await self.identity()
        if not texts:
            return np.empty((0, identity.dimensions), dtype=np.float32)
        digest = "" if identity.digest.startswith("name:") else identity.digest
        wanted = prefixed(texts, self._model, purpose)
        rows = await self._rows(wanted, digest=digest, background=purpose is Purpose.DOCUMENT)
        return unit_rows(rows, model=self._model)

    async def close(self) -> None:
        """The nodes' engines are the nodes' own."""

    async def _rows(self, texts: Sequence[str], *, digest: str, background: bool = False) -> Sequence[Sequence[float]]:
        try:
            async with asyncio.timeout(self._within_s):
                return await self._source(ModelName(self._model), texts, digest=digest, background=background)
        except TimeoutError:
            raise DeadlineExceeded(f"The model '{self._model}' gave no vectors within {self._within_s:g} s.") from None
