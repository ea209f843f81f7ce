"""Model answers cut into pieces at every kind of place, for the splitters of thoughts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from chorus_client.thinking.splitter import Part, Splitter, merged

SHORT = 60
"""Characters; an answer so short is cut at every single place."""


def split(splitter: Splitter, pieces: Iterable[str]) -> list[Part]:
    """All parts of one answer, neighbours merged."""
    parts: list[Part] = []
    for piece in pieces:
        parts += splitter.feed(piece)
    parts += splitter.finish()
    assert all(part.text for part in parts)
    return merged(parts)


def cuts(text: str, rng: random.Random) -> Iterator[list[str]]:
    """Ways to cut `text`: at random twice, with empty pieces in between; if short, in two at every place and in all."""
    for mean_length in (2, 12):
        pieces: list[str] = []
        at = 0
        while at < len(text):
            end = at + rng.randint(0, 2 * mean_length)
            pieces.append(text[at:end])
            at = end
        yield pieces
    if len(text) <= SHORT:
        yield list(text)
        for at in range(1, len(text)):
            yield [text[:at], text[at:]]


def same_however_cut(make: Callable[[], Splitter], text: str, rng: random.Random) -> list[Part]:
    """The parts of `text`, after a proof that they do not depend on how it is cut."""
    whole = split(make(), [text])
    for pieces in cuts(text, rng):
        assert split(make(), pieces) == whole, (text, pieces)
    return whole


def drawn(rng: random.Random, vocabulary: tuple[str, ...], most: int) -> str:
    return "".join(rng.choice(vocabulary) for _ in range(rng.randint(0, most)))


ODD_TEXT = ("a", "word ", " ", "\n\n", "<", "|", ">", "<|", "</", "é", "漢", "😀", "\ud83d", "\udc80", "\u200b", "\x00")
"""Text with beginnings of markers, characters beyond the BMP, lone surrogates and NUL in it."""
