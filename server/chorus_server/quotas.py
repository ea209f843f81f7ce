"""Tokens of a day: how many the callers of each key had read and written, and when that is enough. A day is UTC's."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from chorus_proto.clock import Clock
from chorus_proto.cluster import AskEvent, CallEvent, CallFinished, CallOutput, MemberAnswer
from chorus_proto.errors import RateLimitExceeded
from chorus_proto.keys import ApiKey, KeyId

DAY_S = 86_400.0


class Bill:
    """What one request costs its key."""

    def __init__(self, prompt_tokens_estimate: int) -> None:
        self._estimate = prompt_tokens_estimate
        self._written = 0
        self._told: int | None = None

    @property
    def tokens(self) -> int:
        """As its engine counted them; of an answer that broke off, what was shown and what the prompt looked like."""
        if self._told is not None:
            return self._told
        return self._written + self._estimate if self._written else 0

    def note(self, event: CallEvent | AskEvent) -> None:
        match event:
            case CallOutput(tokens=tokens):
                self._written += tokens
            case CallFinished(usage=usage):
                self._told = usage.prompt_tokens + usage.completion_tokens
            case MemberAnswer(usage=usage):
                self._told = (self._told or 0) + usage.prompt_tokens + usage.completion_tokens
            case _:
                pass


class Quotas:
    """The day's tokens of every key."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: dict[KeyId, tuple[int, int]] = {}
        self._unsaved: set[KeyId] = set()

    def remember(self, spent: Mapping[KeyId, tuple[int, int]]) -> None:
        """Key -> (day, tokens), as `unsaved` gave them out."""
        self._spent = dict(spent)

    def unsaved(self) -> dict[KeyId, tuple[int, int]]:
        """What changed since the last call."""
        changed, self._unsaved = self._unsaved, set()
        return {key_id: self._spent[key_id] for key_id in changed}

    def today(self, key_id: KeyId) -> int:
        day, tokens = self._spent.get(key_id, (0, 0))
        return tokens if day == self._day() else 0

    @contextmanager
    def billed(self, key: ApiKey | None, *, prompt_tokens_estimate: int) -> Generator[Bill]:
        """Put down what is noted on the bill to `key`. Raises RateLimitExceeded when its day's tokens are spent."""
        if key is not None and key.tokens_per_day is not None and self.today(key.key_id) >= key.tokens_per_day:
            raise RateLimitExceeded(
                f"The {key.tokens_per_day} tokens that this API key has for a day are spent.",
                retry_after_s=DAY_S - self._clock.unix_s() % DAY_S,
            )
        bill = Bill(prompt_tokens_estimate)
        try:
            yield bill
        finally:
            if key is not None and bill.tokens:
                self._spent[key.key_id] = (self._day(), self.today(key.key_id) + bill.tokens)
                self._unsaved.add(key.key_id)

    def _day(self) -> int:
        return int(self._clock.unix_s() // DAY_S)
