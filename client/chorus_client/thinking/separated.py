"""One answer's pieces by channel: what the agent puts between an engine and a renderer."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from chorus_client.thinking.counts import CountingSplitter
from chorus_client.thinking.select import splitter_for
from chorus_client.thinking.splitter import Part
from chorus_proto.dialects.openai_logprobs import joined
from chorus_proto.generation import ChannelTokens, Delta, Done, Effort, Generation
from chorus_proto.values import EngineKind, ModelFile, ThinkingStyle

_RAW_ENGINES = frozenset({EngineKind.LLAMA_SERVER, EngineKind.TRANSFORMERS, EngineKind.SCRIPTED})
"""They give the text as the model wrote it. Others may tell thoughts apart: their adapters write them as `<think>`."""


class Separated:
    """Feed it every piece. One per answer."""

    __slots__ = ("_logprobs", "_splitter")

    def __init__(self, style: ThinkingStyle) -> None:
        self._splitter = CountingSplitter(splitter_for(style))
        self._logprobs: list[bytes] = []

    @property
    def is_answer(self) -> bool:
        """Deltas with text and without calls may be shown as they are, if `passed` is told of their tokens."""
        return not self._logprobs and self._splitter.is_answer

    def passed(self, tokens: int) -> None:
        self._splitter.passed(tokens)

    def deltas(self, delta: Delta) -> list[Delta]:
        """What is certain now. Log-probabilities of text that is held back come with the next that is not."""
        if delta.logprobs is not None:
            self._logprobs.append(delta.logprobs)
        if delta.tool_calls:
            return [*self._as_deltas(self._splitter.finish(), 0), delta]
        return self._as_deltas(self._splitter.feed(delta.text, delta.tokens), delta.tokens)

    def ended(self, done: Done) -> tuple[list[Delta], Done]:
        """What was held back, and the end with its counts."""
        rest = self._as_deltas(self._splitter.finish(), 0)
        counts = self._splitter.counts
        told = ChannelTokens(analysis=counts.analysis, commentary=counts.commentary, final=counts.final)
        return rest, msgspec.structs.replace(done, channel_tokens=told)

    def _as_deltas(self, parts: Iterable[Part], tokens: int) -> list[Delta]:
        found: list[Delta] = []
        for part in parts:
            logprobs = self._taken_logprobs() if self._logprobs else None
            found.append(Delta(part.text, tokens, logprobs, part.channel))
            tokens = 0
        return found

    def _taken_logprobs(self) -> bytes:
        taken, self._logprobs = self._logprobs, []
        return taken[0] if len(taken) == 1 else joined(taken)


def separation(generation: Generation, file: ModelFile | None) -> Separated | None:
    """None when the answer's text is to stay as it is: nobody wants it told apart, or the model does not think."""
    if not generation.separate_thinking or generation.messages is None or file is None:
        return None
    style = file.thinking or (ThinkingStyle.PLAIN if file.engine in _RAW_ENGINES else ThinkingStyle.TAGS)
    if style is ThinkingStyle.OPENED_TAGS and generation.reasoning_effort is Effort.NONE and file.thinking_optional:
        style = ThinkingStyle.TAGS  # the template then opens no thought, or closes it at once
    return None if style is ThinkingStyle.PLAIN else Separated(style)
