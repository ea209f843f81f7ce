"""Ranking by a model that reads query and document together: llama-server's and vLLM's `/v1/rerank`, Jina's shape."""

from __future__ import annotations

import msgspec

from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Delta, Done, Generation, Piece

RANK_PATH = "/v1/rerank"

_encode = msgspec.json.Encoder().encode


class _Row(msgspec.Struct):
    index: int
    relevance_score: float


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Answer(msgspec.Struct):
    results: list[_Row]
    usage: _Usage = msgspec.field(default_factory=_Usage)


def rank_request(generation: Generation, *, model: str) -> tuple[str, bytes]:
    """The path and the JSON body."""
    query, *documents = generation.inputs or ("",)
    return RANK_PATH, _encode({"model": model, "query": query, "documents": documents})


def ranks_of(body: bytes, generation: Generation) -> list[Piece]:
    """What `Generation.ranks` says, a line each, and the end. Raises EngineFailed."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError as error:
        raise EngineFailed(f"the engine sent a ranking that cannot be read: {error}") from None
    scores = {row.index: row.relevance_score for row in answer.results}
    wanted = range(len(generation.inputs or ()) - 1)
    if set(scores) != set(wanted):
        raise EngineFailed(f"the engine ranked {len(scores)} of {len(wanted)} documents")
    lines = ["null", *(_encode(scores[place]).decode() for place in wanted)]
    tokens = answer.usage.prompt_tokens or answer.usage.total_tokens
    return [*(Delta(line + "\n", 0) for line in lines), Done(finish_reason="stop", prompt_tokens=tokens)]
