"""POST /query: every PC's answer to one question, and one aggregate of them."""

from __future__ import annotations

import asyncio
import codecs
from contextlib import aclosing

from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.metrics import HttpMetrics
from chorus_http.replies import encoded, json_reply
from chorus_http.settings import HttpSettings
from chorus_http.sse import GRACE_S, EventStream, Source, event_stream_response, named_event
from chorus_proto.cluster import AskDelta, AskEvent, AskFinished, Cluster, MemberAnswer, MemberDelta, MemberStarted
from chorus_proto.dialects.query_request import ParsedQuery, parse_query
from chorus_proto.errors import DeadlineExceeded, InternalError


def query_routes(cluster: Cluster, settings: HttpSettings, metrics: HttpMetrics) -> Blueprint:
    routes = Blueprint("query", __name__)

    async def query() -> Response:
        exchange = current_exchange()
        raw = await json_body()
        parsed = parse_query(
            raw,
            request_id=exchange.request_id,
            within_s=settings.request_within_s,
            user=exchange.user,
            key_id=exchange.key_id,
        )
        if not parsed.stream:
            return json_reply(await _finished(cluster, parsed, exchange))
        source = Source(cluster.ask(parsed.ask), _Events(parsed, exchange).render, AskFinished, parsed.ask.within_s)
        stream = EventStream(source, exchange, settings, metrics)
        await stream.open()
        return event_stream_response(stream.body(), {})

    routes.add_url_rule("/query", "query", query, methods=["POST"])
    return routes


async def _finished(cluster: Cluster, parsed: ParsedQuery, exchange: Exchange) -> dict[str, object]:
    finished: AskFinished | None = None
    try:
        async with asyncio.timeout(parsed.ask.within_s + GRACE_S), aclosing(cluster.ask(parsed.ask)) as events:
            async for event in events:
                if isinstance(event, AskFinished):
                    finished = event
    except TimeoutError:
        raise DeadlineExceeded("The query's time is up.", param="timeout_s") from None
    if finished is None:
        raise InternalError("The query ended without its closing event.")
    return _answer(finished, parsed, exchange)


class _Events:
    """Server-sent events of one streamed query. A character cut between two deltas is shown with the second."""

    def __init__(self, parsed: ParsedQuery, exchange: Exchange) -> None:
        self._parsed = parsed
        self._exchange = exchange
        self._decoders: dict[int | None, codecs.IncrementalDecoder] = {}

    def render(self, event: AskEvent) -> bytes:
        match event:
            case MemberStarted():
                started = {**_who(event), "node": event.node_name, "model": event.model}
                return named_event("member_started", encoded(started))
            case MemberDelta():
                text = self._decoded(event.member, event.text)
                return named_event("member_delta", encoded({**_who(event), "text": text})) if text else b""
            case MemberAnswer():
                return named_event("member_answer", encoded(_member(event)))
            case AskDelta():
                text = self._decoded(None, event.text)
                return named_event("answer_delta", encoded({"text": text})) if text else b""
            case AskFinished():
                return named_event("finished", encoded(_answer(event, self._parsed, self._exchange)))

    def _decoded(self, whose: int | None, raw: bytes) -> str:
        """Of one member, or with None of the one answer."""
        decoder = self._decoders.get(whose)
        if decoder is None:
            decoder = self._decoders[whose] = codecs.getincrementaldecoder("utf-8")("replace")
        return decoder.decode(raw)


def _who(event: MemberStarted | MemberDelta | MemberAnswer) -> dict[str, object]:
    """`member` tells the answers of one node apart."""
    return {"node_id": event.node_id, "member": event.member}


def _answer(finished: AskFinished, parsed: ParsedQuery, exchange: Exchange) -> dict[str, object]:
    """`response` repeats `answer` for callers of the first versions."""
    return {
        "request_id": exchange.request_id,
        "prompt": parsed.prompt,
        "strategy": finished.strategy,
        "answer": finished.text,
        "response": finished.text,
        "agreement": finished.agreement,
        "disagreement": finished.disagreement,
        "spared": finished.spared,
        "note": finished.note,
        "seconds": finished.seconds,
        "members": [_member(member) for member in finished.members],
        "missing": [member.node_name for member in finished.members if member.error is not None],
    }


def _member(member: MemberAnswer) -> dict[str, object]:
    shown: dict[str, object] = {
        **_who(member),
        "node": member.node_name,
        "model": member.model,
        "text": member.text,
        "seconds": member.seconds,
        "tokens": member.usage.completion_tokens,
        "tokens_per_s": member.tokens_per_s,
        "finish_reason": member.finish_reason,
    }
    if member.weight is not None:
        shown["weight"] = member.weight
    if member.agrees is not None:
        shown["agrees"] = member.agrees
    if member.error is not None:
        shown["error"] = {"code": member.error.code, "message": member.error.message}
        if member.text:  # it came too late to count: whole, or as far as it was when nobody waited any longer
            shown["late"] = "whole" if member.finish_reason else "part"
    return shown
