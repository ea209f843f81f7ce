"""What callers may ask of /v1/embeddings (OpenAI) and /v1/rerank (the shape of Jina and Cohere), checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from chorus_proto.dialects.chorus_fields import read_chorus_fields
from chorus_proto.dialects.fields import ModelText, Text, Unchecked, as_object, read_fields
from chorus_proto.dialects.parsed import check_model_name
from chorus_proto.dialects.strict_json import JsonValue, load_object
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import VectorForm
from chorus_proto.ids import ModelName
from chorus_proto.values import RoutingStrategy

MAX_INPUTS = 1 << 16
MAX_DOCUMENTS = 10_000
MOST_NODES = 2 * MAX_INPUTS
"""Values in a body: each text is one."""

_TOKENS = (
    "'input' holds token numbers. They are those of OpenAI's own models and mean nothing to the models here: send text "
    "(LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingWork:
    """Texts to embed, all on files of one digest."""

    model: ModelName
    inputs: tuple[str, ...]
    query: str | None = None
    """What `inputs` are to be ranked by; None: it is their vectors that are wanted."""
    form: VectorForm = VectorForm.FLOATS
    dimensions: int | None = None
    cuts_inputs: bool = False
    affinity: str | None = None
    node: str | None = None
    strategy: RoutingStrategy | None = None
    queue_within_s: float | None = None
    within_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """`work` ranks the documents, which are its inputs."""

    work: EmbeddingWork
    most: int
    """Results that are wanted."""
    shows_documents: bool


class _Embeddings(msgspec.Struct, kw_only=True):
    model: ModelText
    input: Unchecked
    encoding_format: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None
    user: str | None = None
    x_chorus: Unchecked = None


class _Rerank(msgspec.Struct, kw_only=True):
    model: ModelText
    query: Text
    documents: Unchecked
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    return_documents: bool | None = None
    user: str | None = None
    x_chorus: Unchecked = None


EMBEDDINGS_FIELDS = _Embeddings
RERANK_FIELDS = _Rerank


def parse_embeddings(raw: bytes) -> EmbeddingWork:
    """A body of POST /v1/embeddings.

    Raises InvalidJson, InvalidRequest, UnknownParameter or UnsupportedParameter; `param` names the field.
    """
    fields = read_fields(load_object(raw, most_nodes=MOST_NODES), _Embeddings, refused={})
    forms = {None: VectorForm.FLOATS, "float": VectorForm.FLOATS, "base64": VectorForm.BASE64}
    if fields.encoding_format not in forms:
        raise InvalidRequest("Invalid 'encoding_format': expected 'float' or 'base64'.", param="encoding_format")
    return _work(
        fields.model,
        read_texts(fields.input, "input"),
        form=forms[fields.encoding_format],
        dimensions=fields.dimensions,
        affinity=fields.user,
        x_chorus=fields.x_chorus,
    )


def parse_rerank(raw: bytes) -> RerankRequest:
    """A body of POST /v1/rerank; raises as `parse_embeddings` does."""
    fields = read_fields(load_object(raw, most_nodes=MOST_NODES), _Rerank, refused={})
    if not isinstance(fields.documents, list) or not 0 < len(fields.documents) <= MAX_DOCUMENTS:
        raise InvalidRequest(f"Invalid 'documents': expected 1 to {MAX_DOCUMENTS} of them.", param="documents")
    documents = tuple(_document(one, f"documents[{place}]") for place, one in enumerate(fields.documents))
    return RerankRequest(
        work=_work(fields.model, documents, query=fields.query, affinity=fields.user, x_chorus=fields.x_chorus),
        most=min(fields.top_n or len(documents), len(documents)),
        shows_documents=bool(fields.return_documents),
    )


def _work(
    model: str,
    inputs: tuple[str, ...],
    *,
    query: str | None = None,
    form: VectorForm = VectorForm.FLOATS,
    dimensions: int | None = None,
    affinity: str | None,
    x_chorus: JsonValue,
) -> EmbeddingWork:
    ours = read_chorus_fields(x_chorus)
    return EmbeddingWork(
        model=check_model_name(model),
        inputs=inputs,
        query=query,
        form=form,
        dimensions=dimensions,
        affinity=affinity,
        node=ours.node,
        strategy=ours.strategy,
        queue_within_s=ours.queue_within_s,
        within_s=ours.within_s,
    )


def read_texts(value: JsonValue, at: str) -> tuple[str, ...]:
    """One text or several, none of them empty. Raises InvalidRequest, and UnsupportedParameter for token numbers."""
    texts = value if isinstance(value, list) else [value]
    if isinstance(value, list) and any(isinstance(one, int | list) for one in texts):
        raise UnsupportedParameter(_TOKENS.replace("'input'", f"'{at}'"), param=at)
    found = tuple(one for one in texts if isinstance(one, str) and one)
    if not found or len(found) != len(texts) or len(found) > MAX_INPUTS:
        raise InvalidRequest(
            f"Invalid '{at}': expected a non-empty text, or an array of 1 to {MAX_INPUTS} of them.", param=at
        )
    return found


def _document(value: JsonValue, at: str) -> str:
    text = as_object(value, at).get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f"Invalid '{at}': expected a text, or an object with one in 'text'.", param=at)
    return text
