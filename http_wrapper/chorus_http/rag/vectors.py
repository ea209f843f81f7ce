"""The vectors of one collection in memory: exact search, and cells once there are very many (`coarse`).

Searches run beside each other and beside one writer: rows are only ever appended, marked as gone, or moved into new
arrays, so that what a search has taken hold of stays what it was.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus_http.rag import coarse
from chorus_http.rag.coarse import Cells, Matrix, Numbers

Found = tuple[Numbers, Matrix]
"""Chunk ids and their cosines, best first."""

APPROXIMATE_ABOVE = 100_000
_TAIL_SHARE = 0.1
"""Vectors that came after the cells were built are searched one by one; above this share the cells are built anew."""
_GONE_SHARE = 0.25
_FEW = 20_000
"""So many rows that a filter leaves over are searched one by one, whatever else there is."""
_LEAST_ROWS = 1024


@dataclass(frozen=True, slots=True)
class _Rows:
    """`count` rows are in use; `gone` marks those that are not any more. The first rows are sorted by `cells`."""

    matrix: Matrix
    ids: Numbers
    documents: Numbers
    gone: NDArray[np.bool_]
    count: int
    cells: Cells | None = None
    sorted_rows: int = 0


class VectorIndex:
    """Vectors of length 1, each with its chunk's id and its document's number."""

    def __init__(self, dimensions: int, *, approximate_above: int = APPROXIMATE_ABOVE) -> None:
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._above = approximate_above
        self._gone = 0
        self._epoch = 0
        self._rows = _empty(dimensions, _LEAST_ROWS)

    def __len__(self) -> int:
        return self._rows.count - self._gone

    @property
    def nbytes(self) -> int:
        return int(self._rows.matrix.nbytes)

    @property
    def cells(self) -> Cells | None:
        return self._rows.cells

    def add(self, ids: Numbers, documents: Numbers, vectors: Matrix) -> None:
        with self._lock:
            rows = self._rows
            end = rows.count + len(ids)
            if end > len(rows.ids):
                rows = _moved(rows, np.arange(rows.count), room=max(end, rows.count * 3 // 2))
            rows.matrix[rows.count : end] = vectors
            rows.ids[rows.count : end] = ids
            rows.documents[rows.count : end] = documents
            rows.gone[rows.count : end] = False
            self._rows = replace(rows, count=end)

    def remove(self, ids: Numbers) -> None:
        with self._lock:
            rows = self._rows
            found = np.flatnonzero(np.isin(rows.ids[: rows.count], ids) & ~rows.gone[: rows.count])
            rows.gone[found] = True
            self._gone += len(found)
            if self._gone > _LEAST_ROWS and self._gone > rows.count * _GONE_SHARE:
                kept = np.flatnonzero(~rows.gone[: rows.count])
                self._rows = replace(_moved(rows, kept, room=len(kept) * 5 // 4), cells=None, sorted_rows=0)
                self._gone = 0
                self._epoch += 1

    def search(self, vector: Matrix, *, limit: int, documents: Numbers | None = None) -> Found:
        """The nearest; `documents`: only chunks of these."""
        rows = self._rows
        if documents is not None:
            allowed = np.flatnonzero(np.isin(rows.documents[: rows.count], documents) & ~rows.gone[: rows.count])
            if len(allowed) <= _FEW or rows.cells is None:
                return _best(rows.ids[allowed], rows.matrix[allowed] @ vector, limit)
        if rows.cells is None:
            scores = rows.matrix[: rows.count] @ vector
            scores[rows.gone[: rows.count]] = -np.inf
            return _best(rows.ids[: rows.count], scores, limit)
        # A filter leaves fewer rows in each cell, so more cells are looked into.
        stretches = rows.cells.nearest(vector, times=1 if documents is None else 4)
        stretches.append((rows.sorted_rows, rows.count))
        scores = np.concatenate([rows.matrix[start:end] @ vector for start, end in stretches])
        taken = np.concatenate([np.arange(start, end) for start, end in stretches])
        out = rows.gone[taken]
        if documents is not None:
            out |= ~np.isin(rows.documents[taken], documents)
        scores[out] = -np.inf
        return _best(rows.ids[taken], scores, limit)

    @property
    def wants_cells(self) -> bool:
        """Are there so many vectors that `build_cells` would help?"""
        rows = self._rows
        if rows.count - self._gone <= self._above:
            return False
        return rows.cells is None or rows.count - rows.sorted_rows > rows.count * _TAIL_SHARE

    def build_cells(self) -> None:
        """Takes seconds for 100,000 vectors; searches and changes go on. Does nothing where cells spare nothing."""
        with self._building:
            with self._lock:
                rows, epoch = self._rows, self._epoch
            cells = coarse.build(rows.matrix[: rows.count])
            if cells is None:
                return
            with self._lock:
                if epoch != self._epoch:
                    return  # the rows have moved meanwhile; the next call builds anew
                now = self._rows
                order = np.concatenate([cells.order, np.arange(rows.count, now.count)])
                moved = _moved(now, order, room=len(now.ids))
                self._rows = replace(moved, cells=cells, sorted_rows=rows.count)


def _empty(dimensions: int, room: int) -> _Rows:
    return _Rows(
        np.empty((room, dimensions), dtype=np.float32),
        np.empty(room, dtype=np.int64),
        np.empty(room, dtype=np.int64),
        np.zeros(room, dtype=np.bool_),
        0,
    )


def _moved(rows: _Rows, order: Numbers, *, room: int) -> _Rows:
    """The chosen rows in new arrays."""
    fresh = _empty(rows.matrix.shape[1], max(room, _LEAST_ROWS))
    count = len(order)
    np.take(rows.matrix, order, axis=0, out=fresh.matrix[:count])
    np.take(rows.ids, order, out=fresh.ids[:count])
    np.take(rows.documents, order, out=fresh.documents[:count])
    np.take(rows.gone, order, out=fresh.gone[:count])
    return replace(fresh, count=count, cells=rows.cells, sorted_rows=rows.sorted_rows)


def _best(ids: Numbers, scores: Matrix, limit: int) -> Found:
    if len(scores) > limit:
        top = np.argpartition(scores, -limit)[-limit:]
        ids, scores = ids[top], scores[top]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > -np.inf]
    return ids[order], scores[order]
