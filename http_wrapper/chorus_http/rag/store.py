"""What keeps documents, chunks and vectors: one protocol, with SQLite and PostgreSQL behind it.

Its methods block, so they are called on threads; any number of them may run at once. What a method changed is on the
disk when it returns. Every one raises StoreUnavailable, and those that write raise InsufficientStorage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
from chorus_proto.errors import EmbeddingModelChanged

Vectors: TypeAlias = NDArray[np.float32]
"""One row for each text, of length 1 (so that a dot product is the cosine)."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Higher is better; scores of words and of vectors cannot be compared."""

    chunk_id: ChunkId
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """How a collection's vectors are searched. `recall_at_10`: measured against exact search; None where that runs."""

    vectors: int
    approximate: bool
    recall_at_10: float | None = None


def check_embedder(collection: Collection, digest: str) -> None:
    """Raises EmbeddingModelChanged."""
    if collection.embedder_digest != digest:
        raise EmbeddingModelChanged(
            f"The collection '{collection.name}' holds vectors of another embedding model (digest "
            f"{collection.embedder_digest[:19]}…, now it is {digest[:19]}…): set the model back, or delete the "
            "collection and add its documents again.",
            param="collection",
        )


class Store(Protocol):
    """An open database. Owners never see each other's collections."""

    def collections(self, owner: str) -> list[Collection]:
        """In the order of their names."""
        ...

    def collection(self, owner: str, name: str) -> Collection | None: ...

    def open_collection(
        self, owner: str, name: str, *, embedder_digest: str, dimensions: int, now_unix_s: float
    ) -> Collection:
        """The collection, made where there is none. Raises EmbeddingModelChanged: it has another model's vectors."""
        ...

    def drop_collection(self, owner: str, name: str) -> bool:
        """With all its documents. False when there is none."""
        ...

    def begin_document(
        self, collection: Collection, new: NewDocument, *, now_unix_s: float
    ) -> tuple[StoredDocument, list[StoredChunk]]:
        """Note a document as not complete; with the id of one that is there it takes that one's place.

        Returns what is known of it now and the chunks it has from before, in order. Raises NotFound when the collection
        is gone.
        """
        ...

    def add_chunks(self, document_id: DocumentId, chunks: Sequence[Chunk], vectors: Vectors) -> list[ChunkId]:
        """They can be found at once. Raises NotFound when the document was deleted meanwhile."""
        ...

    def finish_document(
        self, document_id: DocumentId, chunks: Sequence[tuple[ChunkId, Chunk]], *, now_unix_s: float
    ) -> StoredDocument:
        """It consists of just these chunks now, in this order; it is complete. Raises NotFound as `add_chunks` does."""
        ...

    def documents(
        self, owner: str, collection: str | None = None, *, limit: int, after: DocumentId | None = None
    ) -> list[StoredDocument]:
        """In the order of their ids."""
        ...

    def document(self, owner: str, document_id: DocumentId) -> StoredDocument | None: ...

    def document_of(self, owner: str, collection: str, source: str) -> StoredDocument | None: ...

    def delete_document(self, owner: str, document_id: DocumentId) -> bool:
        """False when the owner has none of this id. No search that begins later finds a chunk of it."""
        ...

    def by_words(self, collection: Collection, words: Sequence[str], chosen: Filter, *, limit: int) -> list[Hit]:
        """The chunks that hold any of the words, best first. `words` are lower-case and made of letters and digits."""
        ...

    def by_vector(self, collection: Collection, vector: Vectors, chosen: Filter, *, limit: int) -> list[Hit]:
        """The nearest chunks by cosine, best first."""
        ...

    def passages(self, hits: Sequence[Hit]) -> list[Passage]:
        """In the order of the hits; chunks that are gone are left out."""
        ...

    def index_state(self, collection: Collection) -> IndexState: ...

    def maintain(self, collection: Collection) -> None:
        """Build what makes searches of a large collection fast. May take a minute; searches go on meanwhile."""
        ...

    def close(self) -> None:
        """A second call does nothing."""
        ...
