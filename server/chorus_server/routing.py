"""Which replica takes a request. Decisions are functions of frozen values; only the turn-taking strategies remember.

The default, expected finish, adds up in seconds what a choice costs everybody: the wait, the load and the reading until
the request's own first token, the standstill of the streams that run there while its prompt is read, and the slower
steps of all of them together while it is answered. It is the usual predicted-latency cost for unequal machines with an
affine batch step (compare llm-d's and Dynamo's routers), reduced to what the coordinator knows for certain: its own
count of running work, speeds measured at the nodes, and the beginnings of prompts that they were given. It is one file
because every strategy is compared with the others by who reads it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import RoutingStrategy
from chorus_server.rates import GPU_STREAM_SHARE, Speeds, speeds_of

DECODE_TOKENS_PER_S = 10.0
PREFILL_TOKENS_PER_S = 100.0
"""Assumed of a PC of score 60 as long as nothing has been measured anywhere."""

PROMPTS_TOGETHER_S = 0.25
"""No further prompt goes to a replica that is expected to read for longer than this; it may yet go elsewhere."""

HELD_SHARE = 0.5
"""A busy replica is worth waiting for when it has so much of the prompt already ..."""
WAIT_SHARE = 0.8
"""... and the first token comes within so much of the time that is left for it."""

MEASURED_ARE_ENOUGH = 31
"""Nodes whose measurements tell how the others compare with their scores."""

CREDITS_LIMIT = 100_000

NO_FREE_SLOT = "no free slot"


class Candidate(NamedTuple):
    """A ready replica as routing sees it. Rates are of one stream, measured there; None until a request finished.

    A named tuple, like all here that is made for every node at every request.
    """

    node_id: NodeId
    node_name: str
    model: ModelName
    slots: int
    slots_busy: int
    waiting: int = 0
    """Requests that are bound to it and have no slot."""
    score: float = 0.0
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    speeds: Speeds | None = None
    context_tokens: float = 0.0
    """Of the streams that run there, together."""
    tokens_left: float | None = None
    """That they are expected to write yet, together; None assumes each is half way."""
    prompts_s: float = 0.0
    """Until the prompts that were given to it are read."""
    incarnation: int = 0
    stream_share: float = GPU_STREAM_SHARE
    cache_tokens: int = 16_384
    """That its caches hold."""
    weight: float = 1.0
    """It is preferred as if it were so many times as fast as it is."""

    @property
    def is_open(self) -> bool:
        return self.slots_busy < self.slots and self.prompts_s <= PROMPTS_TOGETHER_S


class Need(NamedTuple):
    """What routing must know of a request. `affinity` keeps equal values on one node under the sticky strategy."""

    prompt_tokens: int
    expected_tokens: int = 190
    affinity: str | None = None
    blocks: tuple[int, ...] = ()
    """Of its prompt, see `prefixes`."""
    urgent: bool = True
    """Somebody waits for the first token; else only the end counts."""


class Costs(NamedTuple):
    """Expected seconds: for the request until its first token (`wait_s`, `prompt_s`) and from there to its end
    (`answer_s`), and for the streams that run there already: standing still (`stop_s`), and writing slower (`slow_s`).
    """

    wait_s: float
    prompt_s: float
    answer_s: float
    stop_s: float
    slow_s: float
    urgent: bool

    @property
    def cost_s(self) -> float:
        """What is to be least. A first token that somebody waits for weighs ten times a later one, and three times
        as much for every one who has to stop for it: of some 45 mixtures tried on other traces, the one that kept most
        requests within 2 s to the first token and 100 ms for each later one."""
        if self.urgent:
            return self.wait_s + self.prompt_s + 3 * self.stop_s + 0.1 * (self.answer_s + self.slow_s)
        return self.wait_s + self.prompt_s + self.stop_s + self.answer_s + self.slow_s

    def __str__(self) -> str:
        return (
            f"wait {self.wait_s:.2f} s + prompt {self.prompt_s:.2f} s, answer {self.answer_s:.2f} s,"
            f" delay of others {self.stop_s + self.slow_s:.2f} s"
        )


class Ranked(NamedTuple):
    """One candidate's place. `cost_s` is None where the strategy has no notion of seconds."""

    candidate: Candidate
    cost_s: float | None
    because: Costs | str

    @property
    def reason(self) -> str:
        """For people; put together only when somebody asks, because routing itself never does."""
        return self.because if isinstance(self.because, str) else str(self.because)


@dataclass(frozen=True, slots=True)
class Decision:
    """The replica to use, None when none has a free slot or a busy one is worth waiting for; all candidates from best
    to worst."""

    chosen: Candidate | None
    ranking: tuple[Ranked, ...]
    strategy: RoutingStrategy


class Held(NamedTuple):
    """How much of one prompt the replicas have, in tokens, by incarnation."""

    tokens: Mapping[int, float] = {}
    left_s: float = 0.0
    """Time left until its first token is late."""


NOTHING_HELD = Held()

_Ranker = Callable[[list[Candidate], "_Pace", Need, Held], list[Ranked]]


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

    def choose(
        self, strategy: RoutingStrategy, candidates: Sequence[Candidate], need: Need, held: Held = NOTHING_HELD
    ) -> Candidate | None:
        """The replica to use, all being of one model; None as in `Decision`. Ties go to the smallest node id.

        Counts as that replica's turn, so ask only when the choice will be used.
        """
        if strategy is RoutingStrategy.EXPECTED_FINISH or (
            strategy is RoutingStrategy.STICKY and need.affinity is None
        ):
            return _least_cost(candidates, need, held)
        chosen = self.rank(strategy, candidates, need, held).chosen
        if chosen is not None:
            self._took(strategy, candidates, chosen)
        return chosen

    def rank(
        self, strategy: RoutingStrategy, candidates: Sequence[Candidate], need: Need, held: Held = NOTHING_HELD
    ) -> Decision:
        """What `choose` would choose, and how the others compare; nobody's turn."""
        by_id = sorted(candidates, key=_node_id)
        free = [candidate for candidate in by_id if _has_slot(candidate)]
        ranking = self._rankers[strategy](free, _Pace(by_id), need, held) if free else []
        if len(free) < len(by_id):
            ranking += [Ranked(full, None, NO_FREE_SLOT) for full in by_id if full.slots_busy >= full.slots]
        by_cost = bool(ranking) and ranking[0].cost_s is not None
        best = _least_cost(candidates, need, held) if by_cost else ranking[0].candidate if free else None
        return Decision(best, tuple(ranking), strategy)

    def _took(self, strategy: RoutingStrategy, candidates: Sequence[Candidate], chosen: Candidate) -> None:
        if strategy is RoutingStrategy.ROUND_ROBIN:
            self._last[chosen.model] = chosen.node_id
        elif strategy is RoutingStrategy.WEIGHTED:
            if len(self._credit) > CREDITS_LIMIT:
                self._credit.clear()
            pace = _Pace(candidates)
            weights = {
                (one.model, one.node_id): one.weight * pace.decode_tokens_per_s(one)
                for one in candidates
                if _has_slot(one)
            }
            for key, weight in weights.items():
                self._credit[key] = self._credit.get(key, 0.0) + weight
            self._credit[chosen.model, chosen.node_id] -= sum(weights.values())

    def _by_turn(self, free: list[Candidate], _pace: _Pace, _need: Need, _held: Held) -> list[Ranked]:
        """The next larger node id than the last one, so that nodes may come and go without upsetting the order."""
        last = self._last.get(free[0].model, "")
        turn = [candidate for candidate in free if candidate.node_id > last]
        turn += [candidate for candidate in free if candidate.node_id <= last]
        return [Ranked(candidate, None, f"turn {place}") for place, candidate in enumerate(turn, 1)]

    def _by_chance(self, free: list[Candidate], _pace: _Pace, _need: Need, _held: Held) -> list[Ranked]:
        return [Ranked(candidate, None, "chance") for candidate in self._chance.sample(free, len(free))]

    def _by_weighted_turn(self, free: list[Candidate], pace: _Pace, _need: Need, _held: Held) -> list[Ranked]:
        """Smooth weighted round robin (nginx, commit 52327e0): shares follow speed times weight, without bursts."""
        credits = [
            (self._credit.get((one.model, one.node_id), 0.0) + one.weight * pace.decode_tokens_per_s(one), one)
            for one in free
        ]
        credits.sort(key=_credit, reverse=True)
        return [Ranked(candidate, None, f"credit {credit:.1f} tokens/s") for credit, candidate in credits]


def _has_slot(candidate: Candidate) -> bool:
    return candidate.slots_busy < candidate.slots


def _node_id(candidate: Candidate) -> str:
    return candidate.node_id


def _credit(entry: tuple[float, Candidate]) -> float:
    return entry[0]


def _cost(ranked: Ranked) -> float:
    return math.inf if ranked.cost_s is None else ranked.cost_s


def _least_cost(candidates: Sequence[Candidate], need: Need, held: Held) -> Candidate | None:
    """The open replica of least cost, unless a busy one that knows the prompt will cost less and still be in time.

    It adds up as `expected_costs` and `Costs.cost_s` do, without making values of the sums: every request pays this for
    every node.
    """
    pace: _Pace | None = None
    best: Candidate | None = None
    best_s = math.inf
    held_tokens, left_s = held
    prompt_tokens, answer_tokens, _, _, urgent = need
    enough_tokens = HELD_SHARE * prompt_tokens
    own_context = prompt_tokens + answer_tokens / 2
    stop_weight, rest_weight = (3.0, 0.1) if urgent else (1.0, 1.0)
    unread_tokens, has_tokens = float(prompt_tokens), 0.0
    for one in candidates:
        _, _, _, slots, busy, waiting, _, _, _, speeds, context_tokens, left_tokens, prompts_s, incarnation, _, _, w = (
            one
        )
        if held_tokens:
            has_tokens = held_tokens.get(incarnation, 0.0)
            unread_tokens = max(0.0, prompt_tokens - has_tokens)
        is_open = busy < slots and prompts_s <= PROMPTS_TOGETHER_S
        if not is_open and (not slots or not has_tokens or has_tokens < enough_tokens):
            continue
        if speeds is None:
            if pace is None:
                pace = _Pace(candidates)
            speeds = pace.speeds(one)
        base_s, stream_s, context_s, prompt_base_s, prompt_token_s = speeds
        streams = busy if busy < slots else slots - 1
        prompt_s = prompt_base_s + unread_tokens * prompt_token_s
        answer_s = answer_tokens * (base_s + stream_s * (streams + 1) + context_s * (context_tokens + own_context))
        first_s = prompts_s + waiting * prompt_s + prompt_s
        ahead = busy + waiting + 1 - slots
        if ahead > 0:
            first_s += ahead * answer_s / slots
        if left_tokens is None:
            left_tokens = streams * answer_tokens / 2
        slow_s = left_tokens * (stream_s + context_s * own_context)
        cost_s = (first_s + stop_weight * streams * prompt_s + rest_weight * (answer_s + slow_s)) / w
        if cost_s > best_s or (not is_open and first_s > WAIT_SHARE * left_s):
            continue
        if cost_s < best_s or (best is not None and one[0] < best[0]):
            best, best_s = one, cost_s
    return best if best is not None and best.is_open else None


def _by_expected_finish(free: list[Candidate], pace: _Pace, need: Need, held: Held) -> list[Ranked]:
    ranking: list[Ranked] = []
    for candidate in free:
        costs = expected_costs(candidate, need, pace.speeds(candidate), held.tokens.get(candidate.incarnation, 0.0))
        ranking.append(Ranked(candidate, costs.cost_s / candidate.weight, costs))
    ranking.sort(key=_cost)
    return ranking


def expected_costs(candidate: Candidate, need: Need, speeds: Speeds, held_tokens: float = 0.0) -> Costs:
    """What giving the request to this replica now costs, in seconds, where it has `held_tokens` of the prompt."""
    # When a full one takes it, somebody has left.
    busy = min(candidate.slots_busy, max(0, candidate.slots - 1))
    base_s, stream_s, context_s, prompt_base_s, prompt_token_s = speeds
    prompt_s = prompt_base_s + max(0.0, need.prompt_tokens - held_tokens) * prompt_token_s
    # The context grows while it writes: half of the answer is there on average.
    own_context = need.prompt_tokens + need.expected_tokens / 2
    step_s = base_s + stream_s * (busy + 1) + context_s * (candidate.context_tokens + own_context)
    answer_s = need.expected_tokens * step_s
    ahead = max(0, candidate.slots_busy + candidate.waiting + 1 - candidate.slots)
    wait_s = candidate.prompts_s + candidate.waiting * prompt_s
    if ahead:
        wait_s += ahead * answer_s / max(1, candidate.slots)
    left = candidate.tokens_left
    if left is None:
        left = busy * need.expected_tokens / 2
    # A prompt is read while the streams of the batch stand still; afterwards each of their tokens takes longer.
    slow_s = left * (stream_s + context_s * own_context)
    return Costs(wait_s, prompt_s, answer_s, busy * prompt_s, slow_s, need.urgent)


def prompt_s(candidate: Candidate, need: Need, held_tokens: float) -> float:
    """Expected seconds of reading the prompt there; 0 as long as nothing was measured, because nobody is to wait for a
    guess."""
    if candidate.speeds is None:
        return 0.0
    return candidate.speeds.prompt_s(max(0.0, need.prompt_tokens - held_tokens))


def _by_connections(free: list[Candidate], _pace: _Pace, _need: Need, _held: Held) -> list[Ranked]:
    by_load = sorted(free, key=lambda candidate: candidate.slots_busy + candidate.waiting)
    return [Ranked(one, None, f"{one.slots_busy + one.waiting} of {one.slots} slots busy") for one in by_load]


def _by_affinity(free: list[Candidate], pace: _Pace, need: Need, held: Held) -> list[Ranked]:
    """Rendezvous hashing (Thaler and Ravishankar 1998): a node that goes moves only the keys it had."""
    if need.affinity is None:
        return _by_expected_finish(free, pace, need, held)
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
        prefill: list[float] = []
        decode: list[float] = []
        for _, _, _, _, _, _, score, reads, writes, *_ in candidates:
            if reads and writes:
                promised = promised_speed(score)
                prefill.append(reads / promised)
                decode.append(writes / promised)
                if len(decode) == MEASURED_ARE_ENOUGH:
                    break
        self._prefill_ratio = _median(prefill) or PREFILL_TOKENS_PER_S
        self._decode_ratio = _median(decode) or DECODE_TOKENS_PER_S

    def speeds(self, candidate: Candidate) -> Speeds:
        _, _, _, _, _, _, score, reads, writes, known, _, _, _, _, share, _, _ = candidate
        if known is not None:
            return known
        if reads is None and writes is None:
            return _speeds_of_score(score, self._prefill_ratio, self._decode_ratio, share)
        return speeds_of(self.prefill_tokens_per_s(candidate), self.decode_tokens_per_s(candidate), share)

    def prefill_tokens_per_s(self, candidate: Candidate) -> float:
        return candidate.prefill_tokens_per_s or self._prefill_ratio * promised_speed(candidate.score)

    def decode_tokens_per_s(self, candidate: Candidate) -> float:
        return candidate.decode_tokens_per_s or self._decode_ratio * promised_speed(candidate.score)


def _median(ratios: list[float]) -> float | None:
    """Of an even number the upper one of the two in the middle."""
    return sorted(ratios)[len(ratios) // 2] if ratios else None


@lru_cache(maxsize=4096)
def _speeds_of_score(score: float, prefill_ratio: float, decode_ratio: float, stream_share: float) -> Speeds:
    promised = promised_speed(score)
    return speeds_of(prefill_ratio * promised, decode_ratio * promised, stream_share)


@lru_cache(maxsize=4096)
def promised_speed(score: float) -> float:
    """Speed beside a PC of score 60, for the same model: the inverse of the score's definition in `scoring`.

    The score's base is the largest model that a PC runs at 10 tokens/s and reads at 100 tokens/s: 3e9 parameters at
    score 60, 8e9 at 80, 70e9 at 100; speed on one model is proportional to that size.
    """
    if score <= 80:
        return math.exp((score - 60) / 20 * math.log(8 / 3))
    return 8 / 3 * math.exp((score - 80) / 20 * math.log(70 / 8))
