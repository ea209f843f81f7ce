"""Tells a hung generation from a slow one, by what the engine produces and never by its health page.

Pure: the owner tells what it saw and asks now and then. Limits as in Chorus's table of time-outs: to the first token
15 s and four times what the prompt takes at the measured speed; between tokens twenty times the usual gap.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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

_NEWEST_WEIGHT = 0.1


@dataclass(slots=True)
class Watchdog:
    """Watches one generation from the moment `began_s` at which the engine got it (monotonic seconds)."""

    began_s: float
    prompt_tokens: int
    prefill_tokens_per_s: float | None = None
    """As measured on this replica; None when nothing was measured yet."""
    limits: WatchLimits = field(default_factory=WatchLimits)
    _moved_s: float = field(init=False)
    _prefilled_tokens: int = 0
    _tokens: int = 0
    _gap_s: float = 0.0

    def __post_init__(self) -> None:
        self._moved_s = self.began_s

    def prefilled(self, tokens: int, now_s: float) -> None:
        """So many prompt tokens are done in all. Only a number that grew counts as a sign of life."""
        if tokens > self._prefilled_tokens:
            self._prefilled_tokens = tokens
            self._moved_s = now_s

    def produced(self, now_s: float, tokens: int = 1) -> None:
        """`tokens` more tokens of the answer have come. Pings and empty pieces are not tokens: do not tell them."""
        if tokens <= 0:
            return
        elapsed_s = max(0.0, now_s - self._moved_s)
        if self._tokens == 0:
            # No gap is known yet; what the first token took is more than one, so that the limit errs to patience.
            self._gap_s = elapsed_s
        else:
            gap_s = elapsed_s / tokens
            # As if each of the tokens had come after the same gap.
            kept = (1.0 - _NEWEST_WEIGHT) ** tokens
            self._gap_s = kept * self._gap_s + (1.0 - kept) * gap_s
        self._tokens += tokens
        self._moved_s = now_s

    @property
    def limit_s(self) -> float:
        """Seconds of silence allowed now."""
        if self._tokens:
            usual_s = self.limits.between_gaps * self._gap_s
            return min(max(self.limits.between_s, usual_s), self.limits.between_cap_s)
        rate = self.prefill_tokens_per_s or self.limits.assumed_prefill_tokens_per_s
        left = max(0, self.prompt_tokens - self._prefilled_tokens)
        return min(self.limits.first_s + self.limits.slowness * left / rate, self.limits.first_cap_s)

    def verdict(self, now_s: float) -> Verdict:
        silent_s = now_s - self._moved_s
        limit_s = self.limit_s
        if silent_s < limit_s:
            return Waiting(due_in_s=limit_s - silent_s)
        if self._tokens:
            what = f"no further token after {self._tokens}"
        elif self._prefilled_tokens:
            what = f"stood still after {self._prefilled_tokens} of {self.prompt_tokens} prompt tokens"
        else:
            what = f"no first token for a prompt of {self.prompt_tokens}"
        return Hung(reason=f"{what}: silent for {silent_s:.0f} s, {limit_s:.0f} s are allowed")
