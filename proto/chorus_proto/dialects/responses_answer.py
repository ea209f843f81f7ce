"""Writes an answer down as OpenAI's Responses API does. Runs on the agent.

Streams follow the API reference, `Streaming events`: created, in_progress, then for each item of the output its start,
its parts and their deltas, and its end; the last event holds the whole response. A thought is an item of type
`reasoning` with its text in `content`, as OpenAI's open models have it. `sequence_number` counts the events.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from chorus_proto.dialects.openai_answer import json_string
from chorus_proto.dialects.openai_logprobs import chat_content
from chorus_proto.generation import Channel, Delta, Done, Generation, ToolCallPart
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Timings

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
_REASONING, _MESSAGE, _CALL = "reasoning", "message", "function_call"


class Shell:
    """The response object without its output; `request_id` names it."""

    __slots__ = ("_created_unix_s", "_head", "_id", "_model", "request_id")

    def __init__(self, generation: Generation, *, request_id: RequestId, model: ModelName, created_unix_s: int) -> None:
        self.request_id = request_id
        self._id = f"resp_{request_id}"
        self._model = model
        self._created_unix_s = created_unix_s
        self._head = msgspec.json.decode(generation.answer_head or "{}", type=dict[str, msgspec.Raw])

    def with_output(
        self,
        output: list[dict[str, object]],
        *,
        status: str,
        usage: dict[str, object] | None = None,
        incomplete: str | None = None,
    ) -> dict[str, object]:
        told: dict[str, object] = {
            "id": self._id,
            "object": "response",
            "created_at": self._created_unix_s,
            "model": self._model,
            "status": status,
            "error": None,
            "incomplete_details": None if incomplete is None else {"reason": incomplete},
            "output": output,
            "usage": usage,
        }
        return told | self._head


def usage_of(done: Done) -> dict[str, object]:
    thinking = 0 if done.channel_tokens is None else done.channel_tokens.thinking
    return {
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": {"cached_tokens": done.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": done.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": thinking},
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }


class Stream:
    """Server-sent events. Nothing before the first piece: until then a failure has a status of its own."""

    __slots__ = ("_call", "_item", "_kind", "_logprobs", "_number", "_output", "_shell", "_texts")

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._number = 0
        self._output: list[dict[str, object]] = []
        self._kind = ""
        self._item: dict[str, object] = {}
        self._texts: list[str] = []
        self._logprobs: list[bytes] = []
        self._call: int | None = None

    def delta(self, delta: Delta) -> bytes:
        if delta.tool_calls:
            return b"".join([self._tool_call(part) for part in delta.tool_calls])
        kind = _MESSAGE if delta.channel is Channel.FINAL else _REASONING
        opened = b"" if self._kind == kind else self._open(kind)
        self._texts.append(delta.text)
        if kind == _REASONING:
            return opened + self._piece(b"response.reasoning_text.delta", delta.text)
        logprobs = b"[]"
        if delta.logprobs is not None:
            self._logprobs.append(delta.logprobs)
            logprobs = chat_content([delta.logprobs])
        return opened + self._piece(b"response.output_text.delta", delta.text, b',"logprobs":%b' % logprobs)

    def done(self, done: Done, timings: Timings) -> bytes:
        # An answer without a piece still has its one empty text.
        opened = self._open(_MESSAGE) if not self._number else b""
        cut = done.finish_reason == "length"
        closed = self._close(status="incomplete" if cut else "completed")
        response = self._shell.with_output(
            self._output,
            status="incomplete" if cut else "completed",
            usage=usage_of(done),
            incomplete="max_output_tokens" if cut else None,
        )
        end = self._event("response.incomplete" if cut else "response.completed", {"response": response})
        return b"".join((opened, closed, end))

    def _event(self, kind: str, members: dict[str, object]) -> bytes:
        number, self._number = self._number, self._number + 1
        body = _encode({"type": kind, "sequence_number": number, **members})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)

    def _piece(self, kind: bytes, text: str, more: bytes = b"") -> bytes:
        """One token: put together by hand, for it is what there are thousands of."""
        number, self._number = self._number, self._number + 1
        return (
            b'event: %b\ndata: {"type":"%b","sequence_number":%d,"item_id":%b,"output_index":%d,"content_index":0,'
            b'"delta":%b%b}\n\n'
            % (kind, kind, number, _encode(self._item["id"]), len(self._output), json_string(text), more)
        )

    def _begun(self) -> bytes:
        if self._number:
            return self._close(status="completed")
        response = self._shell.with_output([], status="in_progress")
        told: dict[str, object] = {"response": response}
        return self._event("response.created", told) + self._event("response.in_progress", told)

    def _open(self, kind: str) -> bytes:
        """End the item before, if any, and begin a message or a thought."""
        begun = self._begun()
        self._begin(kind)
        part = self._part("")
        return b"".join(
            (
                begun,
                self._event("response.output_item.added", {"output_index": len(self._output), "item": self._item}),
                self._event("response.content_part.added", self._where() | {"part": part}),
            )
        )

    def _begin(self, kind: str) -> None:
        self._kind = kind
        self._texts, self._logprobs = [], []
        prefix = {_MESSAGE: "msg", _REASONING: "rs", _CALL: "fc"}[kind]
        place = len(self._output)
        item_id = f"{prefix}_{self._shell.request_id}" + (f"_{place}" if place else "")
        self._item = {"id": item_id, "type": kind, "status": "in_progress"}
        if kind == _MESSAGE:
            self._item |= {"role": "assistant", "content": []}
        elif kind == _REASONING:
            self._item |= {"summary": [], "content": []}

    def _part(self, text: str) -> dict[str, object]:
        if self._kind == _REASONING:
            return {"type": "reasoning_text", "text": text}
        logprobs = msgspec.Raw(chat_content(self._logprobs))
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _where(self) -> dict[str, object]:
        return {"item_id": self._item["id"], "output_index": len(self._output), "content_index": 0}

    def _close(self, *, status: str) -> bytes:
        """End the item that is open, if any."""
        if not self._kind:
            return b""
        text, place = "".join(self._texts), len(self._output)
        if self._kind == _CALL:
            self._item |= {"status": status, "arguments": text}
            told: dict[str, object] = {"item_id": self._item["id"], "output_index": place, "arguments": text}
            ends = self._event("response.function_call_arguments.done", told | {"name": self._item["name"]})
        else:
            part = self._part(text)
            self._item |= {"status": status, "content": [part]}
            kind = "reasoning_text" if self._kind == _REASONING else "output_text"
            told = self._where() | {"text": text}
            if self._kind == _MESSAGE:
                told["logprobs"] = part["logprobs"]
            ends = self._event(f"response.{kind}.done", told)
            ends += self._event("response.content_part.done", self._where() | {"part": part})
        ends += self._event("response.output_item.done", {"output_index": place, "item": self._item})
        self._output.append(self._item)
        self._kind = ""
        return ends

    def _tool_call(self, part: ToolCallPart) -> bytes:
        opened = b""
        if self._kind != _CALL or self._call != part.index:
            opened = self._begun()
            self._begin(_CALL)
            self._call = part.index
            self._item |= {"call_id": part.id or f"call_{part.index}", "name": part.name, "arguments": ""}
            opened += self._event("response.output_item.added", {"output_index": len(self._output), "item": self._item})
        if not part.arguments:
            return opened
        self._texts.append(part.arguments)
        told: dict[str, object] = {"item_id": self._item["id"], "output_index": len(self._output)}
        return opened + self._event("response.function_call_arguments.delta", told | {"delta": part.arguments})


class Whole:
    """One JSON body at the end: what the last event of a stream would hold."""

    __slots__ = ("_stream",)

    def __init__(self, shell: Shell) -> None:
        self._stream = Stream(shell)

    def delta(self, delta: Delta) -> bytes:
        self._stream.delta(delta)
        return b""

    def done(self, done: Done, timings: Timings) -> bytes:
        return last_response(self._stream.done(done, timings))


class _Last(msgspec.Struct):
    response: msgspec.Raw = msgspec.Raw()


def last_response(events: bytes) -> bytes:
    """The response object that the last event of a stream holds. Raises msgspec.DecodeError when there is none."""
    _, _, last = events.rstrip(b"\n").rpartition(b"\ndata: ")
    found = bytes(msgspec.json.decode(last, type=_Last).response)
    if not found:
        raise msgspec.DecodeError("the last event holds no response")
    return found
