"""What a search costs: `python -m bench.rag_search [CHUNKS]`, run from the project's root.

One store is filled with made-up texts and vectors, without an embedding model, and searched: exactly, then with the
approximate index on, in the same run on the same questions. Printed are the chunks taken in per second (read, cut up,
indexed and on the disk), p50 and p99 of each part of a search, and the share of the ten nearest of the exact search
that the approximate one finds.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.load import percentile
from chorus_http.rag.documents import Collection
from chorus_http.rag.embedder import Identity, Purpose
from chorus_http.rag.filters import ALL
from chorus_http.rag.ingest import Submission
from chorus_http.rag.library import Library, LibraryLimits
from chorus_http.rag.search import Question, search, words_of
from chorus_http.rag.sqlite_store import SqliteStore
from chorus_http.rag.store import Vectors
from chorus_proto.clock import SystemClock

CHUNKS = 100_500
CHUNKS_EACH = 150
"""Of one document."""
DIMENSIONS = 384
QUESTIONS = 200
OWNER, COLLECTION = "bench", "default"
_VOCABULARY = 60_000
_TOPICS = 500


class MadeUpEmbedder:
    """Vectors in topics, along directions of which few carry most, as those of real texts. Words do not matter."""

    def __init__(self) -> None:
        self._chance = np.random.default_rng(1)
        self._weight = (1 / np.sqrt(1 + np.arange(DIMENSIONS) / 12)).astype(np.float32)
        self._topics = self._random(_TOPICS)
        self.spent_s = 0.0

    def _random(self, count: int) -> Vectors:
        return self._chance.standard_normal((count, DIMENSIONS), dtype=np.float32) * self._weight

    async def identity(self) -> Identity:
        return Identity(model="made-up", digest="sha256:made-up", dimensions=DIMENSIONS)

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Vectors:
        began_s = time.perf_counter()
        made = self._topics[self._chance.integers(0, _TOPICS, len(texts))] + 0.8 * self._random(len(texts))
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        self.spent_s += time.perf_counter() - began_s
        return made

    async def close(self) -> None: ...


class TextMaker:
    """Words as often as in a language (Zipf's law), some hundred to a chunk."""

    def __init__(self) -> None:
        self._chance = random.Random(1)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self._words = ["".join(self._chance.choices(letters, k=self._chance.randint(3, 9))) for _ in range(_VOCABULARY)]
        self._weights = np.cumsum([1 / rank for rank in range(1, _VOCABULARY + 1)]).tolist()

    def words(self, count: int) -> list[str]:
        return self._chance.choices(self._words, cum_weights=self._weights, k=count)

    def document(self) -> str:
        return "\n\n".join(f"# {' '.join(self.words(3))}\n\n{' '.join(self.words(110))}." for _ in range(CHUNKS_EACH))

    def question(self) -> str:
        return " ".join(self.words(8))


@dataclass(frozen=True, slots=True)
class Spent:
    """Milliseconds of each question."""

    ms: list[float]

    def __str__(self) -> str:
        return f"p50 {percentile(self.ms, 0.5):6.1f} ms   p99 {percentile(self.ms, 0.99):6.1f} ms"


def timed(work: Callable[[int], object]) -> Spent:
    ms: list[float] = []
    for number in range(QUESTIONS):
        began_s = time.perf_counter()
        work(number)
        ms.append((time.perf_counter() - began_s) * 1000)
    return Spent(ms)


async def filled(library: Library, maker: TextMaker, embedder: MadeUpEmbedder, chunks: int) -> float:
    """Chunks per second, the made-up embedding not counted."""
    texts = [maker.document().encode() for _ in range(chunks // CHUNKS_EACH)]
    began_s = time.perf_counter()
    for at in range(0, len(texts), 50):
        some = enumerate(texts[at : at + 50], at)
        ingest = library.add(OWNER, COLLECTION, [Submission(raw=raw, name=f"{n}.md", source=f"{n}") for n, raw in some])
        await library.ingests.wait(ingest)
        failed = [item.error for item in ingest.items if item.error is not None]
        if failed:
            raise failed[0]
    return chunks / (time.perf_counter() - began_s - embedder.spent_s)


async def measure(chunks: int) -> bool:
    """Are the promised figures kept?"""
    embedder, maker = MadeUpEmbedder(), TextMaker()
    with tempfile.TemporaryDirectory(prefix="chorus-bench-") as folder:
        # The index is built below, when the exact search has been measured.
        store = SqliteStore(Path(folder, "rag.sqlite3"), memory_bytes=2**32, approximate_above=chunks * 2)
        library = Library(store, embedder, SystemClock(), LibraryLimits(file_bytes=2**26, parse_within_s=60))
        try:
            rate = await filled(library, maker, embedder, chunks)
            print(f"taken in: {rate:,.0f} chunks/s without embedding, {chunks:,} chunks", flush=True)
            collection = store.collection(OWNER, COLLECTION)
            assert collection is not None
            return await _searched(store, embedder, collection, maker) and rate >= 200
        finally:
            await library.close()


async def _searched(store: SqliteStore, embedder: MadeUpEmbedder, collection: Collection, maker: TextMaker) -> bool:
    texts = [maker.question() for _ in range(QUESTIONS)]
    # A question lies beside the texts of its topic, not among them.
    vectors = await embedder.embed(texts, Purpose.QUESTION)
    store.by_vector(collection, vectors[0], ALL, limit=1)  # reads them into memory
    words = timed(lambda number: store.by_words(collection, words_of(texts[number]), ALL, limit=50))
    print(f"by words:            {words}", flush=True)

    def near(number: int) -> set[int]:
        return {int(hit.chunk_id) for hit in store.by_vector(collection, vectors[number], ALL, limit=10)}

    async def whole() -> Spent:
        ms: list[float] = []
        for text in texts:
            began_s = time.perf_counter()
            await search(store, embedder, collection, Question(text=text, top_k=10))
            ms.append((time.perf_counter() - began_s) * 1000)
        return Spent(ms)

    exact, exact_ids, exact_whole = timed(near), [near(number) for number in range(QUESTIONS)], await whole()
    print(f"by vectors, exact:   {exact}\nboth fused, exact:   {exact_whole}", flush=True)
    began_s = time.perf_counter()
    store.build_cells(collection)
    state = store.index_state(collection)
    print(f"approximate index: built in {time.perf_counter() - began_s:.1f} s, on: {state.approximate}", flush=True)
    cells, cells_whole = timed(near), await whole()
    recall = statistics.mean(len(near(number) & exact_ids[number]) / 10 for number in range(QUESTIONS))
    print(f"by vectors, cells:   {cells}   recall@10 {recall:.3f}\nboth fused, cells:   {cells_whole}")
    kept = percentile(exact_whole.ms, 0.5) <= 50
    return kept and (not state.approximate or (percentile(cells_whole.ms, 0.5) <= 20 and recall >= 0.97))


def main(chunks: int) -> int:
    kept = asyncio.run(measure(chunks))
    print("all figures are kept" if kept else "a figure is not kept")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else CHUNKS))
