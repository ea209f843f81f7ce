"""Passages of a person's documents before a question. Who finds them is no concern of the chats."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

import msgspec

from chorus_http.chats.records import SourceShown
from chorus_proto.ids import ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounded:
    """`prompt` is what the model reads in place of the question; `cited` tells the numbers that an answer names."""

    prompt: str
    sources: tuple[SourceShown, ...]
    cited: Callable[[str], Set[int]]

    def marked(self, answer: str) -> tuple[SourceShown, ...]:
        """The sources, with those marked that `answer` names."""
        named = self.cited(answer)
        return tuple(msgspec.structs.replace(source, cited=source.number in named) for source in self.sources)


class Grounding(Protocol):
    """Whoever can put passages before a question."""

    async def __call__(
        self, question: str, *, model: ModelName, context_tokens: int, answer_tokens: int | None
    ) -> Grounded:
        """The question with as many passages as fit; without any it stays as it is. Raises ClusterError."""
        ...
