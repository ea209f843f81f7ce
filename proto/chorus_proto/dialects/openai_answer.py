"""Writes an answer down in the caller's dialect. Runs on the agent, so that the hub forwards bytes unread.

Streams are server-sent events (WHATWG HTML 9.2) of OpenAI's chunk objects. What does not change within one answer is
encoded once; each delta costs one JSON string and one join.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

import chorus_proto
from chorus_proto.dialects.openai_logprobs import as_completion, joined
from chorus_proto.generation import Delta, Done
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Dialect

SYSTEM_FINGERPRINT = f"chorus-{chorus_proto.__version__}"

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
_LOGPROBS_NULL = b"null"
_STREAM_END = b"data: [DONE]\n\n"
# Legal inside JSON, but line ends to clients that split a stream with str.splitlines.
_LINE_ENDS = (("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\x85", b"\\u0085"))


class Renderer(Protocol):
    """One answer. `delta` for each piece in turn, then `done` once; the joined bytes are the body."""

    def delta(self, delta: Delta) -> bytes: ...

    def done(self, done: Done) -> bytes: ...


def renderer(
    dialect: Dialect,
    *,
    stream: bool,
    request_id: RequestId,
    model: ModelName,
    created_unix_s: int,
    include_usage: bool,
) -> Renderer:
    """A fresh renderer; `include_usage` asks a stream for its closing usage chunk."""
    if dialect is Dialect.TEXT:
        return _Text()
    chat = dialect is Dialect.OPENAI_CHAT
    head = _Head(chat=chat, request_id=request_id, model=model, created_unix_s=created_unix_s)
    if stream:
        return _Stream(head, include_usage=include_usage)
    return _Whole(head)


class _Head:
    """The opening members that every object of one answer shares, already encoded."""

    __slots__ = ("_common", "chat", "kind")

    def __init__(self, *, chat: bool, request_id: RequestId, model: ModelName, created_unix_s: int) -> None:
        self.chat = chat
        self.kind = "chat.completion" if chat else "text_completion"
        prefix = "chatcmpl-" if chat else "cmpl-"
        self._common = b'{"id":%b,"created":%d,"model":%b,"system_fingerprint":%b,"object":' % (
            _encode(f"{prefix}{request_id}"),
            created_unix_s,
            _encode(model),
            _encode(SYSTEM_FINGERPRINT),
        )

    def opened(self, kind: str) -> bytes:
        """The object's start, up to where the next member may follow after a comma."""
        return self._common + _encode(kind)


class _Text:
    """The answer's text as raw UTF-8."""

    def delta(self, delta: Delta) -> bytes:
        return delta.text.encode()

    def done(self, done: Done) -> bytes:
        return b""


class _Stream:
    """Chunks as server-sent events. The role comes with the first text: before a token nothing is shown."""

    __slots__ = ("_began", "_chat", "_closed", "_offset", "_open", "_start", "_tail", "_usage")

    def __init__(self, head: _Head, *, include_usage: bool) -> None:
        self._chat = head.chat
        self._usage = include_usage
        opened = head.opened("chat.completion.chunk" if head.chat else head.kind)
        self._start = b"data: " + opened
        usage = b',"usage":null' if include_usage else b""
        choice = b'%b%b,"choices":[{"index":0,' % (self._start, usage)
        self._closed = choice + (b'"delta":{}' if head.chat else b'"text":""')
        self._open = choice + (b'"delta":{"role":"assistant","content":' if head.chat else b'"text":')
        self._tail = b"}," if head.chat else b","
        self._began = False
        self._offset = 0

    def delta(self, delta: Delta) -> bytes:
        text = delta.text
        if delta.logprobs is None:
            chunk = b'%b%b%b"logprobs":null,"finish_reason":null}]}\n\n' % (self._open, json_string(text), self._tail)
        else:
            shown = delta.logprobs if self._chat else as_completion([delta.logprobs], offset=self._offset)
            chunk = b'%b%b%b"logprobs":%b,"finish_reason":null}]}\n\n' % (
                self._open,
                json_string(text),
                self._tail,
                shown,
            )
        if not self._began:
            self._began = True
            self._open = self._open.replace(b'"role":"assistant",', b"", 1)
        self._offset += len(text)
        return chunk

    def done(self, done: Done) -> bytes:
        first = self.delta(Delta("", 0)) if self._chat and not self._began else b""
        end = b'%b,"logprobs":null,"finish_reason":%b}]}\n\n' % (self._closed, _encode(done.finish_reason))
        usage = b'%b,"choices":[],"usage":%b}\n\n' % (self._start, _usage(done)) if self._usage else b""
        return b"".join((first, end, usage, _STREAM_END))


class _Whole:
    """One JSON body at the end."""

    __slots__ = ("_head", "_logprobs", "_texts")

    def __init__(self, head: _Head) -> None:
        self._head = head
        self._texts: list[str] = []
        self._logprobs: list[bytes] = []

    def delta(self, delta: Delta) -> bytes:
        self._texts.append(delta.text)
        if delta.logprobs is not None:
            self._logprobs.append(delta.logprobs)
        return b""

    def done(self, done: Done) -> bytes:
        text = _encode("".join(self._texts))
        if self._head.chat:
            answer = b'"message":{"role":"assistant","content":%b,"refusal":null}' % text
        else:
            answer = b'"text":' + text
        return b'%b,"choices":[{"index":0,%b,"logprobs":%b,"finish_reason":%b}],"usage":%b}' % (
            self._head.opened(self._head.kind),
            answer,
            self._shown_logprobs(),
            _encode(done.finish_reason),
            _usage(done),
        )

    def _shown_logprobs(self) -> bytes:
        if not self._logprobs:
            return _LOGPROBS_NULL
        return joined(self._logprobs) if self._head.chat else as_completion(self._logprobs, offset=0)


def json_string(text: str) -> bytes:
    """`text` as a JSON string that also survives clients which take Unicode line ends for line ends."""
    encoded = _encode(text)
    if not text.isascii():
        for character, escape in _LINE_ENDS:
            if character in text:
                encoded = encoded.replace(character.encode(), escape)
    return encoded


def _usage(done: Done) -> bytes:
    return _encode(
        {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "total_tokens": done.prompt_tokens + done.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
        }
    )
