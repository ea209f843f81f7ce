"""Ollama's embeddings, in the present form and in the older one."""

from __future__ import annotations

import logging
import time

from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.embedder import Embedded, Embedder
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.model_control import ModelControl
from chorus_http.replies import encoded
from chorus_proto.dialects.ollama_answer import tagged
from chorus_proto.dialects.ollama_embed_request import OllamaEmbedding, parse_embed, parse_embeddings
from chorus_proto.errors import ClusterError
from chorus_proto.ids import ModelName, NodeId

log = logging.getLogger(__name__)

_NS = 1e9


def ollama_embed_routes(embedder: Embedder, control: ModelControl) -> Blueprint:
    routes = Blueprint("ollama_embed", __name__)

    async def made(asked: OllamaEmbedding, exchange: Exchange) -> Embedded | None:
        """None without a text: then the model is loaded, or freed."""
        if asked.work is not None:
            found = await embedder.embed(asked.work, exchange)
            if asked.keep_alive_s is not None:
                exchange.closing.push_async_callback(_keep, control, asked.model, found.node_id, asked.keep_alive_s)
            return found
        if asked.keep_alive_s == 0:
            await control.unload(asked.model)
        else:
            await control.until_loaded(await control.load(asked.model, keep_alive_s=asked.keep_alive_s))
        return None

    async def embed() -> Response:
        began_s = time.monotonic()
        asked = parse_embed(await json_body(from_curl=True))
        found = await made(asked, current_exchange())
        vectors = () if found is None else found.vectors
        told = {
            "total_duration": round((time.monotonic() - began_s) * _NS),
            "load_duration": 0 if found is None else round(found.waited_s * _NS),
            "prompt_eval_count": 0 if found is None else found.prompt_tokens,
        }
        head = b'{"model":%b,"embeddings":[%b],' % (encoded(tagged(asked.model)), b",".join(vectors))
        return _reply(head + encoded(told).removeprefix(b"{"), found)

    async def embeddings() -> Response:
        found = await made(parse_embeddings(await json_body(from_curl=True)), current_exchange())
        return _reply(b'{"embedding":%b}' % (b"[]" if found is None else found.vectors[0]), found)

    routes.add_url_rule("/api/embed", "embed", embed, methods=["POST"])
    routes.add_url_rule("/api/embeddings", "embeddings", embeddings, methods=["POST"])
    return routes


async def _keep(control: ModelControl, model: ModelName, node_id: NodeId, keep_alive_s: float) -> None:
    """A wish about the model, not about the answer that was given: it may fail without a word to the caller."""
    try:
        if keep_alive_s:
            await control.load(model, node=node_id, keep_alive_s=keep_alive_s)
        else:
            await control.unload(model, node=node_id)
    except ClusterError as error:
        log.info("keep_alive of %s has no effect: %s", model, error)


def _reply(body: bytes, found: Embedded | None) -> Response:
    response = Response(body, content_type="application/json")
    if found is not None:
        response.headers.update(found.headers)
    return response
