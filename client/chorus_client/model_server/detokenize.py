"""Tokens of one answer into text: characters cut between tokens are joined, and the text ends before a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TokenDecoder(Protocol):
    """Gives the text that a token completes, or None while a character is incomplete."""

    def step(self, token: int) -> str | None: ...

    def rest(self, tokens: Sequence[int]) -> str:
        """What `tokens`, which completed nothing, look like at the end of an answer."""
        ...


class AnswerText:
    """Feed it token by token; `met` is the stop string that ended it, None while none did."""

    def __init__(self, decoder: TokenDecoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self._incomplete: list[int] = []
        self.met: str | None = None

    @property
    def stopped(self) -> bool:
        return self.met is not None

    def feed(self, token: int) -> str:
        """Text that may be shown now. What could be the beginning of a stop string is held back."""
        piece = self._decoder.step(token)
        if piece is None:
            self._incomplete.append(token)
            return ""
        self._incomplete.clear()
        return self._shown(piece) if self._stops else piece

    def end(self) -> str:
        """What was held back, when the answer ends without a stop string."""
        if self.stopped:
            return ""
        rest = self._decoder.rest(self._incomplete) if self._incomplete else ""
        self._incomplete.clear()
        text = self._shown(rest) if self._stops and rest else rest
        if self.stopped:
            return text
        text, self._held = (text or "") + self._held, ""
        return text

    def _shown(self, piece: str) -> str:
        text = self._held + piece
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.met = min(found, key=lambda one: one[0])
            self._held = ""
            return text[:at]
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                self._held = tail
                return text[:-length]
        self._held = ""
        return text
