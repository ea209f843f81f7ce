"""Anthropic's Messages API, for the clients that people already have."""

from __future__ import annotations

from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.calls import Caller
from chorus_http.chat_documents import ChatDocuments
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.hot_routes import HotTable
from chorus_http.replies import Reply, json_reply
from chorus_proto.dialects.anthropic_request import parse_count, parse_messages


def anthropic_routes(hot: HotTable, caller: Caller, documents: ChatDocuments | None = None) -> Blueprint:
    routes = Blueprint("anthropic", __name__)

    async def messages(raw: bytes, exchange: Exchange) -> Reply:
        async def answer(body: bytes) -> Reply:
            return await caller.answer(parse_messages(body), exchange)

        return await (answer(raw) if documents is None else documents.answered(raw, exchange, answer))

    async def count_tokens() -> Response:
        counted = await caller.whole(parse_count(await json_body()), current_exchange())
        response = json_reply({"input_tokens": counted.usage.prompt_tokens})
        response.headers.update(counted.headers)
        return response

    hot.post(routes, "/v1/messages", "messages", messages)
    routes.add_url_rule("/v1/messages/count_tokens", "count_tokens", count_tokens, methods=["POST"])
    return routes
