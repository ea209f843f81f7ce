"""Writes answers down as OpenAI's clients expect them, with llama-server's `timings` and seed 004's channels.

Thoughts stand in `reasoning_content` and, the same, in `reasoning`, never in `content`; the seed's objects by channel
have a key of their own (`channels`), because clients take `thinking` for a string.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from chorus_client.model_server.frames import Ended, Prefilled, Said
from chorus_client.model_server.requests import Asked
from chorus_client.thinking.counts import ChannelCounts, CountingSplitter
from chorus_client.thinking.splitter import Channel, Part
from chorus_proto.dialects.openai_answer import SYSTEM_FINGERPRINT, json_string
from chorus_proto.dialects.openai_logprobs import as_completion, joined
from chorus_proto.ids import RequestId

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
STREAM_END = b"data: [DONE]\n\n"


class Rendering(Protocol):
    """One answer: `said` for each piece, then `ended` once; the joined bytes are the body."""

    def said(self, event: Said) -> bytes: ...

    def ended(self, event: Ended) -> bytes: ...


class _Pieces:
    """The pieces of one answer, by channel where a splitter tells them apart."""

    def __init__(self, splitter: CountingSplitter | None) -> None:
        self._splitter = splitter

    def of(self, event: Said) -> list[Part]:
        if self._splitter is None:
            return [Part(Channel.FINAL, event.text)] if event.text else []
        return self._splitter.feed(event.text, event.tokens)

    def last(self) -> list[Part]:
        return self._splitter.finish() if self._splitter is not None else []

    @property
    def counts(self) -> ChannelCounts | None:
        return self._splitter.counts if self._splitter is not None else None


def head(asked: Asked, request_id: RequestId, created_unix_s: int, *, chunk: bool) -> dict[str, object]:
    """The members that every object of one answer begins with."""
    kind = ("chat.completion.chunk" if chunk else "chat.completion") if asked.chat else "text_completion"
    found: dict[str, object] = {
        "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{request_id}",
        "object": kind,
        "created": created_unix_s,
        "model": asked.parsed.model,
        "system_fingerprint": SYSTEM_FINGERPRINT,
    }
    if asked.reasoning is not None:
        found["reasoning_level"] = asked.reasoning
    return found


class StreamRendering:
    """Server-sent events, one for each piece. The role comes with the first of them."""

    def __init__(
        self, asked: Asked, splitter: CountingSplitter | None, request_id: RequestId, created_unix_s: int
    ) -> None:
        self._asked = asked
        self._pieces = _Pieces(splitter)
        self._start = b"data: " + _encode(head(asked, request_id, created_unix_s, chunk=True))[:-1]
        self._role = b'"role":"assistant",' if asked.chat else b""
        self._logprobs: list[bytes] = []
        self._offset = 0

    def progress(self, event: Prefilled) -> bytes:
        """llama-server's `prompt_progress` for those who asked for it; a comment, which nobody reads, for others."""
        if not self._asked.return_progress:
            return b": reading the prompt\n\n"
        told = {"total": event.of_tokens, "cache": 0, "processed": event.tokens}
        return b'%b,"choices":[],"prompt_progress":%b}\n\n' % (self._start, _encode(told))

    def said(self, event: Said) -> bytes:
        if event.logprobs is not None:
            self._logprobs.append(event.logprobs)
        return b"".join([self._chunk(part) for part in self._pieces.of(event)])

    def ended(self, event: Ended) -> bytes:
        rest = b"".join([self._chunk(part) for part in self._pieces.last()])
        if self._role or self._logprobs:
            rest += self._chunk(Part(Channel.FINAL, ""))
        shown = b'"delta":{}' if self._asked.chat else b'"text":""'
        end = b'%b,"choices":[{"index":0,%b,"logprobs":null,"finish_reason":%b,"stop_reason":%b}],"timings":%b}\n\n' % (
            self._start,
            shown,
            _encode(event.finish_reason),
            _encode(event.met),
            _encode(timings(event)),
        )
        usage = b""
        if self._asked.parsed.generation.include_usage:
            usage = b'%b,"choices":[],"usage":%b}\n\n' % (self._start, _encode(_usage(event, self._pieces.counts)))
        return b"".join((rest, end, usage, STREAM_END))

    def _chunk(self, part: Part) -> bytes:
        text = json_string(part.text)
        if not self._asked.chat:
            shown = b'"text":' + text
        elif part.channel is Channel.FINAL:
            shown = b'"delta":{%b"content":%b}' % (self._role, text)
        elif not _wanted(part.channel, self._asked):
            return b""
        else:
            extra = b',"channel":' + _encode(part.channel) if self._asked.channels is not None else b""
            shown = b'"delta":{%b"reasoning_content":%b,"reasoning":%b%b}' % (self._role, text, text, extra)
        self._role = b""
        logprobs = b"null"
        if self._logprobs:
            if self._asked.chat:
                logprobs = joined(self._logprobs)
            else:
                logprobs = as_completion(self._logprobs, offset=self._offset)
            self._logprobs = []
        self._offset += len(part.text)
        return b'%b,"choices":[{"index":0,%b,"logprobs":%b,"finish_reason":null}]}\n\n' % (self._start, shown, logprobs)


class WholeRendering:
    """One JSON body at the end."""

    def __init__(
        self, asked: Asked, splitter: CountingSplitter | None, request_id: RequestId, created_unix_s: int
    ) -> None:
        self._asked = asked
        self._pieces = _Pieces(splitter)
        self._head = head(asked, request_id, created_unix_s, chunk=False)
        self._parts: list[Part] = []
        self._logprobs: list[bytes] = []

    def said(self, event: Said) -> bytes:
        self._parts += self._pieces.of(event)
        if event.logprobs is not None:
            self._logprobs.append(event.logprobs)
        return b""

    def ended(self, event: Ended) -> bytes:
        self._parts += self._pieces.last()
        choice: dict[str, object] = {"index": 0}
        if self._asked.chat:
            choice["message"] = self._message()
            choice["logprobs"] = msgspec.Raw(joined(self._logprobs)) if self._logprobs else None
        else:
            choice["text"] = "".join(part.text for part in self._parts)
            choice["logprobs"] = msgspec.Raw(as_completion(self._logprobs, offset=0)) if self._logprobs else None
        choice["finish_reason"] = event.finish_reason
        choice["stop_reason"] = event.met
        usage = _usage(event, self._pieces.counts)
        return _encode(self._head | {"choices": [choice], "usage": usage, "timings": timings(event)})

    def _message(self) -> dict[str, object]:
        texts = {channel: "".join(part.text for part in self._parts if part.channel is channel) for channel in Channel}
        message: dict[str, object] = {"role": "assistant", "content": texts[Channel.FINAL], "refusal": None}
        thoughts = "".join(
            part.text
            for part in self._parts
            if part.channel is not Channel.FINAL and _wanted(part.channel, self._asked)
        )
        if thoughts:
            message |= {"reasoning_content": thoughts, "reasoning": thoughts}
        if self._asked.channels is not None:
            message["channels"] = {channel: texts[channel] for channel in self._asked.channels}
        return message


def _wanted(channel: Channel, asked: Asked) -> bool:
    return asked.channels is None or channel in asked.channels


def timings(event: Ended) -> dict[str, object]:
    """llama-server's object; nothing is kept of earlier prompts, so `cache_n` is 0."""
    return {
        "cache_n": 0,
        "prompt_n": event.prompt_tokens,
        "prompt_ms": event.prompt_s * 1000,
        "prompt_per_second": event.prompt_tokens / event.prompt_s if event.prompt_s else None,
        "predicted_n": event.completion_tokens,
        "predicted_ms": event.completion_s * 1000,
        # The first token came with the prompt's last.
        "predicted_per_second": (event.completion_tokens - 1) / event.completion_s if event.completion_s else None,
    }


def _usage(event: Ended, counts: ChannelCounts | None) -> dict[str, object]:
    usage: dict[str, object] = {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    if counts is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": counts.thinking}
        usage["thinking_tokens"] = counts.thinking
        usage["channel_tokens"] = {
            Channel.ANALYSIS: counts.analysis,
            Channel.COMMENTARY: counts.commentary,
            Channel.FINAL: counts.final,
        }
    return usage
