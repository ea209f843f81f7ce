"""Opens the library when somebody first asks for it, so that whoever has no documents pays nothing for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from chorus_http.rag.embedder import Embedder
from chorus_http.rag.library import Library, LibraryLimits
from chorus_http.rag.sqlite_store import SqliteStore
from chorus_http.rag.store import Store
from chorus_http.settings import HttpSettings
from chorus_proto.clock import Clock
from chorus_proto.errors import Draining, StoreUnavailable

log = logging.getLogger(__name__)


class LibraryDoor:
    """One library for one HTTP address. A failure to open is told to whoever asks, and the next one tries again."""

    def __init__(self, settings: HttpSettings, embedder: Embedder, clock: Clock) -> None:
        self._settings = settings
        self._embedder = embedder
        self._clock = clock
        self._opening = asyncio.Lock()
        self._library: Library | None = None
        self._closed = False

    async def library(self) -> Library:
        """Raises StoreUnavailable, InsufficientStorage, VersionMismatch; Draining once closed."""
        async with self._opening:
            if self._closed:
                raise Draining("This process is shutting down.")
            if self._library is None:
                store = await asyncio.to_thread(open_store, self._settings)
                self._library = Library(store, self._embedder, self._clock, _limits(self._settings))
            return self._library

    async def close(self) -> None:
        async with self._opening:
            self._closed = True
            if self._library is not None:
                await self._library.close()
            else:
                await self._embedder.close()


@asynccontextmanager
async def library_door(settings: HttpSettings, embedder: Embedder, clock: Clock) -> AsyncGenerator[LibraryDoor]:
    """The door while the block runs."""
    door = LibraryDoor(settings, embedder, clock)
    try:
        yield door
    finally:
        await door.close()


def open_store(settings: HttpSettings) -> Store:
    """Blocking. Raises as `LibraryDoor.library`."""
    if settings.rag_database:
        try:
            from chorus_http.rag.postgres_store import PostgresStore  # the extra `postgres`
        except ImportError:
            raise StoreUnavailable(
                "rag_database needs a further package on the server's PC: pip install 'chorus-llm[postgres]'."
            ) from None
        return PostgresStore(settings.rag_database)
    path = settings.state_dir.expanduser() / "rag.sqlite3"
    return SqliteStore(path, memory_bytes=settings.rag_memory_bytes)


def _limits(settings: HttpSettings) -> LibraryLimits:
    return LibraryLimits(
        file_bytes=settings.rag_upload_limit_bytes,
        parse_within_s=settings.rag_parse_within_s,
        folders=settings.rag_folders,
    )
