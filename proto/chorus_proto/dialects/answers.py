"""Which renderer writes an answer down: one for each dialect. The agent asks for it."""

from __future__ import annotations

from typing import Protocol

from chorus_proto.dialects import anthropic_answer, ollama_answer, openai_answer, responses_answer
from chorus_proto.generation import Channel, Delta, Done, Generation
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Dialect, Timings


class Renderer(Protocol):
    """One answer. `delta` for each piece in turn, then `done` once; the joined bytes are the body."""

    def delta(self, delta: Delta) -> bytes: ...

    def done(self, done: Done, timings: Timings) -> bytes: ...


def renderer(
    dialect: Dialect,
    generation: Generation,
    *,
    stream: bool,
    request_id: RequestId,
    model: ModelName,
    created_unix_s: int,
) -> Renderer:
    """A fresh renderer for the answer to `generation`."""
    match dialect:
        case Dialect.TEXT | Dialect.EMBEDDINGS:
            return _Text()
        case Dialect.OPENAI_CHAT | Dialect.OPENAI_COMPLETION:
            head = openai_answer.Head(
                generation,
                chat=dialect is Dialect.OPENAI_CHAT,
                request_id=request_id,
                model=model,
                created_unix_s=created_unix_s,
            )
            return openai_answer.Stream(head, generation) if stream else openai_answer.Whole(head, generation)
        case Dialect.OLLAMA_CHAT | Dialect.OLLAMA_GENERATE:
            kind = ollama_answer.Stream if stream else ollama_answer.Whole
            return kind(dialect, model, created_unix_s)
        case Dialect.ANTHROPIC:
            if stream:
                return anthropic_answer.Stream(generation, request_id, model)
            return anthropic_answer.Whole(generation, request_id, model)
        case Dialect.OPENAI_RESPONSES:
            shell = responses_answer.Shell(
                generation, request_id=request_id, model=model, created_unix_s=created_unix_s
            )
            return responses_answer.Stream(shell) if stream else responses_answer.Whole(shell)


class _Text:
    """The answer's text as raw UTF-8, without thoughts where they are told apart."""

    def delta(self, delta: Delta) -> bytes:
        return delta.text.encode() if delta.channel is Channel.FINAL else b""

    def done(self, done: Done, timings: Timings) -> bytes:
        return b""
