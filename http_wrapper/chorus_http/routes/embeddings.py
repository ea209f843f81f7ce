"""OpenAI's embeddings, and documents ranked by how near they lie to a query."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.embedder import Embedded, Embedder
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.hot_routes import HotTable
from chorus_http.replies import Reply, encoded, json_reply
from chorus_proto.dialects.embeddings_request import RerankRequest, parse_embeddings, parse_rerank
from chorus_proto.errors import EngineFailed


def embeddings_routes(hot: HotTable, embedder: Embedder) -> Blueprint:
    routes = Blueprint("embeddings", __name__)

    async def embeddings(raw: bytes, exchange: Exchange) -> Reply:
        found = await embedder.embed(parse_embeddings(raw), exchange)
        return Reply(body=_listed(found), headers=found.headers)

    async def rerank() -> Response:
        asked = parse_rerank(await json_body())
        found = await embedder.embed(asked.work, current_exchange())
        response = json_reply(_ranked(asked, found))
        response.headers.update(found.headers)
        return response

    hot.post(routes, "/v1/embeddings", "embeddings", embeddings)
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


def _ranked(asked: RerankRequest, found: Embedded) -> dict[str, object]:
    """The best first. Raises EngineFailed."""
    documents = asked.work.inputs
    try:
        scores = [msgspec.json.decode(score, type=float) for score in found.vectors]
    except msgspec.DecodeError as error:
        raise EngineFailed(f"The ranking cannot be read: {error}") from None
    if len(scores) != len(documents):
        raise EngineFailed(f"{len(scores)} of {len(documents)} documents were ranked.")
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: asked.most]
    return {
        "object": "list",
        "model": found.model,
        "results": [
            {"index": index, "relevance_score": scores[index]}
            | ({"document": {"text": documents[index]}} if asked.shows_documents else {})
            for index in best
        ],
        "usage": _usage(found),
        "x_chorus": {"by": "reranker" if found.by_reranker else "embeddings"},
    }
