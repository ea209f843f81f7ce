"""OpenAI's API: chat, completions and the list of models."""

from __future__ import annotations

from quart import Blueprint, Response

from chorus_http.calls import Caller
from chorus_http.chat_documents import ChatDocuments
from chorus_http.exchange import Exchange
from chorus_http.hot_routes import HotTable
from chorus_http.replies import Reply, json_reply
from chorus_http.state import StateReader, find_council, find_model, ready_models
from chorus_proto.clock import Clock
from chorus_proto.dialects.openai_request import parse_chat, parse_completion
from chorus_proto.values import CouncilSummary, ModelSummary


def openai_routes(
    hot: HotTable, caller: Caller, states: StateReader, clock: Clock, documents: ChatDocuments | None = None
) -> Blueprint:
    routes = Blueprint("openai", __name__)
    # OpenAI tells when a model was made; a cluster only knows since when it could have served it.
    created_unix_s = int(clock.unix_s())

    async def chat(raw: bytes, exchange: Exchange) -> Reply:
        async def answer(body: bytes) -> Reply:
            return await caller.answer(parse_chat(body), exchange)

        return await (answer(raw) if documents is None else documents.answered(raw, exchange, answer))

    async def completions(raw: bytes, exchange: Exchange) -> Reply:
        return await caller.answer(parse_completion(raw), exchange)

    async def models() -> Response:
        state = await states.state()
        listed = [_model(model, created_unix_s) for model in ready_models(state)]
        listed += [_council(council, created_unix_s) for council in state.councils]
        return json_reply({"object": "list", "data": listed})

    async def model(name: str) -> Response:
        state = await states.state()
        if (council := find_council(state, name)) is not None:
            return json_reply(_council(council, created_unix_s))
        return json_reply(_model(find_model(state, name), created_unix_s))

    hot.post(routes, "/v1/chat/completions", "chat", chat)
    hot.post(routes, "/v1/completions", "completions", completions)
    routes.add_url_rule("/v1/models", "models", models, methods=["GET"])
    # Names may hold slashes, as in `org/model`.
    routes.add_url_rule("/v1/models/<path:name>", "model", model, methods=["GET"])
    return routes


def _model(model: ModelSummary, created_unix_s: int) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": created_unix_s,
        "owned_by": "chorus",
        "name": model.name,  # Open WebUI fails on a null name
        "x_chorus": {
            "ready_on": model.ready_on,
            "on_disk_at": model.on_disk_at,
            "tier": model.tier,
            "parameters": model.parameters or None,
            "context_tokens": model.context_tokens or None,
            "embedding": model.embedding,
        },
    }


def _council(council: CouncilSummary, created_unix_s: int) -> dict[str, object]:
    """Several models that answer as one."""
    return {
        "id": council.name,
        "object": "model",
        "created": created_unix_s,
        "owned_by": "chorus",
        "name": council.name,
        "x_chorus": {"council": True, "strategy": council.strategy, "members": council.members},
    }
