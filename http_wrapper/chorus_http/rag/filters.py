"""Which documents a search looks at."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_http.rag.documents import DocumentId, MetadataValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One test of a document's metadata. A list of values passes where one of them does.

    A document without the field passes `none_of` alone. A bound of text compares with text only, a number with numbers.
    """

    field: str
    any_of: tuple[MetadataValue, ...] = ()
    none_of: tuple[MetadataValue, ...] = ()
    at_least: int | float | str | None = None
    at_most: int | float | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which documents are looked at, before anything is ranked. Empty: all of the collection."""

    conditions: tuple[Condition, ...] = ()
    documents: tuple[DocumentId, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.conditions or self.documents)


ALL = Filter()
