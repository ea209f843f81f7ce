"""Mirrors chorus_http/rag/vectors.py and coarse.py."""

from __future__ import annotations

import numpy as np

from chorus_http.rag.coarse import Matrix
from chorus_http.rag.vectors import VectorIndex

DIMENSIONS = 48


def topics(count: int, *, seed: int = 1) -> Matrix:
    """Vectors that lie in groups, as those of texts do."""
    centres = np.random.default_rng(99).standard_normal((60, DIMENSIONS))
    chance = np.random.default_rng(seed)
    made = centres[chance.integers(0, 60, count)] + 0.35 * chance.standard_normal((count, DIMENSIONS))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def everywhere(count: int) -> Matrix:
    made = np.random.default_rng(3).standard_normal((count, DIMENSIONS))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def filled(vectors: Matrix, *, above: int = 1_000_000) -> VectorIndex:
    index = VectorIndex(DIMENSIONS, approximate_above=above)
    for at in range(0, len(vectors), 700):
        some = vectors[at : at + 700]
        index.add(np.arange(at, at + len(some)), np.arange(at, at + len(some)) // 10, some)
    return index


def brute(vectors: Matrix, question: Matrix, limit: int = 10) -> list[int]:
    return [int(row) for row in np.argsort(-(vectors @ question), kind="stable")[:limit]]


def found(index: VectorIndex, question: Matrix, limit: int = 10, documents: list[int] | None = None) -> list[int]:
    chosen = None if documents is None else np.array(documents, dtype=np.int64)
    return [int(one) for one in index.search(question, limit=limit, documents=chosen)[0]]


def test_exact_search_finds_what_comparing_with_all_finds() -> None:
    vectors = topics(3000)
    index = filled(vectors)
    for question in topics(20, seed=2):
        assert found(index, question) == brute(vectors, question)


def test_more_is_asked_for_than_there_is() -> None:
    index = filled(topics(3))
    assert len(found(index, topics(1)[0], limit=50)) == 3
    assert found(VectorIndex(DIMENSIONS), topics(1)[0]) == []
    assert found(index, topics(1)[0], documents=[]) == []


def test_what_is_removed_is_not_found_also_when_the_rows_have_moved() -> None:
    vectors = topics(5000)
    index = filled(vectors)
    index.remove(np.arange(0, 5000, 2))
    assert len(index) == 2500
    for question in topics(10, seed=2):
        odd = [row for row in brute(vectors, question, 5000) if row % 2][:10]
        assert found(index, question) == odd
    index.remove(np.array([1, 1, 99_999]))
    assert len(index) == 2499


def test_a_filter_leaves_only_its_documents() -> None:
    vectors = topics(4000)
    index = filled(vectors)
    for question in topics(10, seed=2):
        wanted = [row for row in brute(vectors, question, 4000) if row // 10 in (3, 7, 200)][:10]
        assert found(index, question, documents=[3, 7, 200]) == wanted


def test_cells_find_nearly_all_and_say_how_much() -> None:
    vectors = topics(30_000)
    index = filled(vectors, above=20_000)
    assert index.wants_cells
    index.build_cells()
    cells = index.cells
    assert cells is not None
    assert not index.wants_cells
    assert cells.recall_at_10 >= 0.97
    assert cells.probes < len(cells.centres) / 4
    questions = topics(100, seed=5)
    same = sum(len(set(found(index, one)) & set(brute(vectors, one))) for one in questions)
    assert same / 1000 >= 0.97


def test_what_comes_and_goes_after_the_cells_were_built_counts_at_once() -> None:
    vectors = topics(25_000)
    index = filled(vectors[:24_000], above=20_000)
    index.build_cells()
    assert index.cells is not None
    index.add(np.arange(24_000, 25_000), np.arange(24_000, 25_000) // 10, vectors[24_000:])
    assert found(index, vectors[24_500])[0] == 24_500
    index.remove(np.array([24_500]))
    assert 24_500 not in found(index, vectors[24_500])
    index.remove(np.array([5]))
    assert 5 not in found(index, vectors[5])
    assert found(index, vectors[77], documents=[7])[0] == 77
    many = list(range(2300))
    assert found(index, vectors[77], documents=many)[0] == 77
    index.build_cells()
    assert found(index, vectors[24_501])[0] == 24_501


def test_vectors_that_lie_everywhere_alike_are_searched_one_by_one() -> None:
    vectors = everywhere(6000)
    index = filled(vectors, above=5000)
    index.build_cells()
    assert index.cells is None
    assert found(index, vectors[9]) == brute(vectors, vectors[9])
