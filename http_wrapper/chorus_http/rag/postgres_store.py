"""The store for those who outgrow one file: PostgreSQL with pgvector; several HTTP addresses may share it.

Vectors are searched one by one until a collection is large; `maintain` then builds an HNSW index for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import LiteralString, TypeVar, cast

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from chorus_http.rag.documents import (
    Chunk,
    ChunkId,
    Collection,
    DocumentId,
    Kind,
    Metadata,
    NewDocument,
    Passage,
    StoredChunk,
    StoredDocument,
)
from chorus_http.rag.filters import Filter
from chorus_http.rag.postgres_filter import where
from chorus_http.rag.postgres_schema import Connection, connect, migrate, translated
from chorus_http.rag.store import Hit, IndexState, Vectors, check_embedder
from chorus_proto.errors import NotFound, StoreUnavailable

T = TypeVar("T")

INDEX_ABOVE = 20_000

_COLLECTION: LiteralString = """SELECT number, owner, name, embedder_digest, dimensions,
    (SELECT count(*) FROM chorus_rag.document WHERE document.collection = collection.number),
    (SELECT count(*) FROM chorus_rag.chunk WHERE chunk.collection = collection.number), created_unix_s
    FROM chorus_rag.collection"""
_DOCUMENT: LiteralString = """SELECT document.id, owner, name, title, kind, digest, size_bytes, document.created_unix_s,
    updated_unix_s, complete, source, metadata, notices,
    (SELECT count(*) FROM chorus_rag.chunk WHERE chunk.document = document.number)
    FROM chorus_rag.document JOIN chorus_rag.collection ON collection.number = document.collection"""


class PostgresStore:
    """See `Store`. One connection for each thread that asks."""

    def __init__(self, url: str, *, index_above: int = INDEX_ABOVE) -> None:
        """Raises StoreUnavailable, VersionMismatch."""
        self._url = url
        self._index_above = index_above
        self._local = threading.local()
        self._open: list[Connection] = []
        self._closed = False
        try:
            migrate(self._connection()[0])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._closed = True
        for connection in self._open:
            connection.close()

    # Collections

    def collections(self, owner: str) -> list[Collection]:
        rows = self._rows(_COLLECTION + ' WHERE owner = %s ORDER BY name COLLATE "C"', owner)
        return [_collection(row) for row in rows]

    def collection(self, owner: str, name: str) -> Collection | None:
        rows = self._rows(_COLLECTION + " WHERE owner = %s AND name = %s", owner, name)
        return _collection(rows[0]) if rows else None

    def open_collection(
        self, owner: str, name: str, *, embedder_digest: str, dimensions: int, now_unix_s: float
    ) -> Collection:
        def work(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO chorus_rag.collection (owner, name, embedder_digest, dimensions, created_unix_s)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (owner, name, embedder_digest, dimensions, now_unix_s),
            )

        self._do(work)
        collection = self.collection(owner, name)
        if collection is None:
            raise NotFound(f"The collection '{name}' was deleted.", param="collection")
        check_embedder(collection, embedder_digest)
        return collection

    def drop_collection(self, owner: str, name: str) -> bool:
        def work(connection: Connection) -> bool:
            row = connection.execute(
                "DELETE FROM chorus_rag.collection WHERE owner = %s AND name = %s RETURNING number", (owner, name)
            ).fetchone()
            if row is not None:
                connection.execute(sql.SQL("DROP INDEX IF EXISTS chorus_rag.{}").format(_index_name(int(row[0]))))
            return row is not None

        return self._do(work)

    # Documents

    def begin_document(
        self, collection: Collection, new: NewDocument, *, now_unix_s: float
    ) -> tuple[StoredDocument, list[StoredChunk]]:
        values = (
            *(new.id, collection.number, new.title, new.kind, new.digest, new.size_bytes, now_unix_s, new.source),
            *(_json(new.metadata), _json(new.notices), now_unix_s),
        )

        def work(connection: Connection) -> tuple[StoredDocument, list[StoredChunk]]:
            locked = "SELECT 1 FROM chorus_rag.collection WHERE number = %s FOR KEY SHARE"
            if connection.execute(locked, (collection.number,)).fetchone() is None:
                raise NotFound(f"The collection '{collection.name}' was deleted.", param="collection")
            connection.execute(
                "INSERT INTO chorus_rag.document (id, collection, title, kind, digest, size_bytes, updated_unix_s,"
                " source, metadata, notices, created_unix_s, complete)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, false)"
                " ON CONFLICT (id) DO UPDATE SET title = excluded.title, kind = excluded.kind,"
                " digest = excluded.digest, size_bytes = excluded.size_bytes, source = excluded.source,"
                " updated_unix_s = excluded.updated_unix_s, metadata = excluded.metadata,"
                " notices = excluded.notices, complete = false",
                values,
            )
            rows = connection.execute(
                "SELECT chunk.id, chunk.digest, units FROM chorus_rag.chunk JOIN chorus_rag.document"
                " ON document.number = chunk.document WHERE document.id = %s ORDER BY ordinal, chunk.id",
                (new.id,),
            ).fetchall()
            row = connection.execute(_DOCUMENT + " WHERE document.id = %s", (new.id,)).fetchone()
            assert row is not None  # it was just written
            return _document(row), [StoredChunk(id=ChunkId(row[0]), digest=row[1], units=row[2]) for row in rows]

        return self._do(work)

    def add_chunks(self, document_id: DocumentId, chunks: Sequence[Chunk], vectors: Vectors) -> list[ChunkId]:
        def work(connection: Connection) -> list[ChunkId]:
            document, collection = _present(connection, document_id)
            rows = [
                (
                    *(document, collection, chunk.ordinal, chunk.start, chunk.end, chunk.page, _json(chunk.headings)),
                    *(chunk.context, chunk.text, chunk.digest, chunk.units, _vector(vector)),
                )
                for chunk, vector in zip(chunks, vectors, strict=True)
            ]
            ids: list[ChunkId] = []
            with connection.cursor() as cursor:
                cursor.executemany(
                    'INSERT INTO chorus_rag.chunk (document, collection, ordinal, start, "end", page, headings,'
                    " context, text, digest, units, vector)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::halfvec) RETURNING id",
                    rows,
                    returning=True,
                )
                for result in cursor.results():
                    ids += [ChunkId(int(row[0])) for row in result.fetchall()]
            return ids

        return self._do(work) if chunks else []

    def finish_document(
        self, document_id: DocumentId, chunks: Sequence[tuple[ChunkId, Chunk]], *, now_unix_s: float
    ) -> StoredDocument:
        def work(connection: Connection) -> StoredDocument:
            document, _ = _present(connection, document_id)
            kept = [int(chunk_id) for chunk_id, _ in chunks]
            connection.execute(
                "DELETE FROM chorus_rag.chunk WHERE document = %s AND NOT id = ANY (%s)", (document, kept)
            )
            with connection.cursor() as cursor:
                cursor.executemany(
                    'UPDATE chorus_rag.chunk SET ordinal = %s, start = %s, "end" = %s, page = %s, units = %s'
                    " WHERE id = %s AND document = %s AND (ordinal, start) IS DISTINCT FROM (%s, %s)",
                    [
                        (
                            *(chunk.ordinal, chunk.start, chunk.end, chunk.page, chunk.units, chunk_id, document),
                            *(chunk.ordinal, chunk.start),
                        )
                        for chunk_id, chunk in chunks
                    ],
                )
            connection.execute(
                "UPDATE chorus_rag.document SET complete = true, updated_unix_s = %s WHERE number = %s",
                (now_unix_s, document),
            )
            row = connection.execute(_DOCUMENT + " WHERE document.number = %s", (document,)).fetchone()
            assert row is not None  # it is locked
            return _document(row)

        return self._do(work)

    def documents(
        self, owner: str, collection: str | None = None, *, limit: int, after: DocumentId | None = None
    ) -> list[StoredDocument]:
        rows = self._rows(
            _DOCUMENT + " WHERE owner = %s AND (%s::text IS NULL OR name = %s) AND document.id > %s"
            " ORDER BY document.id LIMIT %s",
            *(owner, collection, collection, after or "", limit),
        )
        return [_document(row) for row in rows]

    def document(self, owner: str, document_id: DocumentId) -> StoredDocument | None:
        rows = self._rows(_DOCUMENT + " WHERE owner = %s AND document.id = %s", owner, document_id)
        return _document(rows[0]) if rows else None

    def document_of(self, owner: str, collection: str, source: str) -> StoredDocument | None:
        rows = self._rows(_DOCUMENT + " WHERE owner = %s AND name = %s AND source = %s", owner, collection, source)
        return _document(rows[0]) if rows else None

    def delete_document(self, owner: str, document_id: DocumentId) -> bool:
        def work(connection: Connection) -> bool:
            row = connection.execute(
                "DELETE FROM chorus_rag.document USING chorus_rag.collection WHERE collection.number = collection"
                " AND owner = %s AND document.id = %s RETURNING document.id",
                (owner, document_id),
            ).fetchone()
            return row is not None

        return self._do(work)

    # Search

    def by_words(self, collection: Collection, words: Sequence[str], chosen: Filter, *, limit: int) -> list[Hit]:
        if not words:
            return []
        test, parameters = where(chosen)
        rows = self._rows(
            "SELECT chunk.id, ts_rank(words, query, 1) AS rank FROM chorus_rag.chunk JOIN chorus_rag.document"
            " ON document.number = chunk.document, to_tsquery('english', %s) AS query"
            " WHERE chunk.collection = %s AND words @@ query AND " + test + " ORDER BY rank DESC, chunk.id LIMIT %s",
            *(" | ".join(words), collection.number, *parameters, limit),
        )
        return [Hit(ChunkId(row[0]), float(row[1])) for row in rows]

    def by_vector(self, collection: Collection, vector: Vectors, chosen: Filter, *, limit: int) -> list[Hit]:
        test, parameters = where(chosen)
        # As literals: the planner must see that the partial index of the collection fits.
        number, near = sql.Literal(collection.number), _near(collection)
        query = sql.SQL(
            "SELECT chunk.id, 1 - ({near} <=> %s::halfvec) FROM chorus_rag.chunk JOIN chorus_rag.document"
            " ON document.number = chunk.document WHERE chunk.collection = {number} AND {test}"
            " ORDER BY {near} <=> %s::halfvec LIMIT %s"
        ).format(near=near, number=number, test=sql.SQL(test))
        told = _vector(vector)
        rows = self._rows(query, told, *parameters, told, limit)
        return [Hit(ChunkId(row[0]), float(row[1])) for row in rows]

    def passages(self, hits: Sequence[Hit]) -> list[Passage]:
        rows = self._rows(
            'SELECT chunk.id, document.id, title, text, headings, start, "end", page, source, metadata'
            " FROM chorus_rag.chunk JOIN chorus_rag.document ON document.number = chunk.document"
            " WHERE chunk.id = ANY (%s)",
            [int(hit.chunk_id) for hit in hits],
        )
        found = {int(row[0]): row for row in rows}
        return [_passage(found[hit.chunk_id], hit.score) for hit in hits if hit.chunk_id in found]

    def index_state(self, collection: Collection) -> IndexState:
        """pgvector tells no recall."""
        ((count,),) = self._rows("SELECT count(*) FROM chorus_rag.chunk WHERE collection = %s", collection.number)
        return IndexState(vectors=count, approximate=self._has_index(collection))

    def maintain(self, collection: Collection) -> None:
        ((count,),) = self._rows("SELECT count(*) FROM chorus_rag.chunk WHERE collection = %s", collection.number)
        if count <= self._index_above or self._has_index(collection):
            return
        build = sql.SQL(
            "CREATE INDEX IF NOT EXISTS {name} ON chorus_rag.chunk USING hnsw (({near}) halfvec_cosine_ops)"
            " WHERE collection = {number}"
        ).format(name=_index_name(collection.number), near=_near(collection), number=sql.Literal(collection.number))
        self._do(lambda connection: connection.execute(build) and None)

    def _has_index(self, collection: Collection) -> bool:
        name = f"chorus_rag.near_{collection.number}"
        return bool(self._rows("SELECT 1 WHERE to_regclass(%s) IS NOT NULL", name))

    # Within

    def _rows(self, query: LiteralString | sql.Composed, *parameters: object) -> list[TupleRow]:
        def work(connection: Connection) -> list[TupleRow]:
            return connection.execute(query, parameters).fetchall()

        return self._do(work)

    def _do(self, work: Callable[[Connection], T]) -> T:
        """`work` as one transaction. A connection that turns out dead is replaced once: nothing was done on it."""
        with translated():
            for _ in range(2):
                connection, fresh = self._connection()
                try:
                    with connection.transaction():
                        return work(connection)
                except psycopg.OperationalError:
                    if fresh or not connection.broken:
                        raise
        raise StoreUnavailable("The PostgreSQL server cannot be reached; see rag_database.", retry_after_s=5)

    def _connection(self) -> tuple[Connection, bool]:
        """This thread's connection, and whether it is new."""
        if self._closed:
            raise StoreUnavailable("This process is shutting down.")
        held: Connection | None = getattr(self._local, "connection", None)
        if held is not None and not held.closed:
            return held, False
        fresh = connect(self._url)
        self._open = [each for each in self._open if not each.closed] + [fresh]
        self._local.connection = fresh
        return fresh, True


def _present(connection: Connection, document_id: DocumentId) -> tuple[int, int]:
    """Locked against its deletion until the transaction ends."""
    row = connection.execute(
        "SELECT number, collection FROM chorus_rag.document WHERE id = %s FOR UPDATE", (document_id,)
    ).fetchone()
    if row is None:
        raise NotFound("The document was deleted while it was read in.")
    return int(row[0]), int(row[1])


def _index_name(number: int) -> sql.Identifier:
    return sql.Identifier(f"near_{number}")


def _near(collection: Collection) -> sql.Composed:
    """The indexed expression: an index needs to know the dimensions, which the column leaves open."""
    return sql.SQL("chunk.vector::halfvec({})").format(sql.Literal(collection.dimensions))


def _vector(vector: Vectors) -> str:
    return f"[{','.join(f'{value:.5g}' for value in vector.tolist())}]"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _collection(row: tuple[object, ...]) -> Collection:
    names = ("number", "owner", "name", "embedder_digest", "dimensions", "documents", "chunks", "created_unix_s")
    return msgspec.convert(dict(zip(names, row, strict=True)), Collection)


def _document(row: tuple[object, ...]) -> StoredDocument:
    names = (
        *("id", "owner", "collection", "title", "kind", "digest", "size_bytes", "created_unix_s", "updated_unix_s"),
        *("complete", "source", "metadata", "notices", "chunks"),
    )
    told = dict(zip(names, row, strict=True))
    return StoredDocument(
        id=DocumentId(str(told["id"])),
        owner=str(told["owner"]),
        collection=str(told["collection"]),
        title=str(told["title"]),
        kind=Kind(str(told["kind"])),
        digest=str(told["digest"]),
        size_bytes=cast("int", told["size_bytes"]),
        created_unix_s=cast("float", told["created_unix_s"]),
        updated_unix_s=cast("float", told["updated_unix_s"]),
        complete=bool(told["complete"]),
        source=cast("str | None", told["source"]),
        metadata=msgspec.convert(told["metadata"], Metadata),
        notices=msgspec.convert(told["notices"], tuple[str, ...]),
        chunks=cast("int", told["chunks"]),
    )


def _passage(row: tuple[object, ...], score: float) -> Passage:
    return Passage(
        chunk_id=ChunkId(cast("int", row[0])),
        document_id=DocumentId(str(row[1])),
        title=str(row[2]),
        text=str(row[3]),
        headings=msgspec.convert(row[4], tuple[str, ...]),
        start=cast("int", row[5]),
        end=cast("int", row[6]),
        page=cast("int | None", row[7]),
        source=cast("str | None", row[8]),
        metadata=msgspec.convert(row[9], Metadata),
        score=score,
    )
