"""How answers are weighed against each other, and when enough of them have come. Pure.

A vote of PCs of unequal ability with equal votes is worse than the best of them alone, so a vote counts as the
log-odds of its model being right (Nitzan and Paroush, "Optimal decision rules in uncertain dichotomous choice
situations", 1982; here for `choices` possible answers). Asking ends when no later answer can change the outcome, or
when a Beta test says that the leader leads for good (Aggarwal et al., "Let's sample step by step: adaptive-
consistency", arXiv 2305.11860).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHOICES = 4
"""Answers that a question is taken to have where nobody says: wrong ones gather on a few attractive mistakes."""
SURE = 0.95
"""Probability that the leader leads for good, at which asking ends."""
MARGIN = 0.05
"""A model must be so much better than chance to have a vote."""
_LEAST, _MOST = 0.01, 0.99


@dataclass(frozen=True, slots=True)
class Ballot:
    """One answer: what it means (see `aggregate.meaning`) and what it counts."""

    meaning: str
    weight: float


def weights_of(qualities: Sequence[float], choices: int = CHOICES) -> list[float]:
    """What the vote of each model counts; `qualities` are the shares of its answers that are right, 0-1.

    ln(p (choices - 1) / (1 - p)), 0 for one hardly better than chance. Where nobody is better than chance, each
    counts by its quality, so that there is an outcome.
    """
    found = [_log_odds(quality, choices) for quality in qualities]
    return found if any(found) else [max(quality, _LEAST) for quality in qualities]


def _log_odds(quality: float, choices: int) -> float:
    p = min(_MOST, max(_LEAST, quality))
    return math.log(p * (choices - 1) / (1 - p)) if p >= 1 / choices + MARGIN else 0.0


def tally(ballots: Iterable[Ballot]) -> list[tuple[str, float]]:
    """Meanings and what they got, most first; equals in the order in which they came."""
    sums: dict[str, float] = {}
    for ballot in ballots:
        sums[ballot.meaning] = sums.get(ballot.meaning, 0.0) + ballot.weight
    return sorted(sums.items(), key=lambda item: -item[1])


def disagreement(ballots: Sequence[Ballot], winner: str) -> float:
    """Share of the votes, by weight, that are not for `winner`, 0-1; 0 without any votes."""
    total = sum(ballot.weight for ballot in ballots)
    won = sum(ballot.weight for ballot in ballots if ballot.meaning == winner)
    return max(0.0, 1 - won / total) if total > 0 else 0.0


def decided(ballots: Sequence[Ballot], outstanding: Sequence[float]) -> bool:
    """Whether the outcome stands, with votes of these weights `outstanding`."""
    if not ballots:
        return False
    if not outstanding:
        return True
    ranking = tally(ballots)
    leader = ranking[0][1]
    second = ranking[1][1] if len(ranking) > 1 else 0.0
    if leader - second > sum(outstanding):
        return True
    # The test counts votes; these are counted in votes of the usual weight.
    usual = (sum(ballot.weight for ballot in ballots) + sum(outstanding)) / (len(ballots) + len(outstanding))
    if usual <= 0:
        return False
    return beta_above_half(leader / usual + 1, second / usual + 1) > SURE


def fewest_to_decide(ballots: Sequence[Ballot], asked: Sequence[float], waiting: Sequence[float]) -> int:
    """How many of `waiting` must be asked, in their order, for the outcome to be decided if all agree with the leader.

    `asked` are the weights of those who have been asked and have not answered.
    """
    ranking = tally(ballots)
    leader = ranking[0][0] if ranking else ""
    for more in range(len(waiting) + 1):
        hoped = [Ballot(leader, weight) for weight in (*asked, *waiting[:more])]
        if decided([*ballots, *hoped], waiting[more:]):
            return more
    return len(waiting)


def beta_above_half(a: float, b: float) -> float:
    """P(x > 1/2) for x of a Beta(a, b) distribution; a, b >= 1."""
    return regularised_beta(b, a, 0.5)


def regularised_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), by its continued fraction (Lentz's method; DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - regularised_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d, fraction = 1.0, 0.0, 1.0
    for step in range(400):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        fraction *= c * d
        if step and abs(1 - c * d) < 1e-12:
            break
    return front * (fraction - 1)
