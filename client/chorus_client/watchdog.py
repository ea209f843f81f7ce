"""Tells a hung generation from a slow one, by what the engine produces and never by its health page.

Pure: the owner tells what it saw and asks now and then. Limits as in Chorus's table of time-outs: to the first token
15 s and four times what the prompt takes at the measured speed; between tokens twenty times the usual gap.

An engine computes prompts in batches, and everybody's tokens wait for the batch: a prompt of one generation is a pause
for all others on the same engine, so their limits count it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chorus_proto.generation import Done

BATCH_TOKENS = 2048
"""What llama.cpp computes of a prompt before it looks up again, at most (its default batch size)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLimits:
    first_s: float = 15.0
    slowness: float = 4.0
    """A prompt may take this many times as long as the measured prefill rate says."""
    first_cap_s: float = 600.0
    between_s: float = 10.0
    between_gaps: float = 20.0
    between_cap_s: float = 60.0
    assumed_prefill_tokens_per_s: float = 20.0
    """Until a rate was measured: a weak CPU's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """All is well. Ask again after `due_in_s`: until then only silence can change the answer."""

    due_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hung:
    """The engine stands still; `reason` is a sentence for people."""

    reason: str


Verdict = Waiting | Hung

_KEPT = 0.9
_NEWEST_RATE_WEIGHT = 0.2


@dataclass(slots=True)
class SharedEngine:
    """What the generations of one loaded model share: its measured speed, and that they wait for each other."""

    prefill_tokens_per_s: float | None = None
    """None while nothing was measured."""
    watchdogs: set[Watchdog] = field(default_factory=lambda: set[Watchdog]())
    """Of the generations that run now."""

    def measured(self, done: Done) -> None:
        """Learn from a generation that ended."""
        newest = done.prefill_tokens_per_s
        if newest:
            known = self.prefill_tokens_per_s
            self.prefill_tokens_per_s = newest if known is None else known + _NEWEST_RATE_WEIGHT * (newest - known)


@dataclass(slots=True, eq=False)
class Watchdog:
    """Watches one generation from the moment `began_s` at which the engine got it (monotonic seconds)."""

    began_s: float
    prompt_tokens: int
    """An estimate, until the engine tells."""
    engine: SharedEngine = field(default_factory=SharedEngine)
    limits: WatchLimits = field(default_factory=WatchLimits)
    _moved_s: float = field(init=False)
    _silent_from_s: float = field(init=False)
    _prefilled_tokens: int | None = None
    _tokens: int = 0
    _gap_s: float = 0.0

    def __post_init__(self) -> None:
        self._moved_s = self._silent_from_s = self.began_s

    def joins(self) -> None:
        """The engine has the generation now; from here on the others may have to wait for its prompt."""
        self.engine.watchdogs.add(self)

    def leaves(self, now_s: float) -> None:
        """The generation is over. A second call does nothing."""
        self.engine.watchdogs.discard(self)
        if not self._tokens:
            # An engine that is told to stop still computes the batch that it is in.
            self._excuse_others(now_s + self._prefill_s(min(self._left_tokens, BATCH_TOKENS)))

    def prefilled(self, tokens: int, of_tokens: int, now_s: float) -> None:
        """So many prompt tokens are done in all. Only a number that grew counts as a sign of life."""
        self.prompt_tokens = of_tokens
        if self._prefilled_tokens is None or tokens > self._prefilled_tokens:
            self._prefilled_tokens = tokens
            self._moved_s = self._silent_from_s = now_s

    def produced(self, now_s: float, tokens: int = 1) -> None:
        """`tokens` more tokens of the answer have come. Pings and empty pieces are not tokens: do not tell them."""
        if tokens <= 0:
            return
        gap_s = (now_s - self._moved_s) / tokens
        self._moved_s = self._silent_from_s = now_s
        if self._tokens:
            # Several tokens in one piece weigh as if each had come after the same gap.
            kept = _KEPT if tokens == 1 else _KEPT**tokens
            self._gap_s = gap_s + kept * (self._gap_s - gap_s)
        else:
            # No gap is known yet; what the first token took is more than one, so that the limit errs to patience.
            self._gap_s = gap_s * tokens
            self._excuse_others(now_s)
        self._tokens += tokens

    def unasked(self, for_s: float) -> None:
        """For so long after the last piece nobody waited for the next one: no silence of the engine's."""
        self._silent_from_s += for_s

    def excused(self, until_s: float) -> None:
        """Silence before this moment does not count: the engine had reason to be silent, or was not seen."""
        if until_s > self._silent_from_s:
            self._silent_from_s = until_s

    def _excuse_others(self, until_s: float) -> None:
        for other in self.engine.watchdogs:
            if other is not self:
                other.excused(until_s)

    @property
    def _left_tokens(self) -> int:
        """Of the prompt."""
        return 0 if self._tokens else max(0, self.prompt_tokens - (self._prefilled_tokens or 0))

    def _prefill_s(self, tokens: int) -> float:
        """What the engine may take for so many tokens of prompts."""
        rate = self.engine.prefill_tokens_per_s or self.limits.assumed_prefill_tokens_per_s
        return self.limits.slowness * tokens / rate

    @property
    def limit_s(self) -> float:
        """Seconds of silence allowed now."""
        limits = self.limits
        own = self._left_tokens
        others = sum(other._left_tokens for other in self.engine.watchdogs if other is not self)
        if not self._tokens:
            return min(limits.first_s + self._prefill_s(own + others), limits.first_cap_s)
        between_s = min(max(limits.between_s, limits.between_gaps * self._gap_s), limits.between_cap_s)
        if not others:
            return between_s
        return min(between_s + self._prefill_s(min(others, BATCH_TOKENS)), limits.first_cap_s)

    def verdict(self, now_s: float) -> Verdict:
        silent_s = now_s - self._silent_from_s
        limit_s = self.limit_s
        if silent_s < limit_s:
            return Waiting(due_in_s=limit_s - silent_s)
        if self._tokens:
            what = f"no further token after {self._tokens}"
        elif self._prefilled_tokens is not None:
            what = f"stood still after {self._prefilled_tokens} of {self.prompt_tokens} prompt tokens"
        else:
            what = f"no first token for a prompt of about {self.prompt_tokens}"
        return Hung(reason=f"{what}: silent for {silent_s:.0f} s, {limit_s:.0f} s are allowed")
