"""How a streamed body is cut into events: server-sent events (WHATWG HTML 9.2) or one JSON object a line."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from chorus_http.apis import Api, error_object
from chorus_http.exchange import Exchange
from chorus_proto.errors import ClusterError

_encode = msgspec.json.Encoder().encode

PING = b": ping\n\n"
"""A comment, which every reader of server-sent events skips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """`ping` goes out when nothing else did for a while; it must mean nothing to the reader."""

    api: Api
    content_type: str
    ping: bytes
    comments: bool = False
    """What stands in a comment is skipped by readers."""
    typed: bool = False
    """Every event has a name and says its type again, as OpenAI's Responses API does."""

    def failure(self, error: ClusterError, exchange: Exchange, *, partial: bool) -> bytes:
        """The event that ends a stream whose status is already sent. `partial`: output was shown."""
        body = error_object(error, self.api, exchange.request_id, partial=partial)
        if self.typed:
            told = b'{"type":"error","code":%b,"message":%b,"param":%b,' % tuple(
                map(_encode, (error.code, error.message, error.param))
            )
            return b"event: error\ndata: %b%b\n\n" % (told, body.removeprefix(b"{"))
        match self.api:
            case Api.OLLAMA:
                return body + b"\n"
            case Api.ANTHROPIC:
                return b"event: error\ndata: %b\n\n" % body
            case Api.OPENAI:
                return b"data: %b\n\n" % body


_EVENT_STREAM = "text/event-stream; charset=utf-8"
OPENAI_EVENTS = Framing(api=Api.OPENAI, content_type=_EVENT_STREAM, ping=PING, comments=True)
TYPED_EVENTS = Framing(api=Api.OPENAI, content_type=_EVENT_STREAM, ping=PING, comments=True, typed=True)
ANTHROPIC_EVENTS = Framing(api=Api.ANTHROPIC, content_type=_EVENT_STREAM, ping=PING, comments=True)


def json_lines(ping: bytes) -> Framing:
    """Ollama's; a line cannot be a comment, so `ping` is an object that adds nothing to the answer."""
    return Framing(api=Api.OLLAMA, content_type="application/x-ndjson", ping=ping)
