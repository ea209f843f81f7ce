"""Writes an answer down as Anthropic's Messages API does. Runs on the agent.

Streams follow the API reference, `Streaming messages`: message_start, then for each content block its start, deltas and
stop, then message_delta with the stop reason and the counts, then message_stop. A thought is a `thinking` block before
the text; its signature, which proves to Anthropic's own servers that they wrote it, is empty.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from chorus_proto.dialects.calls_made import CallsMade, arguments_of
from chorus_proto.dialects.openai_answer import json_string
from chorus_proto.generation import Channel, Delta, Done, Generation, ToolCallPart
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Timings

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
"""All others are `end_turn`, where no stop sequence ended the answer."""


def _message(request_id: RequestId, model: ModelName) -> dict[str, object]:
    return {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": model}


def usage_of(done: Done) -> dict[str, object]:
    """Anthropic counts what the prefix cache held apart from the rest of the prompt."""
    return {
        "input_tokens": max(0, done.prompt_tokens - done.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": done.cached_tokens,
        "output_tokens": done.completion_tokens,
    }


def _thoughts_shown(generation: Generation) -> bool:
    wanted = generation.include_channels
    return wanted is None or any(channel is not Channel.FINAL for channel in wanted)


def _reason(done: Done) -> str:
    return "stop_sequence" if done.stop_sequence is not None else _REASONS.get(done.finish_reason, "end_turn")


def _event(kind: str, body: dict[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **body}))


class Stream:
    """Server-sent events. The message starts with the first piece: before a token nothing is shown."""

    __slots__ = ("_block", "_call", "_heads", "_index", "_message", "_started", "_thoughts_shown")

    def __init__(self, generation: Generation, request_id: RequestId, model: ModelName) -> None:
        self._message = _message(request_id, model)
        self._thoughts_shown = _thoughts_shown(generation)
        self._started = False
        self._index = -1
        self._block = ""
        self._call: int | None = None
        self._heads = (b"", b"")

    def delta(self, delta: Delta) -> bytes:
        if delta.tool_calls:
            return b"".join([self._tool_call(part) for part in delta.tool_calls])
        wanted = "text" if delta.channel is Channel.FINAL else "thinking"
        if wanted == "thinking" and not self._thoughts_shown:
            return b""
        opened = b"" if self._block == wanted else self._open(wanted)
        head, tail = self._heads
        return b"%b%b%b%b" % (opened, head, json_string(delta.text), tail)

    def done(self, done: Done, timings: Timings) -> bytes:
        # An answer without a piece still has its one empty text.
        opened = b"" if self._started else self._open("text")
        told: dict[str, object] = {"stop_reason": _reason(done), "stop_sequence": done.stop_sequence}
        return b"".join(
            (
                opened,
                self._close(),
                _event("message_delta", {"delta": told, "usage": usage_of(done)}),
                _event("message_stop", {}),
            )
        )

    def _open(self, block: str) -> bytes:
        """End the block before, if any, and start one of text or thinking."""
        begun = self._begun()
        empty: dict[str, object] = {"type": block, block: ""}
        if block == "thinking":
            empty["signature"] = ""
        start = self._start(block, empty)
        kind = _encode(f"{block}_delta")
        self._heads = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b,"%b":'
            % (self._index, kind, block.encode()),
            b"}}\n\n",
        )
        return begun + start

    def _begun(self) -> bytes:
        if self._started:
            return self._close()
        self._started = True
        empty: dict[str, object] = {"content": [], "stop_reason": None, "stop_sequence": None}
        return _event("message_start", {"message": self._message | empty | {"usage": usage_of(Done(finish_reason=""))}})

    def _start(self, block: str, empty: dict[str, object]) -> bytes:
        self._index += 1
        self._block = block
        return _event("content_block_start", {"index": self._index, "content_block": empty})

    def _close(self) -> bytes:
        self._block = ""
        return _event("content_block_stop", {"index": self._index})

    def _tool_call(self, part: ToolCallPart) -> bytes:
        opened = b""
        if self._block != "tool_use" or self._call != part.index:
            self._call = part.index
            call_id = part.id or f"call_{part.index}"
            empty: dict[str, object] = {"type": "tool_use", "id": call_id, "name": part.name, "input": {}}
            opened = self._begun() + self._start("tool_use", empty)
        if not part.arguments:
            return opened
        delta = {"type": "input_json_delta", "partial_json": part.arguments}
        return opened + _event("content_block_delta", {"index": self._index, "delta": delta})


class Whole:
    """One JSON body at the end."""

    __slots__ = ("_answer", "_calls", "_message", "_thought", "_thoughts_shown")

    def __init__(self, generation: Generation, request_id: RequestId, model: ModelName) -> None:
        self._thoughts_shown = _thoughts_shown(generation)
        self._message = _message(request_id, model)
        self._answer: list[str] = []
        self._thought: list[str] = []
        self._calls = CallsMade()

    def delta(self, delta: Delta) -> bytes:
        if delta.tool_calls:
            self._calls.take(delta.tool_calls)
        (self._answer if delta.channel is Channel.FINAL else self._thought).append(delta.text)
        return b""

    def done(self, done: Done, timings: Timings) -> bytes:
        content: list[dict[str, object]] = []
        thought = "".join(self._thought) if self._thoughts_shown else ""
        answer, calls = "".join(self._answer), self._calls.made()
        if thought:
            content.append({"type": "thinking", "thinking": thought, "signature": ""})
        if answer or not (thought or calls):
            content.append({"type": "text", "text": answer})
        for call in calls:
            content.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": arguments_of(call)})
        ended: dict[str, object] = {"stop_reason": _reason(done), "stop_sequence": done.stop_sequence}
        return _encode(self._message | {"content": content} | ended | {"usage": usage_of(done)})
