"""The values of this package as the bodies that callers get."""

from __future__ import annotations

from collections.abc import Sequence

from chorus_http.rag.bodies import (
    AddedReply,
    CollectionReply,
    DocumentReply,
    Failure,
    IngestReply,
    ItemReply,
    PassageReply,
    SourceReply,
)
from chorus_http.rag.documents import Collection, Passage, StoredDocument
from chorus_http.rag.ingest import Ingested
from chorus_http.rag.ingests import Ingest, IngestId, Item
from chorus_http.rag.store import IndexState


def shown_document(document: StoredDocument) -> DocumentReply:
    return DocumentReply(
        id=document.id,
        title=document.title,
        collection=document.collection,
        chunks=document.chunks,
        kind=document.kind,
        size_bytes=document.size_bytes,
        digest=document.digest,
        source=document.source,
        metadata=document.metadata,
        notices=document.notices,
        complete=document.complete,
        created_unix_s=document.created_unix_s,
        updated_unix_s=document.updated_unix_s,
    )


def shown_added(ingest_id: IngestId, added: Ingested) -> AddedReply:
    document = added.document
    return AddedReply(
        id=document.id,
        title=document.title,
        collection=document.collection,
        chunks=document.chunks,
        kind=document.kind,
        size_bytes=document.size_bytes,
        digest=document.digest,
        source=document.source,
        metadata=document.metadata,
        notices=document.notices,
        complete=document.complete,
        created_unix_s=document.created_unix_s,
        updated_unix_s=document.updated_unix_s,
        embedded=added.embedded,
        reused=added.reused,
        unchanged=added.unchanged,
        ingest_id=ingest_id,
    )


def shown_ingest(ingest: Ingest) -> IngestReply:
    progress = ingest.progress
    return IngestReply(
        ingest_id=ingest.id,
        state=ingest.state,
        collection=ingest.collection,
        documents_total=len(ingest.items),
        documents_done=ingest.documents_done,
        documents_failed=sum(item.error is not None for item in ingest.items),
        chunks_total=sum(each.chunks or 0 for each in progress),
        chunks_done=sum(each.embedded + each.reused for each in progress),
        started_unix_s=ingest.started_unix_s,
        ended_unix_s=ingest.ended_unix_s,
        documents=tuple(_item(item) for item in ingest.items),
    )


def _item(item: Item) -> ItemReply:
    error = item.error
    return ItemReply(
        name=item.name,
        chunks=item.progress.chunks,
        embedded=item.progress.embedded,
        reused=item.progress.reused,
        document_id=item.result.document.id if item.result is not None else None,
        error=Failure(code=error.code, message=error.message) if error is not None else None,
    )


def shown_collection(collection: Collection, state: IndexState) -> CollectionReply:
    return CollectionReply(
        name=collection.name,
        documents=collection.documents,
        chunks=collection.chunks,
        embedder_digest=collection.embedder_digest,
        dimensions=collection.dimensions,
        created_unix_s=collection.created_unix_s,
        approximate=state.approximate,
        recall_at_10=state.recall_at_10,
    )


def shown_passage(passage: Passage) -> PassageReply:
    return PassageReply(
        document_id=passage.document_id,
        chunk_id=passage.chunk_id,
        title=passage.title,
        text=passage.text,
        score=passage.score,
        similarity=passage.similarity,
        headings=passage.headings,
        start=passage.start,
        end=passage.end,
        page=passage.page,
        source=passage.source,
        metadata=passage.metadata,
    )


def shown_sources(passages: Sequence[Passage], cited: set[int]) -> tuple[SourceReply, ...]:
    """Numbered from 1, as the model was given them."""
    return tuple(
        SourceReply(
            document_id=passage.document_id,
            chunk_id=passage.chunk_id,
            title=passage.title,
            text=passage.text,
            score=passage.score,
            similarity=passage.similarity,
            headings=passage.headings,
            start=passage.start,
            end=passage.end,
            page=passage.page,
            source=passage.source,
            metadata=passage.metadata,
            number=number,
            cited=number in cited,
        )
        for number, passage in enumerate(passages, 1)
    )
