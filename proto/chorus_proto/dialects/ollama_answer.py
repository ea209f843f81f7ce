"""Writes an answer down as Ollama does (docs/api.md): one JSON object a line, or one in all. Runs on the agent.

Durations are nanoseconds of the node's own clock. To it a model is loaded before its requests come; how long those
waited is the coordinator's to know, and added by `with_wait`, which runs where callers are answered.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from chorus_proto.dialects.calls_made import CallsMade, arguments_of
from chorus_proto.dialects.openai_answer import json_string
from chorus_proto.dialects.openai_logprobs import chat_content
from chorus_proto.generation import Channel, Delta, Done, ToolCall
from chorus_proto.ids import ModelName
from chorus_proto.values import Dialect, Timings

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
_NS = 1_000_000_000
_REASONS = {"length": "length"}
"""All others are `stop`, tool calls too."""


def tagged(model: str) -> str:
    """The name as Ollama shows it, with a tag."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def instant(unix_s: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def waiting_line(dialect: Dialect, model: str) -> bytes:
    """A line that adds nothing to an answer, for callers who wait for its next."""
    head = _Head(dialect, ModelName(model), int(datetime.now(UTC).timestamp()))
    return head.line(b"", b"")


def with_wait(payload: bytes, wait_s: float) -> bytes:
    """The end of an answer, with what its caller waited for a loaded model and a place in it.

    Ollama too counts both as `load_duration`, and as part of the whole (its server/routes.go, `checkpointLoaded`). A
    piece of an answer without its end stays as it is.
    """
    before, name, after = payload.rpartition(b'"total_duration":')
    total_ns, load, rest = after.partition(b',"load_duration":0,')
    if not (name and load and total_ns.isdigit()):
        return payload
    wait_ns = round(wait_s * _NS)
    return b'%b%b%d,"load_duration":%d,%b' % (before, name, int(total_ns) + wait_ns, wait_ns, rest)


class _Head:
    """What every object of one answer begins with, already encoded."""

    __slots__ = ("_chat", "_start")

    def __init__(self, dialect: Dialect, model: ModelName, created_unix_s: int) -> None:
        self._chat = dialect is Dialect.OLLAMA_CHAT
        self._start = b'{"model":%b,"created_at":%b,' % (_encode(tagged(model)), _encode(instant(created_unix_s)))

    def shown(self, content: bytes, more: bytes) -> bytes:
        """An object up to where `done` follows. `content` is a JSON string or b""; `more`: members, each with a comma
        before it."""
        if self._chat:
            return b'%b"message":{"role":"assistant","content":%b%b},' % (self._start, content or b'""', more)
        return b'%b"response":%b%b,' % (self._start, content or b'""', more)

    def line(self, content: bytes, more: bytes, logprobs: bytes = b"") -> bytes:
        return b'%b%b"done":false}\n' % (self.shown(content, more), logprobs)


class Stream:
    """One object a line. Tool calls come whole, before the last line: Ollama has no pieces of them."""

    __slots__ = ("_calls", "_head")

    def __init__(self, dialect: Dialect, model: ModelName, created_unix_s: int) -> None:
        self._head = _Head(dialect, model, created_unix_s)
        self._calls = CallsMade()

    def delta(self, delta: Delta) -> bytes:
        if delta.tool_calls:
            self._calls.take(delta.tool_calls)
            return b""
        logprobs = b"" if delta.logprobs is None else b'"logprobs":%b,' % chat_content([delta.logprobs])
        text = json_string(delta.text)
        if delta.channel is Channel.FINAL:
            return self._head.line(text, b"", logprobs)
        return self._head.line(b"", b',"thinking":' + text, logprobs)

    def done(self, done: Done, timings: Timings) -> bytes:
        calls = self._calls.made()
        called = self._head.line(b"", b',"tool_calls":' + _calls(calls)) if calls else b""
        return b"%b%b%b\n" % (called, self._head.shown(b"", b""), _end(done, timings))


class Whole:
    """One object."""

    __slots__ = ("_answer", "_calls", "_head", "_logprobs", "_thought")

    def __init__(self, dialect: Dialect, model: ModelName, created_unix_s: int) -> None:
        self._head = _Head(dialect, model, created_unix_s)
        self._answer: list[str] = []
        self._thought: list[str] = []
        self._logprobs: list[bytes] = []
        self._calls = CallsMade()

    def delta(self, delta: Delta) -> bytes:
        if delta.logprobs is not None:
            self._logprobs.append(delta.logprobs)
        if delta.tool_calls:
            self._calls.take(delta.tool_calls)
        (self._answer if delta.channel is Channel.FINAL else self._thought).append(delta.text)
        return b""

    def done(self, done: Done, timings: Timings) -> bytes:
        thought = "".join(self._thought)
        more = b',"thinking":' + _encode(thought) if thought else b""
        if calls := self._calls.made():
            more += b',"tool_calls":' + _calls(calls)
        logprobs = b'"logprobs":%b,' % chat_content(self._logprobs) if self._logprobs else b""
        return b"%b%b%b" % (self._head.shown(_encode("".join(self._answer)), more), logprobs, _end(done, timings))


def _calls(calls: list[ToolCall]) -> bytes:
    """With the arguments as an object."""
    return _encode(
        [{"id": call.id, "function": {"name": call.function.name, "arguments": arguments_of(call)}} for call in calls]
    )


def _end(done: Done, timings: Timings) -> bytes:
    end: dict[str, object] = {
        "done": True,
        "done_reason": _REASONS.get(done.finish_reason, "stop"),
        "total_duration": round(timings.duration_s * _NS),
        "load_duration": 0,
        "prompt_eval_count": done.prompt_tokens,
        "prompt_eval_duration": round(timings.ttft_s * _NS),
        "eval_count": done.completion_tokens,
        "eval_duration": round(max(0.0, timings.duration_s - timings.ttft_s) * _NS),
    }
    return _encode(end)[1:]
