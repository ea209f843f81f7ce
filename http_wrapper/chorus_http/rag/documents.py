"""The values of this package. Positions are characters of a document's extracted text: `text[start:end]`."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, TypeAlias

import msgspec

DocumentId = NewType("DocumentId", str)
"""`doc_` and 24 hexadecimal digits; says nothing of the document's name."""

ChunkId = NewType("ChunkId", int)
"""A chunk's number in its store; never used again for another."""

MetadataValue: TypeAlias = str | int | float | bool
Metadata: TypeAlias = dict[str, MetadataValue | list[MetadataValue]]


def new_document_id() -> DocumentId:
    return DocumentId(f"doc_{secrets.token_hex(12)}")


class Kind(StrEnum):
    """What a file is; decides its parser."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"
    CSV = "csv"
    CODE = "code"


class Mode(StrEnum):
    """How a search finds."""

    HYBRID = "hybrid"
    WORDS = "words"
    VECTORS = "vectors"


class BlockKind(StrEnum):
    """What a piece of text is; decides where it may be cut."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LINES = "lines"
    """Tables, lists and code: cut between lines only."""


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a document's text. `level` is a heading's, 1 the highest; `page` counts from 1."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    page: int | None = None


class Parsed(msgspec.Struct, frozen=True):
    """What a parser found in a file: its text, and what stands where. `notices` say what was left out."""

    text: str
    blocks: tuple[Block, ...]
    title: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A stretch of a document, as it is indexed. `ordinal` counts from 0 within the document."""

    ordinal: int
    start: int
    end: int
    headings: tuple[str, ...]
    text: str
    context: str
    """Title and headings, `Title > Chapter > Section`: indexed together with the text."""
    digest: bytes
    """Of context and text: equal digests need no new embedding."""
    units: bytes
    """Digests of the paragraphs it was packed from, so that an edit elsewhere leaves its borders alone."""
    page: int | None = None

    @property
    def indexed_text(self) -> str:
        """What the embedding model reads."""
        return f"{self.context}\n\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A set of documents of one owner that are searched together, by vectors of one embedding model."""

    owner: str
    name: str
    embedder_digest: str
    dimensions: int
    documents: int
    chunks: int
    created_unix_s: float
    number: int = 0
    """The store's own name for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDocument:
    """A document to be stored. With a `source` it replaces the one of the same source in its collection."""

    id: DocumentId
    owner: str
    collection: str
    title: str
    kind: Kind
    digest: str
    """Of the raw bytes, hexadecimal: an unchanged file need not be read again."""
    size_bytes: int
    source: str | None = None
    """A file's name or path; None for text that was pasted."""
    metadata: Metadata = field(default_factory=dict[str, MetadataValue | list[MetadataValue]])
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document in the store. `complete` is False while its chunks are still being written."""

    id: DocumentId
    owner: str
    collection: str
    title: str
    kind: Kind
    digest: str
    size_bytes: int
    chunks: int
    created_unix_s: float
    updated_unix_s: float
    complete: bool
    source: str | None = None
    metadata: Metadata = field(default_factory=dict[str, MetadataValue | list[MetadataValue]])
    notices: tuple[str, ...] = ()
    """What its parser left out or guessed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChunk:
    """What a store tells of a chunk that it has; see `Chunk`."""

    id: ChunkId
    digest: bytes
    units: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A chunk that was found, with where it stands. `score` orders the passages of one search, higher is better."""

    chunk_id: ChunkId
    document_id: DocumentId
    title: str
    text: str
    headings: tuple[str, ...]
    start: int
    end: int
    page: int | None
    source: str | None
    metadata: Metadata
    score: float = 0.0
    similarity: float | None = None
    """Cosine to the question, where the vectors found it."""
