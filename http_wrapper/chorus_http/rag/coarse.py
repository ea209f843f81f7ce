"""An approximate index over many vectors: they are sorted into cells, and a search looks into the nearest cells only.

Inverted file with flat vectors (Jégou, Douze, Schmid, "Product quantization for nearest neighbor search", 2011, section
4, without its quantization). The number of cells to look into is measured: the smallest that finds nearly all that an
exact search does, and there is no index at all where that is no small part of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Numbers = NDArray[np.int64]

TOP = 10
RECALL = 0.985
"""Found of the TOP nearest. Above the promised 0.97: real questions differ from those that it is measured with."""
_MOST_OF_CELLS = 0.25
_ROWS_PER_CELL = 80
_TRAINED_ON_PER_CELL = 32
_ROUNDS = 6
_BATCH = 8192
_QUESTIONS = 128
_OFFSET = 0.75
"""How far a question lies from the text that answers it, in differences between two texts at random: a step in a
direction in which texts differ is harder than one of random numbers."""


@dataclass(frozen=True, slots=True)
class Cells:
    """`order` sorts the vectors by cell; cell `c` then holds the rows `starts[c]` to `starts[c + 1]`."""

    centres: Matrix
    order: Numbers
    starts: Numbers
    probes: int
    recall_at_10: float

    def nearest(self, vector: Matrix, *, times: int = 1) -> list[tuple[int, int]]:
        """The stretches of rows to look into; `times` as many cells as usual."""
        count = min(self.probes * times, len(self.centres))
        closeness = self.centres @ vector
        chosen = np.argpartition(closeness, -count)[-count:]
        return [(int(self.starts[cell]), int(self.starts[cell + 1])) for cell in np.sort(chosen)]


def build(vectors: Matrix, *, seed: int = 1) -> Cells | None:
    """Cells for vectors of length 1. None where they would spare too little: the vectors lie everywhere alike."""
    chance = np.random.default_rng(seed)
    count = max(2, len(vectors) // _ROWS_PER_CELL)
    centres = _centres(vectors, count, chance)
    cell_of = _assigned(vectors, centres)
    order = np.argsort(cell_of, kind="stable").astype(np.int64)
    starts = np.searchsorted(cell_of[order], np.arange(count + 1)).astype(np.int64)
    return _measured(vectors, Cells(centres, order, starts, probes=1, recall_at_10=0.0), chance)


def _centres(vectors: Matrix, count: int, chance: np.random.Generator) -> Matrix:
    """k-means by cosine on a sample."""
    sample = vectors[np.sort(chance.permutation(len(vectors))[: count * _TRAINED_ON_PER_CELL])]
    centres = sample[np.sort(chance.permutation(len(sample))[:count])].copy()
    for _ in range(_ROUNDS):
        cell_of = _assigned(sample, centres)
        order = np.argsort(cell_of, kind="stable")
        present, first = np.unique(cell_of[order], return_index=True)
        centres[present] = np.add.reduceat(sample[order], first, axis=0)
        missing = np.setdiff1d(np.arange(count), present)
        # A cell that nobody is nearest to starts anew at some vector.
        centres[missing] = sample[chance.integers(0, len(sample), len(missing))]
        lengths = np.linalg.norm(centres, axis=1, keepdims=True)
        centres /= np.maximum(lengths, 1e-12)
    return centres


def _assigned(vectors: Matrix, centres: Matrix) -> Numbers:
    """The cell of each vector."""
    found = np.empty(len(vectors), dtype=np.int64)
    for at in range(0, len(vectors), _BATCH):
        found[at : at + _BATCH] = np.argmax(vectors[at : at + _BATCH] @ centres.T, axis=1)
    return found


def _measured(vectors: Matrix, cells: Cells, chance: np.random.Generator) -> Cells | None:
    chosen = chance.integers(0, len(vectors), _QUESTIONS)
    one, other = chance.integers(0, len(vectors), (2, _QUESTIONS))
    questions = vectors[chosen] + np.float32(_OFFSET) * (vectors[one] - vectors[other])
    wanted = np.argpartition(questions @ vectors.T, -TOP, axis=1)[:, -TOP:]
    # For each wanted vector: how many cells are nearer to the question than its own.
    closeness = questions @ cells.centres.T
    rank_of_cell = np.argsort(np.argsort(-closeness, axis=1), axis=1)
    cell_of = np.empty(len(vectors), dtype=np.int64)
    cell_of[cells.order] = np.repeat(np.arange(len(cells.centres)), np.diff(cells.starts))
    ranks = np.sort(np.take_along_axis(rank_of_cell, cell_of[wanted], axis=1).ravel())
    probes = int(ranks[min(len(ranks) - 1, int(np.ceil(len(ranks) * RECALL)))]) + 1
    if probes > len(cells.centres) * _MOST_OF_CELLS:
        return None
    recall = float(np.count_nonzero(ranks < probes)) / len(ranks)
    return Cells(cells.centres, cells.order, cells.starts, probes, recall)
