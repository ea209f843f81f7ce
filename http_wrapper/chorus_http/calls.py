"""One checked request, run on the cluster and answered: as a stream, or as one body."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import msgspec

from chorus_http.exchange import Exchange
from chorus_http.framing import ANTHROPIC_EVENTS, OPENAI_EVENTS, TYPED_EVENTS, Framing, json_lines
from chorus_http.metrics import HttpMetrics
from chorus_http.replies import Reply
from chorus_http.routed import routing_chunk, standing_comment, standing_headers, started_headers, with_routing
from chorus_http.settings import HttpSettings
from chorus_http.several import joined, merged, runs_of, usage_of_all
from chorus_http.sse import GRACE_S, EventStream, Source, event_stream_reply
from chorus_http.wishes import Wishes, wishes
from chorus_proto.cluster import Call, CallEvent, CallFinished, CallOutput, CallStarted, CallWaiting, Cluster
from chorus_proto.dialects.ollama_answer import waiting_line, with_wait
from chorus_proto.dialects.parsed import ParsedRequest
from chorus_proto.errors import ClusterError, DeadlineExceeded, InternalError
from chorus_proto.ids import NodeId
from chorus_proto.queue_state import Standing
from chorus_proto.values import Dialect, Priority, Usage

log = logging.getLogger(__name__)

_OLLAMAS = (Dialect.OLLAMA_CHAT, Dialect.OLLAMA_GENERATE)


class _Answer:
    """Writes call events down as body bytes and keeps what the headers tell of them."""

    def __init__(self, parsed: ParsedRequest, exchange: Exchange) -> None:
        self._parsed = parsed
        self._exchange = exchange
        self.started: CallStarted | None = None
        self._standing: Standing | None = None

    def render(self, event: CallEvent) -> bytes:
        match event:
            case CallWaiting(standing=standing):
                self._standing = standing
                return b""
            case CallStarted():
                self.started = event
                return b""
            case CallOutput(payload=payload):
                return payload
            case CallFinished(payload=payload):
                if self.started is not None and self._parsed.dialect in _OLLAMAS:
                    return with_wait(payload, self.started.queued_s)
                return self._closing() + payload

    def _closing(self) -> bytes:
        """What goes before the end of a stream of OpenAI's whose caller wants to know how it was routed."""
        chat = self._parsed.dialect is Dialect.OPENAI_CHAT
        if self.started is None or not (self._parsed.routing and self._parsed.stream):
            return b""
        return routing_chunk(
            self.started,
            answer_id=f"{'chatcmpl' if chat else 'cmpl'}-{self._exchange.request_id}",
            kind="chat.completion.chunk" if chat else "text_completion",
            created_unix_s=int(time.time()),
        )

    @property
    def node_id(self) -> NodeId | None:
        """Where it runs or ran; None while no attempt has started."""
        return None if self.started is None else self.started.node_id

    def headers(self) -> dict[str, str]:
        """Of the attempt that gave the first output, or of the place in the queue when none has started."""
        if self.started is not None:
            return started_headers(self.started)
        return {} if self._standing is None else standing_headers(self._standing)

    def silence(self) -> bytes | None:
        """What a stream of events sends while nothing comes: its place in the queue; None once it has left that."""
        waits = self.started is None and self._standing is not None
        return standing_comment(self._standing) if waits and self._standing is not None else None


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """`headers` say who answered."""

    body: bytes
    usage: Usage
    headers: dict[str, str]


class Caller:
    """Runs requests for one app."""

    def __init__(self, cluster: Cluster, settings: HttpSettings, metrics: HttpMetrics) -> None:
        self._cluster = cluster
        self._settings = settings
        self._metrics = metrics

    async def answer(
        self,
        parsed: ParsedRequest,
        exchange: Exchange,
        *,
        keep_alive_s: float | None = None,
        heard: Callable[[bytes], None] | None = None,
    ) -> Reply:
        """Raises the ClusterError of a failure that comes before the first output.

        `keep_alive_s`: how long the model stays on its node after this without a use; 0 frees it. `heard`: is told the
        body, piece by piece where it is streamed.
        """
        parsed = _for_key(parsed, exchange)
        call = call_of(parsed, exchange, longest_s=self._settings.request_within_s)
        parsed = parsed.once_called()
        answer = _Answer(parsed, exchange)
        if keep_alive_s is not None:
            exchange.closing.push_async_callback(self._keep, answer, call, keep_alive_s)
        if call.stream:
            return await self._stream(parsed, call, exchange, answer, heard)
        whole = await self._whole(parsed, call, answer)
        if heard is not None:
            heard(whole.body)
        return Reply(body=whole.body, headers=whole.headers)

    async def whole(self, parsed: ParsedRequest, exchange: Exchange) -> WholeAnswer:
        """The answer to a request that is not streamed, for routes that write it down in their own way."""
        call = call_of(parsed, exchange, longest_s=self._settings.request_within_s)
        parsed = parsed.once_called()
        return await self._whole(parsed, call, _Answer(parsed, exchange))

    async def _keep(self, answer: _Answer, call: Call, keep_alive_s: float) -> None:
        """A wish about the model, not about the answer that was given: it may fail without a word to the caller."""
        node_id = answer.node_id
        if node_id is None:
            return
        try:
            async with asyncio.timeout(self._settings.metadata_within_s):
                if keep_alive_s:
                    await self._cluster.load_model(call.model, node=node_id, keep_alive_s=keep_alive_s)
                else:
                    await self._cluster.unload_model(call.model, node=node_id)
        except (ClusterError, TimeoutError) as error:
            log.info("request %s: keep_alive of %s has no effect: %s", call.request_id, call.model, error)

    async def _stream(
        self,
        parsed: ParsedRequest,
        call: Call,
        exchange: Exchange,
        answer: _Answer,
        heard: Callable[[bytes], None] | None,
    ) -> Reply:
        framing = _framing(parsed)
        if framing.comments:
            call = replace(call, standing_every_s=self._settings.ping_every_s)
        events = self._cluster.submit(call)
        if parsed.others:
            events = joined(parsed, runs_of(parsed, call), self._cluster.submit)
        silence = answer.silence if framing.comments else None
        render = answer.render if heard is None else _told_too(answer.render, heard)
        source = Source(events, render, CallFinished, call.within_s, silence)
        stream = EventStream(source, exchange, self._settings, self._metrics, framing)
        await stream.open()
        return event_stream_reply(stream.body(), answer.headers(), framing)

    async def _whole(self, parsed: ParsedRequest, call: Call, answer: _Answer) -> WholeAnswer:
        try:
            async with asyncio.timeout(call.within_s + GRACE_S):
                if parsed.others:
                    body, usage = await self._several(parsed, call, answer)
                else:
                    body, usage = await self._one(call, answer)
        except TimeoutError:
            raise DeadlineExceeded("The request's time is up.") from None
        if parsed.routing and answer.started is not None:
            body = with_routing(body, answer.started)
        return WholeAnswer(body, usage, answer.headers())

    async def _several(self, parsed: ParsedRequest, call: Call, answer: _Answer) -> tuple[bytes, Usage]:
        """Raises what the first run that fails raises; the others are cancelled then."""
        tasks = [asyncio.create_task(self._one(run, answer)) for run in runs_of(parsed, call)]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        usages = [usage for _, usage in found]
        return merged(parsed, [body for body, _ in found], usages), usage_of_all(parsed, usages)

    async def _one(self, call: Call, answer: _Answer) -> tuple[bytes, Usage]:
        chunks: list[bytes] = []
        finished: CallFinished | None = None
        async with aclosing(self._cluster.submit(call)) as events:
            async for event in events:
                chunks.append(answer.render(event))
                finished = event if isinstance(event, CallFinished) else None
        if finished is None:
            raise InternalError("The answer ended without its closing event.")
        return b"".join(chunks), finished.usage


def _for_key(parsed: ParsedRequest, exchange: Exchange) -> ParsedRequest:
    """As the client that bears the key reads answers; only OpenAI's chat has more than one way."""
    field = None if exchange.key is None else exchange.key.thought_field
    if field is None or parsed.dialect is not Dialect.OPENAI_CHAT:
        return parsed
    first, *others = (msgspec.structs.replace(one, thought_field=field) for one in (parsed.generation, *parsed.others))
    return replace(parsed, generation=first, others=tuple(others))


def _told_too(render: Callable[[CallEvent], bytes], heard: Callable[[bytes], None]) -> Callable[[CallEvent], bytes]:
    def rendered(event: CallEvent) -> bytes:
        if payload := render(event):
            heard(payload)
        return payload

    return rendered


def call_of(parsed: ParsedRequest, exchange: Exchange, *, longest_s: float, wished: Wishes | None = None) -> Call:
    """The first run of a request. What its body says of the queue goes before what its headers say.

    `wished`: instead of the headers, for what came by another way.

    Raises InvalidRequest for headers that say what cannot be.
    """
    wished = wishes(exchange) if wished is None else wished
    return Call(
        request_id=exchange.request_id,
        model=parsed.model,
        dialect=parsed.dialect,
        stream=parsed.stream,
        generation=parsed.generation.encoded(),
        prompt_tokens_estimate=parsed.prompt_tokens_estimate,
        within_s=min(parsed.within_s or longest_s, longest_s),
        max_tokens=parsed.max_tokens,
        queue_within_s=wished.queue_within_s if parsed.queue_within_s is None else parsed.queue_within_s,
        priority=parsed.priority or wished.priority or Priority.INTERACTIVE,
        affinity=parsed.affinity,
        node=parsed.node,
        strategy=parsed.strategy,
        user=exchange.user,
        key_id=exchange.key_id,
    )


def _framing(parsed: ParsedRequest) -> Framing:
    match parsed.dialect:
        case Dialect.OLLAMA_CHAT | Dialect.OLLAMA_GENERATE:
            return json_lines(waiting_line(parsed.dialect, parsed.model))
        case Dialect.ANTHROPIC:
            return ANTHROPIC_EVENTS
        case Dialect.OPENAI_RESPONSES:
            return TYPED_EVENTS
        case Dialect.OPENAI_CHAT | Dialect.OPENAI_COMPLETION | Dialect.TEXT | Dialect.EMBEDDINGS:
            return OPENAI_EVENTS
