"""The vectors that are in memory now: of the collections searched last, within a limit of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from chorus_http.rag.vectors import VectorIndex
from chorus_proto.errors import InsufficientMemory


class VectorMemory:
    """Collections by their number. Blocking; for any thread."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[int, VectorIndex] = OrderedDict()

    def held(self, number: int) -> VectorIndex | None:
        """The collection's vectors, if they are here; they count as used then."""
        with self._lock:
            found = self._held.get(number)
            if found is not None:
                self._held.move_to_end(number)
            return found

    def load(self, number: int, expected_bytes: int, read: Callable[[], VectorIndex]) -> VectorIndex:
        """Take them in, and let go of those that were used longest ago. Raises InsufficientMemory."""
        if expected_bytes > self._limit_bytes:
            raise InsufficientMemory(
                f"The collection's vectors take {expected_bytes / 2**20:.0f} MiB, and rag_memory_bytes allows "
                f"{self._limit_bytes / 2**20:.0f} MiB: raise it, or keep the collections in PostgreSQL (rag_database)."
            )
        with self._lock:
            while self._held and sum(each.nbytes for each in self._held.values()) + expected_bytes > self._limit_bytes:
                self._held.popitem(last=False)
        found = read()
        with self._lock:
            self._held[number] = found
        return found

    def forget(self, number: int) -> None:
        with self._lock:
            self._held.pop(number, None)

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
