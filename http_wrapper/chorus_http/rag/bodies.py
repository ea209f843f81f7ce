"""What the routes take and give, as typed JSON: bodies of requests and of answers."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, TypeAlias

import msgspec

from chorus_http.rag.documents import DocumentId, Kind, Metadata, MetadataValue, Mode
from chorus_http.rag.filters import Condition, Filter
from chorus_proto.dialects.fields import ModelText, Temperature, Text, TokenLimit, Unchecked, as_object, read_fields
from chorus_proto.dialects.strict_json import JsonValue
from chorus_proto.errors import InvalidRequest

CollectionName = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
TopK = Annotated[int, msgspec.Meta(ge=1, le=50)]
Rerank: TypeAlias = bool | ModelText
DEFAULT_TOP_K = 5

MOST_FIELDS = 64
MOST_VALUES = 64
MOST_CHARACTERS = 4096
MOST_CONDITIONS = 16
_FIELD = re.compile(r"[\w.-]{1,64}")


class NewText(msgspec.Struct):
    """POST /rag/documents with a JSON body. With a `source` it replaces the document of that source."""

    text: Text
    title: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    metadata: Unchecked = None
    collection: CollectionName | None = None
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | None = None
    kind: Kind | None = None
    wait: bool | None = None


class UploadForm(msgspec.Struct, omit_defaults=True):
    """The fields of a form with files, all of them texts. `title` and `source` are for a form with one file."""

    collection: Annotated[str, msgspec.Meta(max_length=128)] = ""
    title: str = ""
    metadata: str = ""
    """A JSON object."""
    wait: str = "true"
    """`false`, `0` or `no`: answer at once, with what is to be looked at later."""
    source: str = ""


class FolderBody(msgspec.Struct):
    """POST /rag/folders: a folder of the server's PC, below one of the setting `rag_folders`."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    collection: CollectionName | None = None
    wait: bool | None = None


class SearchBody(msgspec.Struct, kw_only=True):
    """POST /rag/search. `rerank`: a model's name, or true for the one that is set."""

    query: Text
    top_k: TopK | None = None
    collection: CollectionName | None = None
    filter: Unchecked = None
    mode: Mode | None = None
    rerank: Rerank | None = None


class AskBody(msgspec.Struct, kw_only=True):
    """POST /rag/ask. `query` is another name for `question`."""

    question: Text | None = None
    query: Text | None = None
    top_k: TopK | None = None
    collection: CollectionName | None = None
    filter: Unchecked = None
    mode: Mode | None = None
    rerank: Rerank | None = None
    model: ModelText | None = None
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    stream: bool | None = None
    least_similarity: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Instead of the setting `rag_least_similarity`; 0 has the model asked whatever was found."""


class ChatOption(msgspec.Struct, kw_only=True):
    """`rag` in a chat's body: true, or these."""

    top_k: TopK | None = None
    collection: CollectionName | None = None
    filter: Unchecked = None
    mode: Mode | None = None
    rerank: Rerank | None = None


class DocumentReply(msgspec.Struct, kw_only=True):
    id: str
    title: str
    collection: str
    chunks: int
    kind: str
    size_bytes: int
    digest: str
    source: str | None
    metadata: Metadata
    notices: tuple[str, ...]
    complete: bool
    created_unix_s: float
    updated_unix_s: float


class DocumentsReply(msgspec.Struct, kw_only=True):
    """`next` is the `after` of the next page; null on the last one."""

    documents: tuple[DocumentReply, ...]
    next: str | None


class AddedReply(DocumentReply, kw_only=True):
    """`embedded` chunks are new; `reused` stood in the collection already."""

    embedded: int
    reused: int
    unchanged: bool
    ingest_id: str


class Failure(msgspec.Struct, kw_only=True):
    code: str
    message: str


class ItemReply(msgspec.Struct, kw_only=True):
    """One document of an ingest. `chunks` is null while it is not cut up yet."""

    name: str
    chunks: int | None
    embedded: int
    reused: int
    document_id: str | None
    error: Failure | None


class IngestReply(msgspec.Struct, kw_only=True):
    ingest_id: str
    state: str
    collection: str
    documents_total: int
    documents_done: int
    documents_failed: int
    chunks_total: int
    chunks_done: int
    started_unix_s: float
    ended_unix_s: float | None
    documents: tuple[ItemReply, ...]


class IngestsReply(msgspec.Struct, kw_only=True):
    """Newest first."""

    ingests: tuple[IngestReply, ...]


class CollectionReply(msgspec.Struct, kw_only=True):
    """`approximate`: searched by cells; `recall_at_10` is what that was measured to find of an exact search."""

    name: str
    documents: int
    chunks: int
    embedder_digest: str
    dimensions: int
    created_unix_s: float
    approximate: bool
    recall_at_10: float | None


class CollectionsReply(msgspec.Struct, kw_only=True):
    collections: tuple[CollectionReply, ...]


class PassageReply(msgspec.Struct, kw_only=True):
    """`start` and `end` count characters of the document's text."""

    document_id: str
    chunk_id: int
    title: str
    text: str
    score: float
    similarity: float | None
    headings: tuple[str, ...]
    start: int
    end: int
    page: int | None
    source: str | None
    metadata: Metadata


class SourceReply(PassageReply, kw_only=True):
    """A passage that a model was given under `number`; `cited`: its answer names it."""

    number: int
    cited: bool


class SearchReply(msgspec.Struct, kw_only=True):
    results: tuple[PassageReply, ...]
    collection: str
    mode: str
    reranked: bool


class Unanswered(StrEnum):
    NOTHING_FOUND = "nothing_found"
    """No passage at all: no model was asked."""
    TOO_FAR = "too_far"
    """No passage comes near the question: no model was asked. The nearest ones are among the sources."""
    MODEL = "model"
    """The model that read the passages says that they do not hold it."""


class AskReply(msgspec.Struct, kw_only=True):
    """`answered` is false where there is no answer, and `unanswered_because` says how that is known.

    `citations` are the sources that the answer names; `wrong_citations` numbers it names and was not given.
    """

    request_id: str
    question: str
    answer: str
    answered: bool
    unanswered_because: Unanswered | None
    similarity: float | None
    """Cosine of the nearest passage to the question; null where only words were compared."""
    model: str | None
    node: str | None
    finish_reason: str | None
    citations: tuple[SourceReply, ...]
    wrong_citations: tuple[int, ...]
    sources: tuple[SourceReply, ...]
    prompt_tokens: int
    completion_tokens: int
    reranked: bool


class _Test(msgspec.Struct):
    """Of one metadata field, as a filter writes it when it is more than a value or a list of them."""

    any_of: Unchecked = None
    none_of: Unchecked = None
    gte: int | float | str | None = None
    lte: int | float | str | None = None


_NAMES = {"in": "any_of", "not": "none_of"}
"""Words of Python."""


def read_option(option: JsonValue) -> ChatOption | None:
    """`rag` as callers write it: true, or an object; None where none is wanted. Raises InvalidRequest."""
    if option is None or option is False:
        return None
    return ChatOption() if option is True else read_fields(as_object(option, "rag"), ChatOption, refused={}, at="rag")


def read_metadata(value: JsonValue, at: str = "metadata") -> Metadata:
    """Raises InvalidRequest."""
    if value is None:
        return {}
    fields = as_object(value, at)
    if len(fields) > MOST_FIELDS:
        raise InvalidRequest(f"Invalid '{at}': more than {MOST_FIELDS} fields.", param=at)
    found: Metadata = {}
    for name, one in fields.items():
        where = f"{at}.{_field(name, at)}"
        found[name] = _values(one, where) if isinstance(one, list) else _value(one, where)
    return found


def read_filter(value: JsonValue) -> Filter:
    """`{"year": 2024, "tag": ["a", "b"], "size": {"gte": 3, "lte": 9, "not": 5}}`; `document_id` chooses documents.

    Raises InvalidRequest, UnknownParameter.
    """
    if value is None:
        return Filter()
    fields = as_object(value, "filter")
    if len(fields) > MOST_CONDITIONS:
        raise InvalidRequest(f"Invalid 'filter': more than {MOST_CONDITIONS} fields.", param="filter")
    conditions: list[Condition] = []
    documents: list[DocumentId] = []
    for name, test in fields.items():
        at = f"filter.{_field(name, 'filter')}"
        if name == "document_id":
            documents += [DocumentId(str(one)) for one in _values(test if isinstance(test, list) else [test], at)]
        elif isinstance(test, dict):
            told = read_fields({_NAMES.get(one, one): each for one, each in test.items()}, _Test, refused={}, at=at)
            conditions.append(
                Condition(
                    field=name,
                    any_of=_some(told.any_of, f"{at}.in"),
                    none_of=_some(told.none_of, f"{at}.not"),
                    at_least=told.gte,
                    at_most=told.lte,
                )
            )
        else:
            conditions.append(Condition(field=name, any_of=_some(test, at)))
    return Filter(conditions=tuple(conditions), documents=tuple(documents))


def _some(value: JsonValue, at: str) -> tuple[MetadataValue, ...]:
    if value is None:
        return ()
    return tuple(_values(value, at)) if isinstance(value, list) else (_value(value, at),)


def _field(name: str, at: str) -> str:
    if not _FIELD.fullmatch(name):
        raise InvalidRequest(f"Invalid '{at}': a field's name is 1 to 64 letters, digits, '_', '-' or '.'.", param=at)
    return name


def _values(values: list[JsonValue], at: str) -> list[MetadataValue]:
    if not 0 < len(values) <= MOST_VALUES:
        raise InvalidRequest(f"Invalid '{at}': expected 1 to {MOST_VALUES} values.", param=at)
    return [_value(value, at) for value in values]


def _value(value: JsonValue, at: str) -> MetadataValue:
    if not isinstance(value, (str, int, float)):
        raise InvalidRequest(f"Invalid '{at}': expected a text, a number, true, false, or a list of these.", param=at)
    if isinstance(value, str) and "\0" in value:
        raise InvalidRequest(f"Invalid '{at}': it holds a NUL character.", param=at)
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        raise InvalidRequest(f"Invalid '{at}': longer than {MOST_CHARACTERS} characters.", param=at)
    return value
