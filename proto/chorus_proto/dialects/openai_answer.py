"""Writes an answer down as OpenAI's clients expect it. Runs on the agent, so that the hub forwards bytes unread.

Streams are server-sent events (WHATWG HTML 9.2) of OpenAI's chunk objects. What does not change within one answer is
encoded once; each delta costs one JSON string and one join. Thoughts stand in `reasoning_content` (llama.cpp, vLLM)
and, the same, in `reasoning` (Ollama, OpenRouter), never in `content`; objects by channel have a key of their own
(`channels`), because clients take `thinking` for a string. `timings` is llama.cpp's object, which web pages show.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

import chorus_proto
from chorus_proto.dialects.calls_made import CallsMade
from chorus_proto.dialects.openai_logprobs import as_completion, joined
from chorus_proto.generation import Channel, Delta, Done, Generation, ThoughtField, ToolCallPart
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Timings

SYSTEM_FINGERPRINT = f"chorus-{chorus_proto.__version__}"
STREAM_END = b"data: [DONE]\n\n"

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
_THOUGHT_NAMES = {
    ThoughtField.BOTH: ("reasoning_content", "reasoning"),
    ThoughtField.REASONING_CONTENT: ("reasoning_content",),
    ThoughtField.REASONING: ("reasoning",),
    ThoughtField.NONE: (),
}
_LOGPROBS_NULL = b"null"
_ROLE = b'"role":"assistant",'
# Legal inside JSON, but line ends to clients that split a stream with str.splitlines.
_LINE_ENDS = (("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\x85", b"\\u0085"))


class Head:
    """The opening members that every object of one answer shares, already encoded."""

    __slots__ = ("_common", "chat", "kind")

    def __init__(
        self, generation: Generation, *, chat: bool, request_id: RequestId, model: ModelName, created_unix_s: int
    ) -> None:
        self.chat = chat
        self.kind = "chat.completion" if chat else "text_completion"
        prefix = "chatcmpl-" if chat else "cmpl-"
        level = b""
        if generation.reasoning_effort is not None:
            level = b'"reasoning_level":%b,' % _encode(generation.reasoning_effort)
        self._common = b'{"id":%b,"created":%d,"model":%b,"system_fingerprint":%b,%b"object":' % (
            _encode(f"{prefix}{generation.answer_id or request_id}"),
            created_unix_s,
            _encode(model),
            _encode(SYSTEM_FINGERPRINT),
            level,
        )

    def opened(self, kind: str) -> bytes:
        """The object's start, up to where the next member may follow after a comma."""
        return self._common + _encode(kind)


class Stream:
    """Chunks as server-sent events. The role comes with the first text: before a token nothing is shown."""

    __slots__ = (
        "_asked",
        "_began",
        "_chat",
        "_choice",
        "_closed",
        "_echo",
        "_offset",
        "_open",
        "_plain_tail",
        "_start",
        "_tail",
        "_usage",
    )

    def __init__(self, head: Head, generation: Generation) -> None:
        self._asked = generation
        self._chat = head.chat
        self._usage = generation.include_usage and generation.choices == 1
        opened = head.opened("chat.completion.chunk" if head.chat else head.kind)
        self._start = b"data: " + opened
        usage = b',"usage":null' if generation.include_usage else b""
        self._choice = b'%b%b,"choices":[{"index":%d,' % (self._start, usage, generation.choice)
        self._closed = self._choice + (b'"delta":{}' if head.chat else b'"text":""')
        self._open = self._choice + (b'"delta":{%b"content":' % _ROLE if head.chat else b'"text":')
        self._tail = b"}," if head.chat else b","
        self._plain_tail = self._tail + b'"logprobs":null,"finish_reason":null}]}\n\n'
        self._began = False
        self._offset = 0
        self._echo = generation.prompt or "" if generation.echo else ""

    def delta(self, delta: Delta) -> bytes:
        if self._echo:
            delta = Delta(self._echo + delta.text, delta.tokens)
            self._echo = ""
        if delta.tool_calls:
            return b"".join([self._tool_call(part) for part in delta.tool_calls])
        if delta.channel is not Channel.FINAL:
            return self._thought(delta)
        text = delta.text
        if delta.logprobs is None:
            chunk = self._open + json_string(text) + self._plain_tail
        else:
            chunk = b'%b%b%b"logprobs":%b,"finish_reason":null}]}\n\n' % (
                self._open,
                json_string(text),
                self._tail,
                self._shown(delta.logprobs),
            )
        if not self._began:
            self._begin()
        self._offset += len(text)
        return chunk

    def done(self, done: Done, timings: Timings) -> bytes:
        first = self.delta(Delta("", 0)) if self._echo or (self._chat and not self._began) else b""
        end = b'%b,"logprobs":null,"finish_reason":%b}]}\n\n' % (self._closed, _encode(done.finish_reason))
        if self._asked.choices > 1:
            return first + end
        usage = b""
        if self._usage:
            usage = b'%b,"choices":[],"usage":%b,"timings":%b}\n\n' % (
                self._start,
                _encode(usage_of(done)),
                _encode(_timings(done, timings)),
            )
        return b"".join((first, end, usage, STREAM_END))

    def _thought(self, delta: Delta) -> bytes:
        wanted = self._asked.include_channels
        names = _THOUGHT_NAMES[self._asked.thought_field]
        if not names or (wanted is not None and delta.channel not in wanted):
            return b""
        text = json_string(delta.text)
        named = b"" if wanted is None else b',"channel":' + _encode(delta.channel)
        logprobs = _LOGPROBS_NULL if delta.logprobs is None else self._shown(delta.logprobs)
        shown = b",".join([b'"%b":%b' % (name.encode(), text) for name in names])
        return b'%b%b%b},"logprobs":%b,"finish_reason":null}]}\n\n' % (
            self._opened(),
            shown,
            named,
            logprobs,
        )

    def _tool_call(self, part: ToolCallPart) -> bytes:
        function: dict[str, object] = {"name": part.name} if part.name else {}
        function["arguments"] = part.arguments
        call: dict[str, object] = {"index": part.index, "function": function}
        if part.id:
            call |= {"id": part.id, "type": "function"}
        return b'%b"tool_calls":[%b]},"logprobs":null,"finish_reason":null}]}\n\n' % (self._opened(), _encode(call))

    def _opened(self) -> bytes:
        """A chunk up to where the first member of its delta stands."""
        role = b"" if self._began else _ROLE
        if not self._began:
            self._begin()
        return b'%b"delta":{%b' % (self._choice, role)

    def _begin(self) -> None:
        self._began = True
        self._open = self._open.replace(_ROLE, b"", 1)

    def _shown(self, logprobs: bytes) -> bytes:
        return logprobs if self._chat else as_completion([logprobs], offset=self._offset)


class Whole:
    """One JSON body at the end."""

    __slots__ = ("_asked", "_calls", "_head", "_logprobs", "_texts")

    def __init__(self, head: Head, generation: Generation) -> None:
        self._head = head
        self._asked = generation
        self._texts: dict[Channel, list[str]] = {channel: [] for channel in Channel}
        self._logprobs: list[bytes] = []
        self._calls = CallsMade()

    def delta(self, delta: Delta) -> bytes:
        self._texts[delta.channel].append(delta.text)
        if delta.logprobs is not None:
            self._logprobs.append(delta.logprobs)
        if delta.tool_calls:
            self._calls.take(delta.tool_calls)
        return b""

    def done(self, done: Done, timings: Timings) -> bytes:
        if self._head.chat:
            answer = b'"message":' + _encode(self._message())
        else:
            echo = self._asked.prompt or "" if self._asked.echo else ""
            answer = b'"text":' + _encode(echo + "".join(self._texts[Channel.FINAL]))
        return b'%b,"choices":[{"index":%d,%b,"logprobs":%b,"finish_reason":%b}],"usage":%b,"timings":%b}' % (
            self._head.opened(self._head.kind),
            self._asked.choice,
            answer,
            self._shown_logprobs(),
            _encode(done.finish_reason),
            _encode(usage_of(done)),
            _encode(_timings(done, timings)),
        )

    def _message(self) -> dict[str, object]:
        wanted = self._asked.include_channels
        texts = {channel: "".join(parts) for channel, parts in self._texts.items()}
        calls = self._calls.made()
        content = texts[Channel.FINAL]
        message: dict[str, object] = {
            "role": "assistant",
            "content": content if content or not calls else None,
            "refusal": None,
        }
        thoughts = "".join(
            text
            for channel, text in texts.items()
            if channel is not Channel.FINAL and (wanted is None or channel in wanted)
        )
        if thoughts:
            message |= dict.fromkeys(_THOUGHT_NAMES[self._asked.thought_field], thoughts)
        if calls:
            message["tool_calls"] = calls
        if wanted is not None:
            message["channels"] = {channel: texts[channel] for channel in wanted}
        return message

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


def usage_of(done: Done) -> dict[str, object]:
    """OpenAI's object; with thoughts told apart also seed 004's `thinking_tokens` and `channel_tokens`."""
    usage: dict[str, object] = {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
    }
    counts = done.channel_tokens
    if counts is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": counts.thinking}
        usage["thinking_tokens"] = counts.thinking
        usage["channel_tokens"] = counts
    return usage


def _timings(done: Done, timings: Timings) -> dict[str, object]:
    prompt_n = done.prompt_tokens - done.cached_tokens
    return {
        "cache_n": done.cached_tokens,
        "prompt_n": prompt_n,
        "prompt_ms": timings.ttft_s * 1000,
        "prompt_per_second": timings.prefill_tokens_per_s,
        "predicted_n": done.completion_tokens,
        "predicted_ms": max(0.0, timings.duration_s - timings.ttft_s) * 1000,
        "predicted_per_second": timings.decode_tokens_per_s,
    }
