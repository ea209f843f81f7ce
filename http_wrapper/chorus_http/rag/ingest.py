"""One document on its way into a collection: read, cut up, embedded, stored. An edit costs only what it touched."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chorus_http.rag.chunking import ChunkSizes, chunk
from chorus_http.rag.documents import (
    Chunk,
    ChunkId,
    Collection,
    Kind,
    Metadata,
    MetadataValue,
    NewDocument,
    Parsed,
    StoredChunk,
    StoredDocument,
    new_document_id,
)
from chorus_http.rag.embedder import Embedder, Purpose
from chorus_http.rag.parse import answered
from chorus_http.rag.parser_process import Batch, refusal_of
from chorus_http.rag.parsers.kinds import kind_of
from chorus_http.rag.parsers.outcome import ParseLimits, Refused, storable
from chorus_http.rag.store import Store
from chorus_proto.clock import Clock

CHUNKS_AT_ONCE = 32
"""Embedded together, and then stored together: what a crash makes us do again."""

_OWN_THREAD = frozenset({Kind.TEXT, Kind.MARKDOWN, Kind.CODE})
"""Text that came as text is read by our own few lines; all else goes to the limited child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A document as its owner hands it in. `kind`: known already, since it came as text; else `raw` tells."""

    raw: bytes
    name: str = ""
    """Of the file; its ending tells one kind of text from another."""
    title: str = ""
    kind: Kind | None = None
    media_type: str = ""
    source: str | None = None
    """Where it comes from; a later one of the same source takes its place."""
    metadata: Metadata = field(default_factory=dict[str, MetadataValue | list[MetadataValue]])


@dataclass(slots=True)
class Progress:
    """Of one document. `chunks` is None while it is not cut up yet."""

    chunks: int | None = None
    embedded: int = 0
    reused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What came of a document. `embedded` chunks are new, `reused` stood in the collection already."""

    document: StoredDocument
    embedded: int
    reused: int
    unchanged: bool = False


class Ingester:
    """Takes documents in, of one source one after the other."""

    def __init__(
        self, store: Store, embedder: Embedder, clock: Clock, *, sizes: ChunkSizes, limits: ParseLimits
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._clock = clock
        self._sizes = sizes
        self._limits = limits
        self._one_by_one: weakref.WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )

    async def ingest(
        self, owner: str, collection: str, submission: Submission, batch: Batch, progress: Progress
    ) -> Ingested:
        """Raises UnreadableDocument, ExpandedTooLarge, UnsupportedMediaType, EmbeddingModelChanged, NotFound when the
        document is deleted meanwhile, and what the store and the embedding model raise."""
        async with self._turn(owner, collection, submission.source):
            return await self._ingest(owner, collection, submission, batch, progress)

    async def _ingest(
        self, owner: str, name: str, submission: Submission, batch: Batch, progress: Progress
    ) -> Ingested:
        kind = submission.kind or _kind(submission)
        digest = await asyncio.to_thread(_digest, submission.raw)
        identity = await self._embedder.identity()
        collection = await asyncio.to_thread(
            lambda: self._store.open_collection(
                owner,
                name,
                embedder_digest=identity.digest,
                dimensions=identity.dimensions,
                now_unix_s=self._clock.unix_s(),
            )
        )
        earlier = None
        if submission.source is not None:
            earlier = await asyncio.to_thread(self._store.document_of, owner, name, submission.source)
        if earlier is not None and _unchanged(earlier, submission, kind, digest):
            progress.chunks = progress.reused = earlier.chunks
            return Ingested(document=earlier, embedded=0, reused=earlier.chunks, unchanged=True)
        parsed = await self._parsed(submission, kind, batch)
        new = NewDocument(
            id=earlier.id if earlier is not None else new_document_id(),
            owner=owner,
            collection=name,
            title=storable(submission.title or parsed.title or submission.name or _first_words(parsed))[:200],
            kind=kind,
            digest=digest,
            size_bytes=len(submission.raw),
            source=submission.source,
            metadata=submission.metadata,
            notices=parsed.notices,
        )
        try:
            return await self._index(collection, new, parsed, progress)
        except BaseException:
            # What is not whole is of no use to whoever cannot send it again under the same name.
            if submission.source is None:
                await asyncio.shield(asyncio.to_thread(self._store.delete_document, owner, new.id))
            raise

    async def _index(self, collection: Collection, new: NewDocument, parsed: Parsed, progress: Progress) -> Ingested:
        _, stored = await asyncio.to_thread(
            lambda: self._store.begin_document(collection, new, now_unix_s=self._clock.unix_s())
        )
        earlier = [each.units for each in stored]
        chunks = await asyncio.to_thread(lambda: chunk(parsed, new.title, self._sizes, earlier=earlier))
        known, missing = _compared(chunks, stored)
        progress.chunks, progress.reused = len(chunks), len(known)
        for at in range(0, len(missing), CHUNKS_AT_ONCE):
            some = missing[at : at + CHUNKS_AT_ONCE]
            vectors = await self._embedder.embed([each.indexed_text for each in some], Purpose.DOCUMENT)
            ids = await asyncio.to_thread(self._store.add_chunks, new.id, some, vectors)
            known.update(zip((each.ordinal for each in some), ids, strict=True))
            progress.embedded += len(some)
        whole = [(known[each.ordinal], each) for each in chunks]
        document = await asyncio.to_thread(
            lambda: self._store.finish_document(new.id, whole, now_unix_s=self._clock.unix_s())
        )
        return Ingested(document=document, embedded=len(missing), reused=len(chunks) - len(missing))

    async def _parsed(self, submission: Submission, kind: Kind, batch: Batch) -> Parsed:
        if submission.kind is None or kind not in _OWN_THREAD:
            return await batch.parse(kind, submission.raw)
        answer = await asyncio.to_thread(answered, kind, submission.raw, self._limits)
        if answer.parsed is None:
            raise refusal_of(answer)
        return answer.parsed

    @asynccontextmanager
    async def _turn(self, owner: str, collection: str, source: str | None) -> AsyncGenerator[None]:
        if source is None:
            yield
            return
        lock = self._one_by_one.setdefault((owner, collection, source), asyncio.Lock())
        async with lock:
            yield


def _kind(submission: Submission) -> Kind:
    try:
        return kind_of(submission.name, submission.raw, media_type=submission.media_type)
    except Refused as refused:
        raise refusal_of(refused) from None


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _unchanged(earlier: StoredDocument, submission: Submission, kind: Kind, digest: str) -> bool:
    return (
        earlier.complete
        and (earlier.digest, earlier.kind) == (digest, kind)
        and earlier.metadata == submission.metadata
        and (not submission.title or earlier.title == storable(submission.title)[:200])
    )


def _first_words(parsed: Parsed) -> str:
    first = parsed.blocks[0]
    return " ".join(parsed.text[first.start : min(first.end, first.start + 120)].split()[:12])


def _compared(chunks: Sequence[Chunk], stored: Sequence[StoredChunk]) -> tuple[dict[int, ChunkId], list[Chunk]]:
    """Ordinal -> id of what is stored already, and the chunks that are not."""
    free: dict[bytes, deque[ChunkId]] = defaultdict(deque)
    for each in stored:
        free[each.digest].append(each.id)
    known: dict[int, ChunkId] = {}
    missing: list[Chunk] = []
    for each in chunks:
        ids = free.get(each.digest)
        if ids:
            known[each.ordinal] = ids.popleft()
        else:
            missing.append(each)
    return known, missing
