"""Who has been given how much lately: each user's debt in tokens, which halves with time and decides who is next.

A user who comes back is placed where those are who were served last: what it saved up does not count, and what it used
before counts for one of its jobs at most. So whoever asks once is served after one job of each other active user,
however many requests those have waiting (start-time fair queueing, Goyal et al. 1996, on debts as VTC keeps them,
Sheng et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chorus_proto.clock import Clock

PROMPT_TOKEN_SHARE = 0.1
"""What reading a token of the prompt counts beside writing one: PCs read 10 to 30 times as fast as they write."""

JOB_TOKENS = 256.0
"""One job, before any was seen; about the mean answer and a tenth of the mean prompt of chat traces."""

_JOB_WEIGHT = 0.05
_REBASE_AFTER_HALVES = 60.0
_FORGET_BELOW_TOKENS = 1.0
_FORGET_ABOVE_USERS = 10_000


def job_tokens(prompt_tokens: float, answer_tokens: float) -> float:
    """What a request counts. `prompt_tokens` are those that no cache held."""
    return PROMPT_TOKEN_SHARE * prompt_tokens + answer_tokens


@dataclass(slots=True)
class _Account:
    debt: float = 0.0
    """In tokens of the time `Debts._base_s`."""
    last_job: float = 0.0
    """Tokens."""


class Debts:
    """Of every user that was served lately, in tokens, divided by the user's share."""

    def __init__(self, clock: Clock, *, half_life_s: float, shares: Mapping[str, float] | None = None) -> None:
        """`shares`: users who get more or less than one share."""
        self._clock = clock
        self._half_life_s = half_life_s
        self._shares = dict(shares or {})
        self._base_s = clock.monotonic_s()
        # Later tokens count for more, by `_growth`, so that no old debt has to be touched to decay.
        self._accounts: dict[str, _Account] = {}
        self._charges = 0
        self._served_at = 0.0
        """The debt at which somebody was served last; nobody begins to wait with a smaller one."""
        self.job = JOB_TOKENS
        """An average job; grows and shrinks with what is charged."""

    def _growth(self) -> float:
        halves = (self._clock.monotonic_s() - self._base_s) / self._half_life_s
        if halves < _REBASE_AFTER_HALVES:
            return 2.0**halves
        shrink = 2.0 ** -min(halves, 1000.0)
        for account in self._accounts.values():
            account.debt *= shrink
        self._served_at *= shrink
        self._base_s = self._clock.monotonic_s()
        return 1.0

    def _account(self, user: str) -> _Account:
        return self._accounts.get(user) or _Account()

    def __len__(self) -> int:
        """Users that are remembered."""
        return len(self._accounts)

    def of(self, user: str) -> float:
        """Tokens, as of now."""
        return self._account(user).debt / self._growth()

    def of_all(self, users: Iterable[str]) -> dict[str, float]:
        growth = self._growth()
        return {user: self._account(user).debt / growth for user in users}

    def job_of(self, user: str) -> float:
        """By how much one average job changes the user's debt."""
        return self.job / self._shares.get(user, 1.0)

    def charge(self, user: str, tokens: float) -> None:
        """The user is given `tokens`, before they are written."""
        self._charges += 1
        self.job += max(_JOB_WEIGHT, 1 / self._charges) * (tokens - self.job)
        growth = self._growth()
        account = self._accounts.setdefault(user, _Account())
        self._served_at = max(self._served_at, account.debt)
        account.last_job = tokens
        account.debt += tokens * growth / self._shares.get(user, 1.0)
        if len(self._accounts) > _FORGET_ABOVE_USERS:
            self._forget()

    def correct(self, user: str, tokens: float) -> None:
        """What was charged turned out to be so much more, or less when negative."""
        growth = self._growth()
        account = self._accounts.setdefault(user, _Account())
        account.last_job = max(0.0, account.last_job + tokens)
        account.debt = max(0.0, account.debt + tokens * growth / self._shares.get(user, 1.0))

    def join(self, user: str) -> None:
        """The user has something to wait for again."""
        growth = self._growth()
        account = self._accounts.setdefault(user, _Account())
        most = self._served_at + account.last_job * growth / self._shares.get(user, 1.0)
        account.debt = min(max(account.debt, self._served_at), most)

    def _forget(self) -> None:
        least = self._served_at + _FORGET_BELOW_TOKENS * self._growth()
        self._accounts = {user: account for user, account in self._accounts.items() if account.debt >= least}
