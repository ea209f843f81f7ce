"""One engine in simulated time: affine decode steps, prompts read one at a time while decoding stands still, a cache of
beginnings. Between two events its batch is constant, so that many tokens are one event.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from dataclasses import dataclass, field

BLOCK_TOKENS = 64
READ_START_S = 0.02
"""Before the first token of a prompt is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A PC with an 8B model: step(B, context) = a + b * B + k * context seconds, prompts at `prefill` tokens/s."""

    name: str
    a_s: float
    b_s: float
    k_s: float
    prefill_tokens_per_s: float
    slots: int
    cache_tokens: int
    score: float

    def step_s(self, streams: int, context_tokens: float) -> float:
        return self.a_s + self.b_s * streams + self.k_s * context_tokens


def _kind(name: str, a: float, b: float, k: float, prefill: float, slots: int, score: float) -> Kind:
    """Milliseconds, `k` per 1,000 tokens."""
    return Kind(
        name=name,
        a_s=a / 1e3,
        b_s=b / 1e3,
        k_s=k / 1e6,
        prefill_tokens_per_s=prefill,
        slots=slots,
        cache_tokens=slots * 4096,
        score=score,
    )


KINDS = {
    one.name: one
    for one in (
        _kind("4090", 6.5, 0.15, 0.17, 9000, 8, 93),
        _kind("3090", 7.8, 0.5, 0.19, 4000, 8, 93),
        _kind("3060", 16.2, 0.9, 0.45, 1700, 4, 86),
        _kind("1080ti", 13.5, 2.0, 0.35, 900, 4, 85),
        _kind("m4max", 14, 1.7, 0.16, 750, 4, 99),
        _kind("m2pro", 31, 4, 0.65, 300, 2, 90),
        _kind("cpu", 105, 60, 2.2, 40, 1, 54),
    )
}


@dataclass(slots=True, eq=False)
class Job:
    """A request as the engine sees it; times are filled in as they come."""

    blocks: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int
    answer_blocks: tuple[int, ...] = ()
    cached_tokens: int = 0
    written: float = 0.0
    begun_s: float | None = None
    first_s: float | None = None
    done_s: float | None = None
    read_s: float = 0.0


@dataclass(slots=True, eq=False)
class Engine:
    """`until` moves it on; `next_event_s` says until when nothing happens in it. Jobs beyond the slots wait in it."""

    kind: Kind
    chance: random.Random
    now_s: float = 0.0
    waiting: deque[Job] = field(default_factory=deque[Job])
    reading: deque[Job] = field(default_factory=deque[Job])
    writing: list[Job] = field(default_factory=list[Job])
    read_until_s: float = 0.0
    _step_s: float = 0.0
    _cache: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.reading) + len(self.writing)

    def give(self, job: Job, now_s: float) -> None:
        self.until(now_s)
        self.waiting.append(job)
        self._admit()

    def _admit(self) -> None:
        while self.waiting and len(self.reading) + len(self.writing) < self.kind.slots:
            job = self.waiting.popleft()
            job.begun_s = self.now_s
            self.reading.append(job)
            if len(self.reading) == 1:
                self._read_next()

    def _read_next(self) -> None:
        job = self.reading[0]
        cached = 0
        for block in job.blocks:
            if block not in self._cache:
                break
            cached += BLOCK_TOKENS
        job.cached_tokens = min(cached, job.prompt_tokens - 1)
        unread = job.prompt_tokens - job.cached_tokens
        job.read_s = (READ_START_S + unread / self.kind.prefill_tokens_per_s) * self._jitter()
        self.read_until_s = self.now_s + job.read_s
        self._keep(job.blocks)

    def _jitter(self) -> float:
        return self.chance.lognormvariate(0, 0.05)

    def _keep(self, blocks: tuple[int, ...]) -> None:
        for block in blocks:
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) > self.kind.cache_tokens // BLOCK_TOKENS:
            self._cache.popitem(last=False)

    def _set_step(self) -> None:
        context = sum(job.prompt_tokens + job.written for job in self.writing)
        self._step_s = self.kind.step_s(len(self.writing), context) * self._jitter()

    def next_event_s(self) -> float | None:
        """None while it is idle."""
        if self.reading:
            return self.read_until_s
        if not self.writing:
            return None
        return self.now_s + min(job.answer_tokens - job.written for job in self.writing) * self._step_s

    def until(self, now_s: float) -> list[Job]:
        """Move on; the jobs that ended."""
        ended: list[Job] = []
        while True:
            event_s = self.next_event_s()
            if event_s is None or event_s > now_s:
                break
            self._forward(event_s)
            if self.reading:
                job = self.reading.popleft()
                job.first_s = self.now_s
                job.written = 1.0
                self.writing.append(job)
                if self.reading:
                    self._read_next()
            done = [job for job in self.writing if job.answer_tokens - job.written < 1e-6]
            for job in done:
                job.done_s = self.now_s
                self._keep(job.answer_blocks)
                self.writing.remove(job)
            ended += done
            self._admit()
            self._set_step()
        self._forward(now_s)
        return ended

    def _forward(self, to_s: float) -> None:
        if not self.reading and self.writing and to_s > self.now_s:
            tokens = (to_s - self.now_s) / self._step_s
            for job in self.writing:
                job.written = min(job.answer_tokens, job.written + tokens)
        self.now_s = max(self.now_s, to_s)
