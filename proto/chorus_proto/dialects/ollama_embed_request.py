"""What callers may ask of Ollama's /api/embed and the older /api/embeddings (docs/api.md), checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from chorus_proto.dialects.embeddings_request import MOST_NODES, EmbeddingWork, read_texts
from chorus_proto.dialects.fields import ModelText, Unchecked, as_object, read_fields
from chorus_proto.dialects.ollama_request import read_keep_alive
from chorus_proto.dialects.parsed import check_model_name
from chorus_proto.dialects.strict_json import JsonValue, load_object
from chorus_proto.ids import ModelName

_NOTHING: tuple[JsonValue, ...] = (None, "", [])


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaEmbedding:
    """One checked request. `work` None: nothing to embed, the model is only to be loaded or freed.

    `keep_alive_s`: as in `OllamaRequest`.
    """

    model: ModelName
    work: EmbeddingWork | None
    keep_alive_s: float | None


class _Shared(msgspec.Struct, kw_only=True):
    model: ModelText
    keep_alive: Unchecked = None
    # Accepted: how a model is loaded is the PC's to know, and nothing is sampled.
    options: Unchecked = None


class _Embed(_Shared, kw_only=True):
    input: Unchecked = None
    truncate: bool | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None


class _Embeddings(_Shared, kw_only=True):
    prompt: Unchecked = None


EMBED_FIELDS: type[msgspec.Struct] = _Embed
EMBEDDINGS_FIELDS: type[msgspec.Struct] = _Embeddings


def parse_embed(raw: bytes) -> OllamaEmbedding:
    """A body of POST /api/embed.

    Raises InvalidJson, InvalidRequest, UnknownParameter or UnsupportedParameter; `param` names the field.
    """
    fields = read_fields(load_object(raw, most_nodes=MOST_NODES), _Embed, refused={})
    texts = () if fields.input in _NOTHING else read_texts(fields.input, "input")
    return _asked(fields, texts, cuts_inputs=fields.truncate is not False, dimensions=fields.dimensions)


def parse_embeddings(raw: bytes) -> OllamaEmbedding:
    """A body of POST /api/embeddings; raises as `parse_embed` does."""
    fields = read_fields(load_object(raw), _Embeddings, refused={})
    texts = () if fields.prompt in _NOTHING else read_texts(fields.prompt, "prompt")
    return _asked(fields, texts, cuts_inputs=True, dimensions=None)


def _asked(fields: _Shared, texts: tuple[str, ...], *, cuts_inputs: bool, dimensions: int | None) -> OllamaEmbedding:
    as_object(fields.options or {}, "options")
    model = check_model_name(fields.model)
    work = EmbeddingWork(model=model, inputs=texts, dimensions=dimensions, cuts_inputs=cuts_inputs) if texts else None
    return OllamaEmbedding(model=model, work=work, keep_alive_s=read_keep_alive(fields.keep_alive))
