"""The store that needs no server: documents, full text and vectors in one SQLite file, vectors searched in memory.

One connection writes, under a lock that the vectors in memory are changed under as well; each thread that reads has its
own, so a search never waits for a write.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
from filelock import FileLock, Timeout

from chorus_http.rag.documents import (
    Chunk,
    ChunkId,
    Collection,
    DocumentId,
    NewDocument,
    Passage,
    StoredChunk,
    StoredDocument,
)
from chorus_http.rag.filters import Filter
from chorus_http.rag.sqlite_filter import Parameter, where
from chorus_http.rag.sqlite_rows import COLLECTION, DOCUMENT, PASSAGE, Row, collection_of, document_of, passage_of
from chorus_http.rag.sqlite_schema import connect, open_database, translated
from chorus_http.rag.sqlite_words import WordCounts, prepare, words_table
from chorus_http.rag.store import Hit, IndexState, Vectors, check_embedder
from chorus_http.rag.vector_memory import VectorMemory
from chorus_http.rag.vectors import APPROXIMATE_ABOVE, VectorIndex
from chorus_proto.errors import InternalError, NotFound, StoreUnavailable

STORED = np.dtype("<f2")
_READ_ROWS = 4096
_IDS_AT_ONCE = 500
"""Well below SQLite's limit of parameters in one statement."""


class SqliteStore:
    """See `Store`. The file belongs to one process at a time."""

    def __init__(self, path: Path, *, memory_bytes: int, approximate_above: int = APPROXIMATE_ABOVE) -> None:
        """Raises StoreUnavailable, InsufficientStorage, VersionMismatch."""
        self._path = path
        self._above = approximate_above
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._owned = FileLock(f"{path}.lock", timeout=0, thread_local=False)  # closed by another thread
            self._owned.acquire()
        except Timeout:
            raise StoreUnavailable(
                f"another process has {path} open: use that one, or set rag_database to share a PostgreSQL server"
            ) from None
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be used: {error.strerror}") from None
        try:
            self._writer = open_database(path)
        except BaseException:
            self._owned.release()
            raise
        self._writing = threading.RLock()
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._counts = WordCounts()
        self._vectors = VectorMemory(limit_bytes=memory_bytes)
        self._closed = False

    def close(self) -> None:
        with self._writing:
            if not self._closed:
                self._closed = True
                for connection in (*self._readers, self._writer):
                    connection.close()
                self._owned.release()

    # Collections

    def collections(self, owner: str) -> list[Collection]:
        return [collection_of(row) for row in self._read(f"{COLLECTION} WHERE owner = ? ORDER BY name", owner)]

    def collection(self, owner: str, name: str) -> Collection | None:
        rows = self._read(f"{COLLECTION} WHERE owner = ? AND name = ?", owner, name)
        return collection_of(rows[0]) if rows else None

    def open_collection(
        self, owner: str, name: str, *, embedder_digest: str, dimensions: int, now_unix_s: float
    ) -> Collection:
        with self._transaction() as writer:
            found = writer.execute(
                "INSERT INTO collection (owner, name, embedder_digest, dimensions, created_unix_s)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING number",
                (owner, name, embedder_digest, dimensions, now_unix_s),
            ).fetchall()
            for (number,) in found:
                writer.execute(words_table(number))
            row = writer.execute(f"{COLLECTION} WHERE owner = ? AND name = ?", (owner, name)).fetchone()
        collection = collection_of(row)
        check_embedder(collection, embedder_digest)
        return collection

    def drop_collection(self, owner: str, name: str) -> bool:
        with self._transaction() as writer:
            row = writer.execute("SELECT number FROM collection WHERE owner = ? AND name = ?", (owner, name)).fetchone()
            if row is None:
                return False
            writer.execute(f"DROP TABLE words_{row[0]}")
            writer.execute(
                "DELETE FROM chunk WHERE document IN (SELECT number FROM document WHERE collection = ?)", row
            )
            writer.execute("DELETE FROM document WHERE collection = ?", row)
            writer.execute("DELETE FROM collection WHERE number = ?", row)
        self._vectors.forget(row[0])
        return True

    # Documents

    def begin_document(
        self, collection: Collection, new: NewDocument, *, now_unix_s: float
    ) -> tuple[StoredDocument, list[StoredChunk]]:
        values = (
            *(collection.number, new.title, new.kind, new.digest, new.size_bytes, now_unix_s, new.source),
            *(msgspec.json.encode(new.metadata).decode(), msgspec.json.encode(new.notices).decode()),
        )
        with self._transaction() as writer:
            if writer.execute("SELECT 1 FROM collection WHERE number = ?", (collection.number,)).fetchone() is None:
                raise NotFound(f"The collection '{collection.name}' was deleted.", param="collection")
            writer.execute(
                "INSERT INTO document (id, collection, title, kind, digest, size_bytes, updated_unix_s, source,"
                " metadata, notices, created_unix_s, complete) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
                " ON CONFLICT (id) DO UPDATE SET title = excluded.title, kind = excluded.kind,"
                " digest = excluded.digest, size_bytes = excluded.size_bytes, source = excluded.source,"
                " updated_unix_s = excluded.updated_unix_s, metadata = excluded.metadata,"
                " notices = excluded.notices, complete = 0",
                (new.id, *values, now_unix_s),
            )
            document = document_of(writer.execute(f"{DOCUMENT} WHERE document.id = ?", (new.id,)).fetchone())
            rows = writer.execute(
                "SELECT chunk.id, chunk.digest, chunk.units FROM chunk"
                " JOIN document ON document.number = chunk.document WHERE document.id = ? ORDER BY ordinal, chunk.id",
                (new.id,),
            ).fetchall()
        return document, [StoredChunk(id=ChunkId(row[0]), digest=row[1], units=row[2]) for row in rows]

    def add_chunks(self, document_id: DocumentId, chunks: Sequence[Chunk], vectors: Vectors) -> list[ChunkId]:
        stored = vectors.astype(STORED)
        with self._transaction() as writer:
            document, collection = self._present(writer, document_id)
            ids: list[int] = []
            for chunk, vector in zip(chunks, stored, strict=True):
                row = writer.execute(
                    'INSERT INTO chunk (document, ordinal, start, "end", page, headings, context, text, digest, units,'
                    " vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(document, chunk.ordinal, chunk.start, chunk.end, chunk.page),
                        *(msgspec.json.encode(chunk.headings).decode(), chunk.context, chunk.text),
                        *(chunk.digest, chunk.units, vector.tobytes()),
                    ),
                )
                ids.append(cast("int", row.lastrowid))
            writer.executemany(
                f"INSERT INTO words_{collection} (rowid, context, text) VALUES (?, ?, ?)",
                [(number, chunk.context, chunk.text) for number, chunk in zip(ids, chunks, strict=True)],
            )
            self._counts.changed(collection, len(ids))
            index = self._vectors.held(collection)
            if index is not None:
                numbers = np.array(ids, dtype=np.int64)
                index.add(numbers, np.full(len(ids), document), stored.astype(np.float32))
        return [ChunkId(number) for number in ids]

    def finish_document(
        self, document_id: DocumentId, chunks: Sequence[tuple[ChunkId, Chunk]], *, now_unix_s: float
    ) -> StoredDocument:
        with self._transaction() as writer:
            document, collection = self._present(writer, document_id)
            writer.executemany(
                'UPDATE chunk SET ordinal = ?, start = ?, "end" = ?, page = ?, units = ? WHERE id = ? AND document = ?',
                [
                    (chunk.ordinal, chunk.start, chunk.end, chunk.page, chunk.units, chunk_id, document)
                    for chunk_id, chunk in chunks
                ],
            )
            kept = {int(chunk_id) for chunk_id, _ in chunks}
            present = {int(row[0]) for row in writer.execute("SELECT id FROM chunk WHERE document = ?", (document,))}
            self._delete_chunks(writer, collection, sorted(present - kept))
            writer.execute(
                "UPDATE document SET complete = 1, updated_unix_s = ? WHERE number = ?", (now_unix_s, document)
            )
            row = writer.execute(f"{DOCUMENT} WHERE document.number = ?", (document,)).fetchone()
        return document_of(row)

    def documents(
        self, owner: str, collection: str | None = None, *, limit: int, after: DocumentId | None = None
    ) -> list[StoredDocument]:
        rows = self._read(
            f"{DOCUMENT} WHERE collection.owner = ? AND (? IS NULL OR collection.name = ?) AND document.id > ?"
            " ORDER BY document.id LIMIT ?",
            *(owner, collection, collection, after or "", limit),
        )
        return [document_of(row) for row in rows]

    def document(self, owner: str, document_id: DocumentId) -> StoredDocument | None:
        rows = self._read(f"{DOCUMENT} WHERE collection.owner = ? AND document.id = ?", owner, document_id)
        return document_of(rows[0]) if rows else None

    def document_of(self, owner: str, collection: str, source: str) -> StoredDocument | None:
        rows = self._read(
            f"{DOCUMENT} WHERE collection.owner = ? AND collection.name = ? AND source = ?", owner, collection, source
        )
        return document_of(rows[0]) if rows else None

    def delete_document(self, owner: str, document_id: DocumentId) -> bool:
        with self._transaction() as writer:
            row = writer.execute(
                "SELECT document.number, collection.number FROM document JOIN collection"
                " ON collection.number = document.collection WHERE collection.owner = ? AND document.id = ?",
                (owner, document_id),
            ).fetchone()
            if row is None:
                return False
            document, collection = row
            found = writer.execute("SELECT id FROM chunk WHERE document = ?", (document,)).fetchall()
            self._delete_chunks(writer, collection, [number for (number,) in found])
            writer.execute("DELETE FROM document WHERE number = ?", (document,))
        return True

    # Search

    def by_words(self, collection: Collection, words: Sequence[str], chosen: Filter, *, limit: int) -> list[Hit]:
        if not words:
            return []
        table = f"words_{collection.number}"
        parameters: list[Parameter] = []
        sql = f"SELECT rowid, rank FROM {table} WHERE {table} MATCH ? ORDER BY rank LIMIT ?"
        if chosen:
            test, parameters = where(chosen)
            sql = (
                f"SELECT {table}.rowid, rank FROM {table} JOIN chunk ON chunk.id = {table}.rowid"
                f" JOIN document ON document.number = chunk.document WHERE {table} MATCH ? AND {test}"
                " ORDER BY rank LIMIT ?"
            )
        try:
            with translated(self._path):
                query = self._counts.query(self._reader(), collection.number, words)
            if query is None:
                return []
            rows = cast("list[tuple[int, float]]", self._read(sql, query, *parameters, limit))
        except InternalError:
            now = self.collection(collection.owner, collection.name)
            if now is not None and now.number == collection.number:
                raise
            return []  # deleted while it was searched
        return [Hit(ChunkId(chunk_id), -rank) for chunk_id, rank in rows]

    def by_vector(self, collection: Collection, vector: Vectors, chosen: Filter, *, limit: int) -> list[Hit]:
        index = self._index(collection)
        documents = None
        if chosen:
            test, parameters = where(chosen)
            rows = self._read(
                f"SELECT number FROM document WHERE collection = ? AND {test}", collection.number, *parameters
            )
            documents = np.array([row[0] for row in rows], dtype=np.int64)
        ids, scores = index.search(vector, limit=limit, documents=documents)
        return [Hit(ChunkId(int(number)), float(score)) for number, score in zip(ids, scores, strict=True)]

    def passages(self, hits: Sequence[Hit]) -> list[Passage]:
        found: dict[int, Row] = {}
        numbers = [int(hit.chunk_id) for hit in hits]
        for some in _parts(numbers):
            marks = ", ".join("?" * len(some))
            found.update(
                (cast("int", row[0]), row) for row in self._read(f"{PASSAGE} WHERE chunk.id IN ({marks})", *some)
            )
        return [passage_of(found[hit.chunk_id], hit.score) for hit in hits if hit.chunk_id in found]

    def index_state(self, collection: Collection) -> IndexState:
        index = self._index(collection)
        cells = index.cells
        return IndexState(
            vectors=len(index),
            approximate=cells is not None,
            recall_at_10=None if cells is None else cells.recall_at_10,
        )

    def maintain(self, collection: Collection) -> None:
        if self._index(collection).wants_cells:
            self.build_cells(collection)

    def build_cells(self, collection: Collection) -> None:
        """However small the collection is."""
        self._index(collection).build_cells()

    # Within

    def _index(self, collection: Collection) -> VectorIndex:
        found = self._vectors.held(collection.number)
        if found is not None:
            return found
        with self._writing:  # so that no change falls between what is read and what is held
            found = self._vectors.held(collection.number)
            if found is not None:
                return found
            with translated(self._path):
                (count,) = self._writer.execute(
                    "SELECT count(*) FROM chunk JOIN document ON document.number = chunk.document WHERE collection = ?",
                    (collection.number,),
                ).fetchone()
                expected_bytes = count * collection.dimensions * np.dtype(np.float32).itemsize
                return self._vectors.load(collection.number, expected_bytes, lambda: self._loaded(collection))

    def _loaded(self, collection: Collection) -> VectorIndex:
        index = VectorIndex(collection.dimensions, approximate_above=self._above)
        rows = self._writer.execute(
            "SELECT chunk.id, document, vector FROM document CROSS JOIN chunk ON document.number = chunk.document"
            " WHERE collection = ?",
            (collection.number,),
        )
        while some := rows.fetchmany(_READ_ROWS):
            vectors = np.frombuffer(b"".join(row[2] for row in some), dtype=STORED).reshape(len(some), -1)
            ids = np.array([row[0] for row in some], dtype=np.int64)
            index.add(ids, np.array([row[1] for row in some], dtype=np.int64), vectors.astype(np.float32))
        return index

    def _delete_chunks(self, writer: sqlite3.Connection, collection: int, numbers: list[int]) -> None:
        for some in _parts(numbers):
            marks = ", ".join("?" * len(some))
            # A full-text table without content of its own must be told what to forget (FTS5, 4.4.3).
            writer.execute(
                f"INSERT INTO words_{collection} (words_{collection}, rowid, context, text)"
                f" SELECT 'delete', id, context, text FROM chunk WHERE id IN ({marks})",
                some,
            )
            writer.execute(f"DELETE FROM chunk WHERE id IN ({marks})", some)
        self._counts.changed(collection, len(numbers))
        index = self._vectors.held(collection)
        if index is not None and numbers:
            index.remove(np.array(numbers, dtype=np.int64))

    @staticmethod
    def _present(writer: sqlite3.Connection, document_id: DocumentId) -> tuple[int, int]:
        row = writer.execute("SELECT number, collection FROM document WHERE id = ?", (document_id,)).fetchone()
        if row is None:
            raise NotFound("The document was deleted while it was read in.")
        return row[0], row[1]

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        """All or nothing. What is in memory is dropped with a change that did not come about."""
        with self._writing, translated(self._path):
            if self._closed:
                raise StoreUnavailable("This process is shutting down.")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                self._vectors.clear()
                raise

    def _read(self, query: str, *parameters: str | float | None) -> list[Row]:
        with translated(self._path):
            return self._reader().execute(query, parameters).fetchall()

    def _reader(self) -> sqlite3.Connection:
        """This thread's connection."""
        reader: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if reader is None:
            reader = connect(self._path)
            prepare(reader)
            self._local.connection = reader
            self._readers.append(reader)  # one step for every thread
        return reader


def _parts(numbers: list[int]) -> Iterable[list[int]]:
    return (numbers[at : at + _IDS_AT_ONCE] for at in range(0, len(numbers), _IDS_AT_ONCE))
