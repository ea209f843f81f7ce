"""Which replica takes a request. Decisions are functions of frozen values; only the turn-taking strategies remember.

The default, expected finish, adds up in seconds what a choice costs everybody: the wait for a slot, reading the prompt
and writing the answer there, and how much longer the generations running there will take because of it. It is the
usual predicted-latency cost for unequal machines with an affine batch step (compare llm-d's and Dynamo's routers),
reduced to what the coordinator knows for certain: its own count of running work and speeds measured at the nodes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from statistics import median
from typing import NamedTuple

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import RoutingStrategy

BATCH_SLOWDOWN = 0.12
"""How much longer a decode step takes for each further stream in it, as a share of the step for one.

llama.cpp's batched benchmarks, 7-8B on Metal and CUDA, lie between 0.05 and 0.17 (pull requests 16894, 17505).
"""

DECODE_TOKENS_PER_S = 10.0
PREFILL_TOKENS_PER_S = 100.0
"""Assumed of a PC of score 60 as long as nothing has been measured anywhere."""

CREDITS_LIMIT = 100_000

NO_FREE_SLOT = "no free slot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A ready replica as routing sees it. Rates are of one stream, measured there; None until a request finished."""

    node_id: NodeId
    node_name: str
    model: ModelName
    slots: int
    slots_busy: int
    waiting: int = 0
    score: float = 0.0
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    running_tokens_left: float | None = None
    """Tokens that the generations running there are still expected to write; None assumes each is half way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What routing must know of a request. `affinity` keeps equal values on one node under the sticky strategy."""

    prompt_tokens: int
    expected_tokens: int = 190
    affinity: str | None = None


class Costs(NamedTuple):
    """Expected seconds, for the request itself and (`imposed_s`) for all who run on the replica already."""

    wait_s: float
    prefill_s: float
    decode_s: float
    imposed_s: float

    def __str__(self) -> str:
        return (
            f"wait {self.wait_s:.2f} s + prompt {self.prefill_s:.2f} s + answer {self.decode_s:.2f} s"
            f" + delay of others {self.imposed_s:.2f} s"
        )


class Ranked(NamedTuple):
    """One candidate's place. `cost_s` is None where the strategy has no notion of seconds.

    A named tuple, like `Costs`, because a hundred are made for every request.
    """

    candidate: Candidate
    cost_s: float | None
    because: Costs | str

    @property
    def reason(self) -> str:
        """For people; put together only when somebody asks, because routing itself never does."""
        return self.because if isinstance(self.because, str) else str(self.because)


@dataclass(frozen=True, slots=True)
class Decision:
    """The replica to use, None when none has a free slot, and all candidates from best to worst."""

    chosen: Candidate | None
    ranking: tuple[Ranked, ...]
    strategy: RoutingStrategy


_Ranker = Callable[[list[Candidate], "_Pace", Need], list[Ranked]]


class Router:
    """Chooses by any strategy. Whose turn it is (round robin, weighted) is counted per model and kept here."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._last: dict[ModelName, NodeId] = {}
        self._credit: dict[tuple[ModelName, NodeId], float] = {}
        self._rankers: dict[RoutingStrategy, _Ranker] = {
            RoutingStrategy.EXPECTED_FINISH: _by_expected_finish,
            RoutingStrategy.ROUND_ROBIN: self._by_turn,
            RoutingStrategy.LEAST_CONNECTIONS: _by_connections,
            RoutingStrategy.RANDOM: self._by_chance,
            RoutingStrategy.WEIGHTED: self._by_weighted_turn,
            RoutingStrategy.STICKY: _by_affinity,
        }

    def choose(self, strategy: RoutingStrategy, candidates: Sequence[Candidate], need: Need) -> Decision:
        """Rank the candidates, all replicas of one model; the first with a free slot is chosen.

        Counts as that replica's turn, so ask only when the choice will be used. Ties go to the smallest node id.
        """
        by_id = sorted(candidates, key=_node_id)
        free = [candidate for candidate in by_id if candidate.slots_busy < candidate.slots]
        if not free:
            return Decision(None, tuple(Ranked(candidate, None, NO_FREE_SLOT) for candidate in by_id), strategy)
        ranking = self._rankers[strategy](free, _Pace(by_id), need)
        if len(free) < len(by_id):
            ranking += [Ranked(full, None, NO_FREE_SLOT) for full in by_id if full.slots_busy >= full.slots]
        return Decision(ranking[0].candidate, tuple(ranking), strategy)

    def _by_turn(self, free: list[Candidate], _pace: _Pace, _need: Need) -> list[Ranked]:
        """The next larger node id than the last one, so that nodes may come and go without upsetting the order."""
        model = free[0].model
        last = self._last.get(model, "")
        turn = [candidate for candidate in free if candidate.node_id > last]
        turn += [candidate for candidate in free if candidate.node_id <= last]
        self._last[model] = turn[0].node_id
        return [Ranked(candidate, None, f"turn {place}") for place, candidate in enumerate(turn, 1)]

    def _by_chance(self, free: list[Candidate], _pace: _Pace, _need: Need) -> list[Ranked]:
        return [Ranked(candidate, None, "chance") for candidate in self._chance.sample(free, len(free))]

    def _by_weighted_turn(self, free: list[Candidate], pace: _Pace, _need: Need) -> list[Ranked]:
        """Smooth weighted round robin (nginx, commit 52327e0): shares follow the decode speed, without bursts."""
        if len(self._credit) > CREDITS_LIMIT:
            self._credit.clear()
        total = 0.0
        credits: list[tuple[float, Candidate]] = []
        for candidate in free:
            weight = pace.decode_tokens_per_s(candidate)
            total += weight
            key = (candidate.model, candidate.node_id)
            self._credit[key] = credit = self._credit.get(key, 0.0) + weight
            credits.append((credit, candidate))
        credits.sort(key=_credit, reverse=True)
        chosen = credits[0][1]
        self._credit[chosen.model, chosen.node_id] -= total
        return [Ranked(candidate, None, f"credit {credit:.1f} tokens/s") for credit, candidate in credits]


def _node_id(candidate: Candidate) -> str:
    return candidate.node_id


def _credit(entry: tuple[float, Candidate]) -> float:
    return entry[0]


def _cost(ranked: Ranked) -> float:
    return math.inf if ranked.cost_s is None else ranked.cost_s


def _by_expected_finish(free: list[Candidate], pace: _Pace, need: Need) -> list[Ranked]:
    ranking: list[Ranked] = []
    for candidate in free:
        costs = expected_costs(
            candidate, need, pace.prefill_tokens_per_s(candidate), pace.decode_tokens_per_s(candidate)
        )
        ranking.append(Ranked(candidate, costs.wait_s + costs.prefill_s + costs.decode_s + costs.imposed_s, costs))
    ranking.sort(key=_cost)
    return ranking


def expected_costs(candidate: Candidate, need: Need, prefill_tokens_per_s: float, decode_tokens_per_s: float) -> Costs:
    """What giving the request to this replica now costs, in seconds, at these rates of a single stream."""
    busy = candidate.slots_busy
    token_s = 1 / decode_tokens_per_s
    prefill_s = need.prompt_tokens / prefill_tokens_per_s
    decode_s = need.expected_tokens * token_s * (1 + BATCH_SLOWDOWN * busy)
    ahead = max(0, busy + candidate.waiting + 1 - candidate.slots)
    wait_s = ahead * decode_s / candidate.slots + candidate.waiting * prefill_s
    left = candidate.running_tokens_left
    if left is None:
        left = busy * need.expected_tokens / 2
    # A prompt is read while the streams of the batch stand still; afterwards each of their tokens takes longer.
    imposed_s = busy * prefill_s + left * token_s * BATCH_SLOWDOWN
    return Costs(wait_s, prefill_s, decode_s, imposed_s)


def _by_connections(free: list[Candidate], _pace: _Pace, _need: Need) -> list[Ranked]:
    by_load = sorted(free, key=lambda candidate: candidate.slots_busy + candidate.waiting)
    return [Ranked(one, None, f"{one.slots_busy + one.waiting} of {one.slots} slots busy") for one in by_load]


def _by_affinity(free: list[Candidate], pace: _Pace, need: Need) -> list[Ranked]:
    """Rendezvous hashing (Thaler and Ravishankar 1998): a node that goes moves only the keys it had."""
    if need.affinity is None:
        return _by_expected_finish(free, pace, need)
    hashed = blake2b(need.affinity.encode(errors="surrogatepass"), digest_size=16)

    def weight(candidate: Candidate) -> bytes:
        own = hashed.copy()
        own.update(candidate.node_id.encode())
        return own.digest()

    by_hash = sorted(free, key=weight, reverse=True)
    return [Ranked(candidate, None, f"place {place} for this affinity") for place, candidate in enumerate(by_hash, 1)]


class _Pace:
    """Rates of every candidate: measured where known, else what the score promises.

    The score speaks of whichever model the PC runs comfortably, the measurements of this one; the median ratio of the
    two over the measured candidates turns the promise into a fair guess, so that a new node is tried neither never
    nor always.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._prefill_ratio = median(
            [one.prefill_tokens_per_s / promised_speed(one.score) for one in candidates if one.prefill_tokens_per_s]
            or [PREFILL_TOKENS_PER_S]
        )
        self._decode_ratio = median(
            [one.decode_tokens_per_s / promised_speed(one.score) for one in candidates if one.decode_tokens_per_s]
            or [DECODE_TOKENS_PER_S]
        )

    def prefill_tokens_per_s(self, candidate: Candidate) -> float:
        return candidate.prefill_tokens_per_s or self._prefill_ratio * promised_speed(candidate.score)

    def decode_tokens_per_s(self, candidate: Candidate) -> float:
        return candidate.decode_tokens_per_s or self._decode_ratio * promised_speed(candidate.score)


@lru_cache(maxsize=4096)
def promised_speed(score: float) -> float:
    """Speed beside a PC of score 60, for the same model: the inverse of the score's definition in `scoring`.

    The score's base is the largest model that a PC runs at 10 tokens/s and reads at 100 tokens/s: 3e9 parameters at
    score 60, 8e9 at 80, 70e9 at 100; speed on one model is proportional to that size.
    """
    if score <= 80:
        return math.exp((score - 60) / 20 * math.log(8 / 3))
    return 8 / 3 * math.exp((score - 80) / 20 * math.log(70 / 8))
