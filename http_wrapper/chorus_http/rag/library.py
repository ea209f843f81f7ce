"""Everything that the routes may ask of the documents: store, embedding model and readers behind one door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chorus_http.rag.chunking import ChunkSizes
from chorus_http.rag.documents import Collection, DocumentId, Mode, Passage, StoredDocument
from chorus_http.rag.embedder import Embedder
from chorus_http.rag.folders import FolderFile, allowed_folder, files_of, read_file
from chorus_http.rag.ingest import Ingester, Submission
from chorus_http.rag.ingests import Ingest, Ingests, Item
from chorus_http.rag.parser_process import Parser
from chorus_http.rag.parsers.outcome import ParseLimits
from chorus_http.rag.search import Question, search
from chorus_http.rag.store import IndexState, Store, check_embedder
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, NotFound

log = logging.getLogger(__name__)

DEFAULT_COLLECTION = "default"
MAINTAIN_EVERY_S = 300.0
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryLimits:
    """Of one document, and of what parses it."""

    file_bytes: int
    parse_within_s: float
    folders: tuple[Path, ...] = ()
    sizes: ChunkSizes = field(default_factory=ChunkSizes)
    parsing: ParseLimits = field(default_factory=ParseLimits)


class Library:
    """Open; `close` it at the end. `owner` is the user on whose behalf: nobody sees another's collections."""

    def __init__(self, store: Store, embedder: Embedder, clock: Clock, limits: LibraryLimits) -> None:
        self._store = store
        self._embedder = embedder
        self._clock = clock
        self._limits = limits
        self._maintained_s: dict[int, float] = {}
        self._maintaining: set[asyncio.Task[None]] = set()
        self._parser = Parser(limits.parsing, within_s=limits.parse_within_s)
        ingester = Ingester(store, embedder, clock, sizes=limits.sizes, limits=limits.parsing)
        self.ingests = Ingests(ingester, self._parser, clock)

    async def close(self) -> None:
        await self.ingests.close()
        if self._maintaining:
            await asyncio.wait(self._maintaining)  # a thread cannot be stopped, and the store must outlive it
        await self._parser.close()
        await self._embedder.close()
        await asyncio.to_thread(self._store.close)

    def add(self, owner: str, collection: str, submissions: Sequence[Submission]) -> Ingest:
        """Begin to take documents in. Raises QueueFull."""
        return self._start(owner, collection, [_at_hand(submission) for submission in submissions])

    async def add_folder(self, owner: str, collection: str, path: str) -> Ingest:
        """Bring the collection up to date with a folder of this PC: new and changed files come in, vanished ones go.

        Raises InvalidRequest, NotFound, QueueFull.
        """
        folder = await asyncio.to_thread(allowed_folder, path, self._limits.folders)
        files = await asyncio.to_thread(files_of, folder)
        items = [Item(name=file.source, load=lambda file=file: self._from_disk(file)) for file in files]
        present = {file.source for file in files}

        async def forget() -> None:
            beginning = f"{folder.as_posix().rstrip('/')}/"
            for document in await asyncio.to_thread(self._all_documents, owner, collection):
                source = document.source or ""
                if source.startswith(beginning) and source not in present:
                    await asyncio.to_thread(self._store.delete_document, owner, document.id)

        return self._start(owner, collection, items, forget)

    async def search(self, owner: str, collection: str, question: Question) -> list[Passage]:
        """The best passages; none in a collection that does not exist and is the default one.

        Raises NotFound for another one, EmbeddingModelChanged, and what the embedding model raises.
        """
        found = await asyncio.to_thread(self._store.collection, owner, collection)
        if found is None:
            if collection == DEFAULT_COLLECTION:
                return []
            raise NotFound(f"There is no collection '{collection}'.", param="collection")
        if question.mode is not Mode.WORDS:
            check_embedder(found, (await self._embedder.identity()).digest)
        passages = await search(self._store, self._embedder, found, question)
        self._maintain(found)
        return passages

    async def collections(self, owner: str) -> list[Collection]:
        return await asyncio.to_thread(self._store.collections, owner)

    async def index_state(self, collection: Collection) -> IndexState:
        return await asyncio.to_thread(self._store.index_state, collection)

    async def drop_collection(self, owner: str, name: str) -> None:
        """Raises NotFound."""
        if not await asyncio.to_thread(self._store.drop_collection, owner, name):
            raise NotFound(f"There is no collection '{name}'.")

    async def documents(
        self, owner: str, collection: str | None, *, limit: int, after: str | None
    ) -> list[StoredDocument]:
        beyond = None if after is None else DocumentId(after)
        return await asyncio.to_thread(self._store.documents, owner, collection, limit=limit, after=beyond)

    async def document(self, owner: str, document_id: str) -> StoredDocument:
        """Raises NotFound."""
        found = await asyncio.to_thread(self._store.document, owner, DocumentId(document_id))
        if found is None:
            raise NotFound("There is no such document.")
        return found

    async def delete_document(self, owner: str, document_id: str) -> None:
        """Raises NotFound."""
        if not await asyncio.to_thread(self._store.delete_document, owner, DocumentId(document_id)):
            raise NotFound("There is no such document.")

    def _start(
        self,
        owner: str,
        collection: str,
        items: Sequence[Item],
        forget: Callable[[], Awaitable[None]] | None = None,
    ) -> Ingest:
        async def after() -> None:
            if forget is not None:
                await forget()
            found = await asyncio.to_thread(self._store.collection, owner, collection)
            if found is not None:
                self._maintain(found, now=True)

        return self.ingests.start(owner, collection, items, after=after)

    def _maintain(self, collection: Collection, *, now: bool = False) -> None:
        """Now and then, beside the searches: the vectors may be newly read into memory, or many have come."""
        last_s = self._maintained_s.get(collection.number)
        if not now and last_s is not None and self._clock.monotonic_s() - last_s < MAINTAIN_EVERY_S:
            return
        self._maintained_s[collection.number] = self._clock.monotonic_s()

        async def maintain() -> None:
            try:
                await asyncio.to_thread(self._store.maintain, collection)
            except ClusterError as error:
                log.warning("collection %d is searched more slowly: %s", collection.number, error.message)

        task = asyncio.create_task(maintain(), name=f"rag-maintain:{collection.number}")
        self._maintaining.add(task)
        task.add_done_callback(self._maintaining.discard)

    async def _from_disk(self, file: FolderFile) -> Submission:
        raw = await asyncio.to_thread(read_file, file, limit_bytes=self._limits.file_bytes)
        return Submission(raw=raw, name=file.path.name, source=file.source)

    def _all_documents(self, owner: str, collection: str) -> list[StoredDocument]:
        found: list[StoredDocument] = []
        while True:
            some = self._store.documents(owner, collection, limit=_PAGE, after=found[-1].id if found else None)
            found += some
            if len(some) < _PAGE:
                return found


def _at_hand(submission: Submission) -> Item:
    async def load() -> Submission:
        return submission

    name = submission.source or submission.name or submission.title
    return Item(name=name, load=load, held_bytes=len(submission.raw))
