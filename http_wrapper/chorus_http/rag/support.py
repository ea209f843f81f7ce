"""Whether what was found has anything to do with a question, so that no model is asked to guess.

Two signs together: the cosine of the nearest passage, and which share of the question's telling words one passage
holds. A question that is far from everything and shares few words with anything is not answered. What lies near and
still holds no answer ("the password of the guest network this week") only a reader can tell: the model is asked to
begin with `MARKER` then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chorus_http.rag.documents import Passage
from chorus_http.rag.search import shares_held, words_of

CALIBRATED_SIMILARITY = 0.34
"""For the embedding model that Chorus brings: `bench.rag_quality` prints what it and its neighbours refuse. Cosines of
another model mean something else, so there it is off unless it is set."""
WORDS_ENOUGH = 0.5
"""A passage with so many of the question's words is about it, however far its vector lies."""

MARKER = "[none]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """How near the passages come to the question. `similarity` None: nobody compared vectors."""

    similarity: float | None
    words: float

    def reaches(self, least_similarity: float) -> bool:
        return self.similarity is None or self.similarity >= least_similarity or self.words >= WORDS_ENOUGH


def support_of(question: str, passages: Sequence[Passage]) -> Support:
    near = [passage.similarity for passage in passages if passage.similarity is not None]
    held = shares_held(words_of(question), passages)
    return Support(similarity=max(near, default=None), words=max(held.values(), default=0.0))


class MarkerFilter:
    """Takes `MARKER`, and the blanks around it, off the beginning of an answer that comes in pieces."""

    def __init__(self) -> None:
        self.found = False
        self._held = ""
        self._settled = False

    def feed(self, text: str, *, last: bool = False) -> str:
        """What may be shown. `last`: nothing follows."""
        if self._settled:
            return text
        self._held += text
        begun = self._held.lstrip()
        whether = begun[: len(MARKER)].lower()
        if not last and MARKER.startswith(whether) and (whether != MARKER or not begun[len(MARKER) :].strip()):
            return ""  # it may still become the marker, or blanks may follow it
        self._settled = True
        self.found = whether == MARKER
        return begun[len(MARKER) :].lstrip() if self.found else self._held
