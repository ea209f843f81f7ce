"""What comes out of SQLite's tables, as the values of this package."""

from __future__ import annotations

from typing import TypeAlias, cast

import msgspec

from chorus_http.rag.documents import (
    ChunkId,
    Collection,
    DocumentId,
    Kind,
    Metadata,
    Passage,
    StoredDocument,
)

Row: TypeAlias = tuple[object, ...]

COLLECTION = """SELECT number, owner, name, embedder_digest, dimensions, created_unix_s,
    (SELECT count(*) FROM document WHERE collection = collection.number),
    (SELECT count(*) FROM document JOIN chunk ON chunk.document = document.number WHERE collection = collection.number)
    FROM collection"""

DOCUMENT = """SELECT document.id, owner, name, title, kind, digest, size_bytes, document.created_unix_s, updated_unix_s,
    complete, source, metadata, notices, (SELECT count(*) FROM chunk WHERE chunk.document = document.number)
    FROM document JOIN collection ON collection.number = document.collection"""

PASSAGE = """SELECT chunk.id, document.id, title, text, headings, start, "end", page, source, metadata
    FROM chunk JOIN document ON document.number = chunk.document"""

_metadata = msgspec.json.Decoder(Metadata)
_texts = msgspec.json.Decoder(tuple[str, ...])


def collection_of(row: Row) -> Collection:
    number, owner, name, digest, dimensions, created, documents, chunks = row
    return msgspec.convert(
        {
            "number": number,
            "owner": owner,
            "name": name,
            "embedder_digest": digest,
            "dimensions": dimensions,
            "documents": documents,
            "chunks": chunks,
            "created_unix_s": created,
        },
        Collection,
    )


def document_of(row: Row) -> StoredDocument:
    texts = cast("list[str]", row)
    numbers = cast("list[float]", row)
    return StoredDocument(
        id=DocumentId(texts[0]),
        owner=texts[1],
        collection=texts[2],
        title=texts[3],
        kind=Kind(texts[4]),
        digest=texts[5],
        size_bytes=int(numbers[6]),
        created_unix_s=numbers[7],
        updated_unix_s=numbers[8],
        complete=bool(row[9]),
        source=cast("str | None", row[10]),
        metadata=_metadata.decode(texts[11]),
        notices=_texts.decode(texts[12]),
        chunks=int(numbers[13]),
    )


def passage_of(row: Row, score: float) -> Passage:
    texts = cast("list[str]", row)
    numbers = cast("list[int]", row)
    return Passage(
        chunk_id=ChunkId(numbers[0]),
        document_id=DocumentId(texts[1]),
        title=texts[2],
        text=texts[3],
        headings=_texts.decode(texts[4]),
        start=numbers[5],
        end=numbers[6],
        page=cast("int | None", row[7]),
        source=cast("str | None", row[8]),
        metadata=_metadata.decode(texts[9]),
        score=score,
    )
