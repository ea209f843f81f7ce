"""A search as callers ask for it: found, and, if they want, ordered anew by a model of the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from chorus_http.asker import Asker
from chorus_http.rag.asking import model_for
from chorus_http.rag.bodies import DEFAULT_TOP_K, read_filter
from chorus_http.rag.documents import Mode, Passage
from chorus_http.rag.library import DEFAULT_COLLECTION
from chorus_http.rag.opening import LibraryDoor
from chorus_http.rag.rerank import LOOKED_AT, reranked
from chorus_http.rag.search import Question
from chorus_http.state import StateReader
from chorus_proto.cluster import Cluster
from chorus_proto.dialects.fields import Unchecked


class Wanted(Protocol):
    """What the bodies that search have in common."""

    top_k: int | None
    collection: str | None
    filter: Unchecked
    mode: Mode | None
    rerank: bool | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPassages:
    passages: list[Passage]
    collection: str
    mode: Mode
    reranked: bool


class Finder:
    def __init__(
        self, door: LibraryDoor, cluster: Cluster, states: StateReader, *, rerank_model: str, within_s: float
    ) -> None:
        self._door = door
        self._cluster = cluster
        self._states = states
        self._rerank_model = rerank_model
        self._within_s = within_s

    async def find(self, owner: str, text: str, wanted: Wanted, asker: Asker) -> FoundPassages:
        """Raises what `Library.search` raises, InvalidRequest for a filter, and ModelNotFound for a rerank model."""
        top_k = wanted.top_k or DEFAULT_TOP_K
        name = wanted.collection or DEFAULT_COLLECTION
        mode = wanted.mode or Mode.HYBRID
        library = await self._door.library()
        question = Question(
            text=text,
            top_k=max(top_k, LOOKED_AT) if wanted.rerank else top_k,
            mode=mode,
            chosen=read_filter(wanted.filter),
        )
        passages = await library.search(owner, name, question)
        ordered = False
        if wanted.rerank and len(passages) > 1:
            chosen = wanted.rerank if isinstance(wanted.rerank, str) else self._rerank_model or None
            model = model_for(await self._states.state(), chosen)
            passages, ordered = await reranked(
                self._cluster, model.name, text, passages, asker=asker, within_s=self._within_s
            )
        return FoundPassages(passages=passages[:top_k], collection=name, mode=mode, reranked=ordered)
