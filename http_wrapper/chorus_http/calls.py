"""One checked request, run on the cluster and answered: as a stream, or as one body."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from quart import Response

from chorus_http.exchange import Exchange
from chorus_http.metrics import HttpMetrics
from chorus_http.settings import HttpSettings
from chorus_http.sse import GRACE_S, EventStream, Source, event_stream_response
from chorus_proto.cluster import Call, CallEvent, CallFinished, CallOutput, CallStarted, Cluster
from chorus_proto.dialects.openai_request import ParsedRequest
from chorus_proto.errors import DeadlineExceeded, InternalError


class _Answer:
    """Writes call events down as body bytes and keeps what the headers tell of them."""

    def __init__(self) -> None:
        self._started: CallStarted | None = None

    def render(self, event: CallEvent) -> bytes:
        match event:
            case CallStarted():
                self._started = event
                return b""
            case CallOutput(payload=payload) | CallFinished(payload=payload):
                return payload

    def headers(self) -> dict[str, str]:
        """Of the attempt that gave the first output; empty while none has started."""
        started = self._started
        if started is None:
            return {}
        return {
            "x-chorus-node": _header_text(started.node_name),
            "x-chorus-model": _header_text(started.model),
            "x-chorus-attempt": str(started.attempt),
            "x-chorus-queue-seconds": f"{started.queued_s:.3f}",
        }


class Caller:
    """Runs requests for one app."""

    def __init__(self, cluster: Cluster, settings: HttpSettings, metrics: HttpMetrics) -> None:
        self._cluster = cluster
        self._settings = settings
        self._metrics = metrics

    async def answer(self, parsed: ParsedRequest, exchange: Exchange) -> Response:
        """Raises the ClusterError of a failure that comes before the first output."""
        call = _call(parsed, exchange, longest_s=self._settings.request_within_s)
        return await (self._stream(call, exchange) if call.stream else self._whole(call))

    async def _stream(self, call: Call, exchange: Exchange) -> Response:
        answer = _Answer()
        source = Source(self._cluster.submit(call), answer.render, CallFinished, call.within_s)
        stream = EventStream(source, exchange, self._settings, self._metrics)
        await stream.open()
        return event_stream_response(stream.body(), answer.headers())

    async def _whole(self, call: Call) -> Response:
        answer = _Answer()
        chunks: list[bytes] = []
        complete = False
        try:
            async with asyncio.timeout(call.within_s + GRACE_S), aclosing(self._cluster.submit(call)) as events:
                async for event in events:
                    chunks.append(answer.render(event))
                    complete = isinstance(event, CallFinished)
        except TimeoutError:
            raise DeadlineExceeded("The request's time is up.") from None
        if not complete:
            raise InternalError("The answer ended without its closing event.")
        response = Response(b"".join(chunks), content_type="application/json")
        response.headers.update(answer.headers())
        return response


def _call(parsed: ParsedRequest, exchange: Exchange, *, longest_s: float) -> Call:
    return Call(
        request_id=exchange.request_id,
        model=parsed.model,
        dialect=parsed.dialect,
        stream=parsed.stream,
        generation=parsed.generation.encoded(),
        prompt_tokens_estimate=parsed.prompt_tokens_estimate,
        within_s=min(parsed.within_s or longest_s, longest_s),
        max_tokens=parsed.max_tokens,
        queue_within_s=parsed.queue_within_s,
        affinity=parsed.affinity,
        node=parsed.node,
        strategy=parsed.strategy,
    )


def _header_text(text: str) -> str:
    """Names of PCs are people's words: what a header cannot hold becomes `?`."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)
