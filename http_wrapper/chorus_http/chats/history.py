"""What of a conversation is sent to a model whose context is too small for all of it. Pure.

Only the node counts tokens exactly, so the size of what was not yet sent is estimated: by what this model's earlier
answers in the same chat counted for a byte, and by a third of a token for a byte before there is any. A model that
still refuses gets less at the next try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chorus_http.chats.records import ChatMessage, Role, Trimmed
from chorus_proto.generation import Message

TOKENS_PER_BYTE = 1 / 3
TOKENS_PER_MESSAGE = 8
"""Of a chat template, around each message."""
_LEAST_PER_BYTE, _MOST_PER_BYTE = 0.05, 2.0
ANSWER_SHARE = 0.25
MOST_ANSWER_TOKENS = 1024
"""What stays free for the answer: this share of the context, up to so much."""
ROOM_AFTER_TRIMMING = 0.75
"""Once something must go, so much goes that a few turns follow without any: what a conversation begins with stays the
same then, and the engine's prefix cache holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What is sent, and what is not."""

    messages: tuple[Message, ...]
    prompt_bytes: int
    trimmed: Trimmed | None


def fitted(
    line: Sequence[ChatMessage],
    system: str,
    *,
    model: str,
    context_tokens: int,
    answer_tokens: int | None = None,
    refusals: int = 0,
) -> Fitted:
    """The system prompt and as much of the end of `line` as fits; at least the last message.

    `line` ends with the question. `context_tokens` 0: unknown, and all is sent. `refusals`: how often the model has
    refused this very line as too long; each makes the estimate more careful.
    """
    count = _counter(line, model, refusals)
    start = _start(line, system, count, context_tokens, answer_tokens, refusals)
    kept = line[start:]
    messages = tuple(Message(role=message.role.value, content=message.content) for message in kept)
    if system:
        messages = (Message(role="system", content=system), *messages)
    trimmed = None
    if start:
        trimmed = Trimmed(
            dropped_messages=start,
            kept_messages=len(kept),
            context_tokens=context_tokens,
            first_kept_id=kept[0].id,
        )
    prompt_bytes = sum(len(message.content.encode()) for message in messages)
    return Fitted(messages=messages, prompt_bytes=prompt_bytes, trimmed=trimmed)


@dataclass(frozen=True, slots=True)
class _Counter:
    per_byte: float

    def text(self, text: str) -> float:
        return len(text.encode()) * self.per_byte + TOKENS_PER_MESSAGE


def _counter(line: Sequence[ChatMessage], model: str, refusals: int) -> _Counter:
    measured = TOKENS_PER_BYTE
    for message in line:
        facts = message.answer
        if facts is not None and facts.model == model and facts.prompt_tokens and facts.prompt_bytes:
            measured = min(_MOST_PER_BYTE, max(_LEAST_PER_BYTE, facts.prompt_tokens / facts.prompt_bytes))
    return _Counter(measured * 1.5**refusals)


def _start(
    line: Sequence[ChatMessage],
    system: str,
    count: _Counter,
    context_tokens: int,
    answer_tokens: int | None,
    refusals: int,
) -> int:
    """Index of the first message that is sent."""
    sizes = [count.text(message.content) for message in line]
    before = count.text(system) if system else 0.0
    if context_tokens:
        spare = min(context_tokens * ANSWER_SHARE, answer_tokens or MOST_ANSWER_TOKENS)
        room = context_tokens - spare - before
    elif refusals:
        room = sum(sizes) * 0.5**refusals
    else:
        return 0
    if sum(sizes) <= room:
        return 0
    earlier = next((m.answer.trimmed for m in reversed(line) if m.answer is not None), None)
    for index, message in enumerate(line):
        if earlier is not None and message.id == earlier.first_kept_id and sum(sizes[index:]) <= room:
            return index
    # A conversation begins with a question: some chat templates refuse any other.
    starts = [index for index, message in enumerate(line) if message.role is Role.USER]
    fitting = (index for index in starts if sum(sizes[index:]) <= room * ROOM_AFTER_TRIMMING)
    return next(fitting, starts[-1] if starts else len(line) - 1)
