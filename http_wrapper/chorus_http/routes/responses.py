"""OpenAI's Responses API: answers that can be fetched, followed, cancelled and gone on from."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from quart import Blueprint, Response, request

from chorus_http.body import json_body
from chorus_http.calls import Caller, call_of
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.framing import TYPED_EVENTS
from chorus_http.kept_responses import KeptResponse, KeptResponses
from chorus_http.metrics import HttpMetrics
from chorus_http.replies import json_reply, quart_response
from chorus_http.settings import HttpSettings
from chorus_http.sse import EventStream, Source, event_stream_response
from chorus_http.stored_responses import Ended, StoredResponse, Told
from chorus_proto.clock import Clock
from chorus_proto.dialects.responses_answer import Shell
from chorus_proto.dialects.responses_request import ResponsesRequest, estimate, parse_responses, with_instructions
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Message
from chorus_proto.values import Priority


def responses_routes(
    caller: Caller, kept: KeptResponses, settings: HttpSettings, metrics: HttpMetrics, clock: Clock
) -> Blueprint:
    routes = Blueprint("responses", __name__)

    async def create() -> Response:
        exchange = current_exchange()
        asked, turns = await _with_history(parse_responses(await json_body()), kept, exchange.user)
        if not asked.store:
            return quart_response(await caller.answer(asked.parsed, exchange))
        one = KeptResponse(
            Shell(
                asked.parsed.generation,
                request_id=exchange.request_id,
                model=asked.parsed.model,
                created_unix_s=int(clock.unix_s()),
            ),
            user=exchange.user,
            turns=turns,
            background=asked.background,
        )
        response_id = f"resp_{exchange.request_id}"
        if asked.background:
            call = call_of(asked.parsed, exchange, longest_s=settings.request_within_s)
            await kept.run(response_id, one, replace(call, stream=True, priority=Priority.BATCH))
            return await _followed(one, exchange) if asked.parsed.stream else _body(one.body)
        kept.add(response_id, one)
        exchange.closing.push_async_callback(kept.settle, response_id, one)
        hear = one.hear if asked.parsed.stream else one.hear_whole
        return quart_response(await caller.answer(asked.parsed, exchange, heard=hear))

    async def _followed(one: KeptResponse | StoredResponse, exchange: Exchange, *, after: int = -1) -> Response:
        source = Source(one.follow(after=after), _payload, Ended, settings.request_within_s)
        stream = EventStream(source, exchange, settings, metrics, TYPED_EVENTS)
        await stream.open()
        return event_stream_response(stream.body(), {}, TYPED_EVENTS)

    async def show(response_id: str) -> Response:
        exchange = current_exchange()
        one = await kept.find(response_id, exchange.user)
        if request.args.get("stream") not in ("true", "1"):
            return _body(one.body)
        if not one.background:
            raise InvalidRequest("Only a response with 'background': true can be followed.", param="stream")
        after = request.args.get("starting_after", "-1")
        if not after.removeprefix("-").isdecimal() or len(after) > 9:
            raise InvalidRequest("Invalid 'starting_after': expected the number of an event.", param="starting_after")
        return await _followed(one, exchange, after=int(after))

    async def cancel(response_id: str) -> Response:
        return _body(await (await kept.find(response_id, current_exchange().user)).cancel())

    async def delete(response_id: str) -> Response:
        await kept.remove(response_id, current_exchange().user)
        return json_reply({"id": response_id, "object": "response.deleted", "deleted": True})

    routes.add_url_rule("/v1/responses", "create", create, methods=["POST"])
    routes.add_url_rule("/v1/responses/<response_id>", "show", show, methods=["GET"])
    routes.add_url_rule("/v1/responses/<response_id>", "delete", delete, methods=["DELETE"])
    routes.add_url_rule("/v1/responses/<response_id>/cancel", "cancel", cancel, methods=["POST"])
    return routes


async def _with_history(
    asked: ResponsesRequest, kept: KeptResponses, user: str
) -> tuple[ResponsesRequest, tuple[Message, ...]]:
    """The request with the turns of the response that it goes on from, and the whole conversation."""
    if asked.previous is None:
        return asked, asked.turns
    before = await kept.find(asked.previous, user, param="previous_response_id")
    turns = (*before.conversation(), *asked.turns)
    generation = msgspec.structs.replace(asked.parsed.generation, messages=with_instructions(turns, asked.instructions))
    parsed = replace(asked.parsed, generation=generation, prompt_tokens_estimate=estimate(generation))
    return replace(asked, parsed=parsed), turns


def _payload(told: Told) -> bytes:
    return told.payload


def _body(body: bytes) -> Response:
    return Response(body, content_type="application/json")
