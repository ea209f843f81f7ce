"""What the scripted engine says: text that anybody can compute, so that a lost, doubled or strayed token shows.

Token k of the answer to `prompt` is the word number `blake2b(key=K, message=str(k // 64))[k % 64]` of `WORDS`, where K
is `blake2b(prompt in UTF-8)`; every token but the first begins with a space.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "y", "z")
_RIMES = ("an", "el", "in", "or", "um", "ai", "eth", "ist", "olo", "une", "ark", "é", "ßa", "東京", "🎵", "ove")

WORDS = tuple(onset + rime for onset in _ONSETS for rime in _RIMES)
"""256 different words, 48 of them with characters of two, three and four bytes."""


def scripted_tokens(prompt: str) -> Iterator[str]:
    """The endless answer to `prompt`, token by token."""
    key = blake2b(prompt.encode()).digest()
    block = 0
    while True:
        for position, byte in enumerate(blake2b(str(block).encode(), key=key).digest()):
            yield WORDS[byte] if block == position == 0 else " " + WORDS[byte]
        block += 1


def scripted_text(prompt: str, tokens: int) -> str:
    """The first `tokens` tokens of the answer to `prompt`: of a chat, the content of its last message."""
    answer = scripted_tokens(prompt)
    return "".join(next(answer) for _ in range(tokens))
