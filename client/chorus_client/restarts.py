"""When to start a crashed engine again. Pure: the caller brings the time and the random number.

A crash is answered by a restart after 1, 2, 4 … 60 s. Five crashes within ten minutes are a crash loop: then one
probe every ten minutes, until one stays up that long or somebody asks for another try.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from chorus_proto import backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRules:
    first_s: float = backoff.FIRST_S
    last_s: float = backoff.LAST_S
    jitter: tuple[float, float] = backoff.JITTER
    good_after_s: float = 600.0
    """An engine that ran this long has no past."""
    loop_crashes: int = 5
    loop_within_s: float = 600.0
    probe_every_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStart:
    """When to start again, in seconds from the crash. `crash_loop`: the model counts as failed, this is a probe."""

    after_s: float
    crash_loop: bool
    crashes: int
    """Crashes since the engine was last good."""


@dataclass(slots=True)
class Restarts:
    """The crashes of one engine. Tell `started` and `crashed`; start again when `crashed` says."""

    rules: RestartRules = field(default_factory=RestartRules)
    _started_s: float | None = None
    _crashes_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=64))
    _failures: int = 0
    _crash_loop: bool = False

    @property
    def crash_loop(self) -> bool:
        return self._crash_loop

    def started(self, now_s: float) -> None:
        """The engine answers since `now_s`."""
        self._started_s = now_s

    def crashed(self, now_s: float, chance: float) -> NextStart:
        """The engine died, hung and was killed, or did not come up. `chance` is a random number in 0-1."""
        if self._started_s is not None and now_s - self._started_s >= self.rules.good_after_s:
            self.retry_now()
        self._started_s = None
        self._failures += 1
        self._crashes_s.append(now_s)
        recent = sum(1 for crash_s in self._crashes_s if now_s - crash_s <= self.rules.loop_within_s)
        self._crash_loop = self._crash_loop or recent >= self.rules.loop_crashes
        if self._crash_loop:
            return NextStart(after_s=self.rules.probe_every_s, crash_loop=True, crashes=self._failures)
        low, high = self.rules.jitter
        pause_s = backoff.delay_s(
            self._failures - 1,
            first_s=self.rules.first_s,
            last_s=self.rules.last_s,
            jitter=low + (high - low) * chance,
        )
        return NextStart(after_s=pause_s, crash_loop=False, crashes=self._failures)

    def good(self, now_s: float) -> bool:
        """Whether the engine has run long enough for its crashes to be forgotten; forgets them then."""
        if self._started_s is None or now_s - self._started_s < self.rules.good_after_s:
            return False
        self.retry_now()
        return True

    def retry_now(self) -> None:
        """Forget every crash, e.g. because a person asked for another try; the caller starts the engine at once."""
        self._failures = 0
        self._crash_loop = False
        self._crashes_s.clear()
