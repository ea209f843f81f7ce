"""Which beginnings of prompts which node has read lately, so that a conversation goes on where its past is cached.

A prompt is cut into blocks of bytes whose hashes are chained, each with all that stands before it (SGLang's and
llm-d's indexes do this with tokens; the coordinator forwards requests unread, and their JSON begins with the
messages). It is a hint: engines drop what they like, and tell afterwards how much they really had.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

BLOCK_BYTES = 256
"""Some 64-85 tokens."""
BLOCKS_LIMIT = 4096
"""Of one prompt; a million bytes."""

FIRST_TRUST = 0.8
_WEIGHT = 0.1


def blocks_of(text: bytes) -> tuple[int, ...]:
    """One number for each whole block, which stands for the text up to its end."""
    end = min(len(text) // BLOCK_BYTES, BLOCKS_LIMIT) * BLOCK_BYTES
    found: list[int] = []
    before = 0
    for start in range(0, end, BLOCK_BYTES):
        before = hash((before, text[start : start + BLOCK_BYTES]))
        found.append(before)
    return tuple(found)


class Prefixes:
    """Of every replica, by its incarnation, as many blocks as its caches hold; the longest unused go first."""

    def __init__(self) -> None:
        self._holders: dict[int, set[int]] = {}
        self._kept: dict[int, OrderedDict[int, None]] = {}
        self._trust: dict[int, float] = {}

    def held(self, blocks: Sequence[int]) -> dict[int, int]:
        """For each replica that has some of the beginning, how many blocks of it."""
        found: dict[int, int] = {}
        nobody: set[int] = set()
        going_on = self._holders.get(blocks[0], nobody) if blocks else nobody
        for place, block in enumerate(blocks):
            here = going_on & self._holders.get(block, nobody)
            if len(here) < len(going_on):
                found.update(dict.fromkeys(going_on - here, place))
            going_on = here
            if not going_on:
                return found
        return found | dict.fromkeys(going_on, len(blocks))

    def keep(self, incarnation: int, blocks: Sequence[int], *, room_blocks: int) -> None:
        """The replica is given this prompt, and its caches hold so many blocks."""
        kept = self._kept.setdefault(incarnation, OrderedDict())
        # From the end, so that the beginnings, which others share, are forgotten last.
        for block in reversed(blocks[:room_blocks]):
            if block in kept:
                kept.move_to_end(block)
            else:
                kept[block] = None
                self._holders.setdefault(block, set()).add(incarnation)
        while len(kept) > room_blocks:
            self._drop(kept.popitem(last=False)[0], incarnation)

    def forget_all_but(self, incarnations: Collection[int]) -> None:
        """The other replicas are gone."""
        for incarnation in [one for one in self._kept if one not in incarnations]:
            for block in self._kept.pop(incarnation):
                self._drop(block, incarnation)
            self._trust.pop(incarnation, None)

    def _drop(self, block: int, incarnation: int) -> None:
        holders = self._holders[block]
        holders.discard(incarnation)
        if not holders:
            del self._holders[block]

    def trust(self, incarnation: int) -> float:
        """Which share of what we take for cached there really is, 0-1."""
        return self._trust.get(incarnation, FIRST_TRUST)

    def told(self, incarnation: int, *, held_tokens: float, cached_tokens: int) -> None:
        """An answer came from where we took `held_tokens` for cached, and the engine says how many were."""
        if held_tokens > 0 and incarnation in self._kept:
            known = self.trust(incarnation)
            self._trust[incarnation] = known + _WEIGHT * (min(1.0, cached_tokens / held_tokens) - known)
