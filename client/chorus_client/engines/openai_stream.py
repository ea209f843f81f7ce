"""Server-sent events of `/v1/chat/completions` and `/v1/completions` into pieces; the agent's hottest loop.

The dialect is llama-server's (OpenAI's plus `timings`); other servers send a subset. Bytes may be cut anywhere, inside
a character too. Per token this costs one typed JSON decode and one `Delta`.
"""

from __future__ import annotations

import codecs
import json
from typing import cast

import msgspec

from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Delta, Done, Piece, Prefilled, ToolCallPart

MOST_EVENT_BYTES = 1 << 20

_THINKING = ("<think>", "</think>")


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Text(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None
    reasoning_content: str | None = None
    """llama.cpp's and vLLM's name for thoughts."""
    reasoning: str | None = None
    """Ollama's and OpenRouter's name for the same."""


class _Choice(msgspec.Struct):
    delta: _Text | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = msgspec.Raw()
    stop_reason: str | int | None = None
    """vLLM's: the stop sequence that ended the answer, or the number of a token that did."""


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Timings(msgspec.Struct):
    """llama.cpp's own counts; `prompt_n` is without the `cache_n` tokens that the prefix cache held."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_per_second: float | None = None
    predicted_n: int = 0
    predicted_per_second: float | None = None


class _Progress(msgspec.Struct):
    """llama.cpp's, on request (`return_progress`), after each batch of the prompt; `processed` counts cached tokens."""

    total: int = 0
    processed: int = 0


class _Ending(msgspec.Struct):
    """llama.cpp's own words about the end, on request (`verbose`)."""

    stopping_word: str = ""


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    model: str | None = None
    prompt_progress: _Progress | None = None
    error: msgspec.Raw = msgspec.Raw()
    # llama.cpp's own answer, as `/infill` gives it.
    content: str | None = None
    stop: bool | None = None
    stop_type: str = ""
    stopping_word: str = ""
    verbose: _Ending | None = msgspec.field(name="__verbose", default=None)


_decode = msgspec.json.Decoder(_Event).decode


class CompletionStream:
    """Feed it the body as it comes; it returns the pieces that are complete. One per answer.

    `model`: the name the answer must carry, None to accept any. `most_event_bytes` bounds what is kept of an event.
    """

    def __init__(self, *, model: str | None = None, most_event_bytes: int = MOST_EVENT_BYTES) -> None:
        self._model = model
        self._most_event_bytes = most_event_bytes
        self._rest = b""
        self._finish_reason = ""
        self._stopped_at: str | None = None
        self._usage: _Usage | None = None
        self._timings: _Timings | None = None
        self._deltas = 0
        self._thinking = False
        self._halves: codecs.IncrementalDecoder | None = None
        self.done = False
        """The answer is complete: whatever follows is ignored."""
        self.failure: EngineFailed | None = None
        """Why nothing can follow: an error event, another model's answer, no JSON, or too long an event."""

    @property
    def answering(self) -> bool:
        """The first token has come."""
        return self._deltas > 0

    def feed(self, chunk: bytes) -> list[Piece]:
        """The pieces that are whole now; what came before a failure in the same chunk is not lost: see `failure`."""
        if self.done or self.failure is not None:
            return []
        body = self._rest + chunk if self._rest else chunk
        if b"\r" in body:
            # A carriage return at the very end may be half of a line end: keep it for the next chunk.
            cut = len(body) - 1 if body.endswith(b"\r") else len(body)
            body = body[:cut].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + body[cut:]
        *events, self._rest = body.split(b"\n\n")
        may_be_too_long = len(body) > self._most_event_bytes
        pieces: list[Piece] = []
        try:
            for event in events:
                if may_be_too_long:
                    self._bounded(event)
                if event.startswith(b"data: {") and b"\n" not in event:
                    self._take(event[6:], pieces)
                else:
                    self._take_slowly(event, pieces)
                if self.done:
                    self._rest = b""
                    break
            self._bounded(self._rest)
        except EngineFailed as failure:
            self.failure = failure
        return pieces

    def _bounded(self, event: bytes) -> None:
        if len(event) > self._most_event_bytes:
            raise EngineFailed(f"the engine sent an event of more than {self._most_event_bytes} bytes")

    def end(self) -> None:
        """The body is over. Raises EngineFailed when the answer was not."""
        if not self.done:
            raise EngineFailed("the engine ended the answer without [DONE]")

    def _take_slowly(self, event: bytes, pieces: list[Piece]) -> None:
        """An event in the full syntax: comments, several lines, other fields (WHATWG HTML, 9.2.6)."""
        data: list[bytes] = []
        for line in event.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"error":  # llama.cpp before 2025
                raise EngineFailed(_words_of_error(value.strip()))
        joined = b"\n".join(data).strip()
        if joined == b"[DONE]":
            pieces.append(self._finished())
        elif joined:
            self._take(joined, pieces)

    def _take(self, raw: bytes, pieces: list[Piece]) -> None:
        try:
            event = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            event = self._decode_broken(raw, error)
        if event.error:
            raise EngineFailed(_words_of_error(bytes(event.error)))
        if event.usage is not None:
            self._usage = event.usage
        if event.timings is not None:
            self._timings = event.timings
        if not event.choices:
            if event.content is None:
                _progressed(event, pieces)
            else:
                self._take_own(event, event.content, pieces)
            return
        if self._model is not None and event.model is not None:
            if event.model != self._model:
                raise EngineFailed(f"the engine answered as model {event.model!r} instead of {self._model!r}")
            self._model = None  # checked once
        choice = event.choices[0]
        delta = choice.delta
        text = choice.text if delta is None else delta.content
        if delta is not None and (self._thinking or delta.reasoning_content or delta.reasoning):
            text = self._with_thoughts(delta)
        if text and self._halves is not None:
            text = self._joined(text)
        if delta is not None and delta.tool_calls:
            self._deltas += 1
            if text:
                pieces.append(Delta(text, 0))
            pieces.append(Delta("", tool_calls=tuple(map(_part, delta.tool_calls))))
        elif text:
            logprobs = choice.logprobs
            self._deltas += 1
            if logprobs and bytes(logprobs) != b"null":
                pieces.append(Delta(text, 1, bytes(logprobs)))
            else:
                pieces.append(Delta(text))
        else:
            _progressed(event, pieces)
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason
            if isinstance(choice.stop_reason, str):
                self._stopped_at = choice.stop_reason
            elif event.verbose is not None:
                self._stopped_at = event.verbose.stopping_word or None
            if self._halves is not None and (rest := self._halves.decode(b"", final=True)):
                pieces.append(Delta(rest, 0))

    def _take_own(self, event: _Event, text: str, pieces: list[Piece]) -> None:
        """An event of llama.cpp's own kind; the last one says so, and no [DONE] follows."""
        if text:
            self._deltas += 1
            pieces.append(Delta(text))
        elif not event.stop:
            _progressed(event, pieces)
        if event.stop:
            self._finish_reason = "length" if event.stop_type == "limit" else "stop"
            self._stopped_at = event.stopping_word or None
            pieces.append(self._finished())

    def _with_thoughts(self, delta: _Text) -> str | None:
        """Thoughts that came in their own field, marked in the text as most models write them themselves."""
        thought = delta.reasoning_content or delta.reasoning
        text = delta.content
        if thought and not self._thinking:
            self._thinking = True
            thought = _THINKING[0] + thought
        if text and self._thinking:
            self._thinking = False
            text = _THINKING[1] + text
        return (thought or "") + (text or "")

    def _joined(self, text: str) -> str:
        assert self._halves is not None
        try:
            return self._halves.decode(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            return text.encode("utf-8", "replace").decode()

    def _decode_broken(self, raw: bytes, error: Exception) -> _Event:
        """An event that is JSON but not UTF-8: some engines cut a character between two tokens.

        The bytes of the cut character are kept and joined with the next token's; what stays wrong becomes U+FFFD.
        """
        try:
            tree: object = json.loads(raw.decode("utf-8", "surrogateescape"))
            if isinstance(tree, dict):
                for choice in cast("dict[str, list[dict[str, object]]]", tree).get("choices", []):
                    choice.pop("logprobs", None)
            event = msgspec.convert(tree, _Event)
        except (ValueError, TypeError, AttributeError):
            raise EngineFailed(f"the engine sent an event that cannot be read: {error}") from None
        if self._halves is None:
            self._halves = codecs.getincrementaldecoder("utf-8")("replace")
        return event

    def _finished(self) -> Done:
        self.done = True
        usage, timings = self._usage, self._timings
        cached = 0
        if usage is not None and usage.prompt_tokens_details is not None:
            cached = usage.prompt_tokens_details.cached_tokens or 0
        elif timings is not None:
            cached = timings.cache_n
        if usage is None and timings is not None:
            usage = _Usage(timings.cache_n + timings.prompt_n, timings.predicted_n)
        prefill, decode = None, None
        if timings is not None:
            # A rate over one token is noise: the prompt was cached, or the answer has only its first token.
            prefill = timings.prompt_per_second if timings.prompt_n > 1 else None
            decode = timings.predicted_per_second if timings.predicted_n > 1 else None
        return Done(
            finish_reason=self._finish_reason or "stop",
            prompt_tokens=usage.prompt_tokens if usage is not None else 0,
            completion_tokens=usage.completion_tokens if usage is not None else self._deltas,
            cached_tokens=cached,
            prefill_tokens_per_s=prefill or None,
            decode_tokens_per_s=decode or None,
            stop_sequence=self._stopped_at,
        )


def _part(call: _Call) -> ToolCallPart:
    function = call.function or _Function()
    return ToolCallPart(call.index, call.id or "", function.name or "", function.arguments or "")


def _progressed(event: _Event, pieces: list[Piece]) -> None:
    if event.prompt_progress is not None:
        pieces.append(Prefilled(event.prompt_progress.processed, event.prompt_progress.total))


class _Error(msgspec.Struct):
    message: str = ""


def _words_of_error(raw: bytes) -> str:
    try:
        message = msgspec.json.decode(raw, type=_Error | str)
    except msgspec.DecodeError:
        message = raw.decode("utf-8", "replace")
    words = message.message if isinstance(message, _Error) else message
    return f"the engine reported: {words[:500] or 'an error without words'}"
