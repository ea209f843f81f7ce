"""Finding passages: by words, by meaning, and by both fused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from chorus_http.rag.documents import ChunkId, Collection, Mode, Passage
from chorus_http.rag.embedder import Embedder, Purpose
from chorus_http.rag.filters import ALL, Filter
from chorus_http.rag.stop_words import STOP_WORDS
from chorus_http.rag.store import Hit, Store

RANK_OFFSET = 10
"""Reciprocal rank fusion's k. Its authors (Cormack, Clarke, Büttcher, SIGIR 2009) take 60 for rankings of a thousand;
of fifty candidates that would make the last count half as much as the first."""
WORDS_WEIGHT = 0.5
"""Of a hit that holds every word of the question; one that holds a part of them counts by that part. Without it a chunk
that shares one word with a question of eight outranks the one that means the same in other words. `bench.rag_quality`
measures both; anything from 0.3 to 0.7, and k from 5 to 20, does as well."""
CANDIDATES = 50
"""Of each kind of search, before fusion."""
MOST_WORDS = 64

_ENDINGS = ("ings", "ing", "ies", "ied", "ed", "es", "en", "er", "s", "e", "y")
_LEAST_STEM = 3
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    text: str
    top_k: int
    mode: Mode = Mode.HYBRID
    chosen: Filter = ALL


def words_of(text: str) -> list[str]:
    """The words to look for, each once; those that every text holds only where there are no others."""
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(text)))
    telling = [word for word in words if word not in STOP_WORDS]
    return (telling or words)[:MOST_WORDS]


def fused(near: Sequence[Hit], words: Sequence[Hit], held: Mapping[ChunkId, float]) -> list[Hit]:
    """Reciprocal rank fusion, weighted: best first, equals in the order they came.

    `held`: which share of the question's words each hit of `words` holds, 0-1.
    """
    scores = {hit.chunk_id: 1 / (RANK_OFFSET + rank) for rank, hit in enumerate(near, 1)}
    for rank, hit in enumerate(words, 1):
        weight = WORDS_WEIGHT * held.get(hit.chunk_id, 0.0)
        scores[hit.chunk_id] = scores.get(hit.chunk_id, 0.0) + weight / (RANK_OFFSET + rank)
    return [Hit(chunk_id, score) for chunk_id, score in sorted(scores.items(), key=lambda one: -one[1])]


def shares_held(words: Sequence[str], passages: Sequence[Passage]) -> dict[ChunkId, float]:
    """Which share of the words each passage, its title or its headings hold, whatever their endings; 0-1."""
    stems = {_stem(word) for word in words}
    if not stems:
        return {}
    looked_for = re.compile(rf"\b({'|'.join(sorted(stems, key=len, reverse=True))})(?:{'|'.join(_ENDINGS)})?\b")
    held: dict[ChunkId, float] = {}
    for passage in passages:
        text = " ".join((passage.title, *passage.headings, passage.text)).lower()
        held[passage.chunk_id] = len(set(looked_for.findall(text))) / len(stems)
    return held


def _stem(word: str) -> str:
    """A word without its ending: rough, and enough beside what the database's own stemmer has found."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
            return word[: -len(ending)]
    return word


async def search(store: Store, embedder: Embedder, collection: Collection, question: Question) -> list[Passage]:
    """The best passages. The caller has checked that the collection's vectors are this model's."""
    limit = max(CANDIDATES, question.top_k)

    async def by_words() -> list[Hit]:
        if question.mode is Mode.VECTORS:
            return []
        words = words_of(question.text)
        return await asyncio.to_thread(store.by_words, collection, words, question.chosen, limit=limit)

    async def by_vector() -> list[Hit]:
        if question.mode is Mode.WORDS:
            return []
        (vector,) = await embedder.embed([question.text], Purpose.QUESTION)
        return await asyncio.to_thread(store.by_vector, collection, vector, question.chosen, limit=limit)

    worded, near = await asyncio.gather(by_words(), by_vector())
    similarity = {hit.chunk_id: hit.score for hit in near}
    if question.mode is not Mode.HYBRID:
        found = await asyncio.to_thread(store.passages, (near or worded)[: question.top_k])
    else:
        found = await asyncio.to_thread(_fused_passages, store, question, near, worded)
    return [replace(passage, similarity=similarity.get(passage.chunk_id)) for passage in found]


def _fused_passages(store: Store, question: Question, near: Sequence[Hit], worded: Sequence[Hit]) -> list[Passage]:
    words = words_of(question.text)
    held = shares_held(words, store.passages(worded))
    return store.passages(fused(near, worded, held)[: question.top_k])
