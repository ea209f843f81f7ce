"""How many tokens of an answer went to which channel."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_client.thinking.splitter import Channel, Part, Splitter


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelCounts:
    """Tokens. `structure` are markers, headers and end tokens, which no channel shows; the sum is the whole answer."""

    analysis: int = 0
    commentary: int = 0
    final: int = 0
    structure: int = 0

    @property
    def thinking(self) -> int:
        """All that was written to a channel and is not the answer (`thinking_tokens` of seed clients)."""
        return self.analysis + self.commentary

    @property
    def total(self) -> int:
        return self.analysis + self.commentary + self.final + self.structure


class CountingSplitter:
    """A splitter that also counts. Exact if it is fed token by token and no token holds both a marker and text.

    A token that gave no text yet (half a character, whitespace, a `<` that may begin a marker) waits until it is known
    what it was. Where one piece has several tokens and several channels, they are shared out by length of text.
    """

    __slots__ = ("_splitter", "_tokens", "_waiting")

    def __init__(self, splitter: Splitter) -> None:
        self._splitter = splitter
        self._tokens: dict[Channel | None, int] = dict.fromkeys((*Channel, None), 0)
        self._waiting = 0

    @property
    def channel(self) -> Channel | None:
        return self._splitter.channel

    @property
    def counts(self) -> ChannelCounts:
        """So far; tokens that wait count as structure."""
        return ChannelCounts(
            analysis=self._tokens[Channel.ANALYSIS],
            commentary=self._tokens[Channel.COMMENTARY],
            final=self._tokens[Channel.FINAL],
            structure=self._tokens[None] + self._waiting,
        )

    def feed(self, text: str, tokens: int = 1) -> list[Part]:
        before = self._splitter.channel
        parts = self._splitter.feed(text)
        if parts:
            self._settle_waiting(before if parts[0].channel is before else None)
            if len(parts) == 1:
                self._tokens[parts[0].channel] += tokens
            else:
                self._share_out(parts, tokens)
        elif before is not None and before is self._splitter.channel:
            self._waiting += tokens
        else:
            self._settle_waiting(None)
            self._tokens[None] += tokens
        return parts

    @property
    def is_answer(self) -> bool:
        return not self._waiting and self._splitter.is_answer

    def passed(self, tokens: int) -> None:
        """So many tokens of the answer were shown without being fed."""
        self._tokens[Channel.FINAL] += tokens

    def finish(self) -> list[Part]:
        parts = self._splitter.finish()
        self._settle_waiting(parts[0].channel if parts else None)
        return parts

    def _settle_waiting(self, channel: Channel | None) -> None:
        self._tokens[channel] += self._waiting
        self._waiting = 0

    def _share_out(self, parts: list[Part], tokens: int) -> None:
        whole = sum(len(part.text) for part in parts)
        seen = given = 0
        for part in parts:
            seen += len(part.text)
            share = round(tokens * seen / whole) - given
            self._tokens[part.channel] += share
            given += share
