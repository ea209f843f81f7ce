"""OpenAI's embeddings, and documents ranked by how near they lie to a query."""

from __future__ import annotations

import math

import msgspec
from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.embedder import Embedded, Embedder
from chorus_http.exchange import current_exchange
from chorus_http.replies import encoded, json_reply
from chorus_proto.dialects.embeddings_request import RerankRequest, parse_embeddings, parse_rerank
from chorus_proto.errors import EngineFailed


def embeddings_routes(embedder: Embedder) -> Blueprint:
    routes = Blueprint("embeddings", __name__)

    async def embeddings() -> Response:
        found = await embedder.embed(parse_embeddings(await json_body()), current_exchange())
        response = Response(_listed(found), content_type="application/json")
        response.headers.update(found.headers)
        return response

    async def rerank() -> Response:
        asked = parse_rerank(await json_body())
        found = await embedder.embed(asked.work, current_exchange())
        response = json_reply(_ranked(asked, found))
        response.headers.update(found.headers)
        return response

    routes.add_url_rule("/v1/embeddings", "embeddings", embeddings, methods=["POST"])
    routes.add_url_rule("/v1/rerank", "rerank", rerank, methods=["POST"])
    return routes


def _usage(found: Embedded) -> dict[str, int]:
    return {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}


def _listed(found: Embedded) -> bytes:
    """The vectors stand in it as their nodes wrote them down."""
    rows = (
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector)
        for index, vector in enumerate(found.vectors)
    )
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (
        b",".join(rows),
        encoded(found.model),
        encoded(_usage(found)),
    )


def _cosine(left: list[float], right: list[float]) -> float:
    product = sum(a * b for a, b in zip(left, right, strict=True))
    return max(0.0, product / (math.hypot(*left) * math.hypot(*right) or 1.0))


def _ranked(asked: RerankRequest, found: Embedded) -> dict[str, object]:
    """By the cosine of the angle between query and document, 0 at least."""
    try:
        query, *documents = (msgspec.json.decode(vector, type=list[float]) for vector in found.vectors)
        scores = [_cosine(query, one) for one in documents]
    except (msgspec.DecodeError, ValueError) as error:
        raise EngineFailed(f"The vectors cannot be compared: {error}") from None
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: asked.most]
    return {
        "object": "list",
        "model": found.model,
        "results": [
            {"index": index, "relevance_score": scores[index]}
            | ({"document": {"text": asked.documents[index]}} if asked.shows_documents else {})
            for index in best
        ],
        "usage": _usage(found),
    }
