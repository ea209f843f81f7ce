"""OpenAI's two shapes of log-probabilities: engines give the chat shape, /v1/completions shows the older one.

Source: OpenAI API reference, `choices[].logprobs` of the chat completion and of the (legacy) completion object.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] = []


class _ChatShape(msgspec.Struct):
    content: list[_Token] | None = None


class _ChatContent(msgspec.Struct):
    content: list[msgspec.Raw] | None = None


class _CompletionShape(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


_encode = msgspec.json.Encoder().encode


def joined(parts: Iterable[bytes]) -> bytes:
    """One chat-shaped `logprobs` object out of those of several deltas."""
    return _encode({"content": _tokens(parts), "refusal": None})


def chat_content(parts: Iterable[bytes]) -> bytes:
    """The array of tokens alone, as Ollama shows it."""
    return _encode(_tokens(parts))


def _tokens(parts: Iterable[bytes]) -> list[msgspec.Raw]:
    content: list[msgspec.Raw] = []
    for part in parts:
        content.extend(msgspec.json.decode(part, type=_ChatContent).content or ())
    return content


def as_completion(parts: Iterable[bytes], *, offset: int) -> bytes:
    """The completion-shaped object of chat-shaped `parts`, whose text starts `offset` characters into the answer."""
    shown = _CompletionShape(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for part in parts:
        for token in msgspec.json.decode(part, type=_ChatShape).content or ():
            shown.tokens.append(token.token)
            shown.token_logprobs.append(token.logprob)
            shown.top_logprobs.append({other.token: other.logprob for other in token.top_logprobs})
            shown.text_offset.append(offset)
            offset += len(token.token)
    return _encode(shown)
