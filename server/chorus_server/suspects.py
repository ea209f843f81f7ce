"""Requests during which engines died: after the second death the same request is given to no third engine for a while.

When an engine dies, everything that ran on it is suspect, and at most one of them is to blame. So suspects are tried
again apart from each other; when an engine dies under one of them, the others that ran there are taken for innocent.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec

from chorus_proto.clock import Clock
from chorus_proto.errors import RequestCrashesEngine
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName

DEATHS_LIMIT = 2
BLOCKED_FOR_S = 600.0
_MARKS_LIMIT = 10_000
_JUDGED_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Ran:
    """A request that was on an engine when that died. `text` is its generation's JSON."""

    model: ModelName
    text: bytes


@dataclass(slots=True)
class _Mark:
    until_s: float
    nodes: list[str] = field(default_factory=list[str])


class Suspects:
    """Nothing is worked out as long as no engine has died."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: dict[bytes, _Mark] = {}
        self._judged: deque[int] = deque(maxlen=_JUDGED_LIMIT)

    def check(self, model: ModelName, text: bytes) -> bool:
        """True for a suspect, which is to run where no other one does. Raises RequestCrashesEngine."""
        mark = self._of(model, text)
        if mark is None:
            return False
        if len(mark.nodes) >= DEATHS_LIMIT:
            left_s = mark.until_s - self._clock.monotonic_s()
            raise RequestCrashesEngine(
                f"the engine of {model} died while it worked on this request, on {' and on '.join(mark.nodes)}; it is "
                f"given to no other one for the next {left_s / 60:.0f} min",
                retry_after_s=left_s,
            )
        return True

    def _of(self, model: ModelName, text: bytes) -> _Mark | None:
        if not self._marks:
            return None
        key = _fingerprint(model, text)
        mark = self._marks.get(key)
        if mark is not None and mark.until_s <= self._clock.monotonic_s():
            del self._marks[key]
            return None
        return mark

    def died(self, incarnation: int, node_name: str, ran: Sequence[Ran]) -> None:
        """An engine died under these; told by each of them, and judged once."""
        if incarnation in self._judged:
            return
        self._judged.append(incarnation)
        by_key = {_fingerprint(one.model, one.text): one for one in ran}
        known = [key for key, one in by_key.items() if self._of(one.model, one.text) is not None]
        until_s = self._clock.monotonic_s() + BLOCKED_FOR_S
        for key in known or by_key:
            mark = self._marks.setdefault(key, _Mark(until_s))
            mark.until_s = until_s
            mark.nodes.append(node_name)
        while len(self._marks) > _MARKS_LIMIT:
            del self._marks[next(iter(self._marks))]

    def finished(self, model: ModelName, text: bytes) -> None:
        """It was answered: it kills no engines."""
        if self._marks:
            self._marks.pop(_fingerprint(model, text), None)


def _fingerprint(model: ModelName, text: bytes) -> bytes:
    """Of what is asked, whatever the request is called. A text that is no generation stands for itself."""
    with contextlib.suppress(msgspec.DecodeError):
        asked = msgspec.structs.replace(Generation.decoded(text), answer_id=None, choice=0, choices=1, seed=None)
        text = asked.encoded()
    return blake2b(text, digest_size=16, person=blake2b(model.encode(), digest_size=16).digest()).digest()
