"""Whether a request does better to wait for a fast PC that is full than to take the free slot of a slow one.

An empty slot is lost work, so it stays empty only while nobody would gain by it: neither this request nor, when all
who wait go to the fast PCs one after the other, the last of them. Such a threshold on the queue's length is the best
policy for servers of unequal speed (Lin and Kumar 1984, the slow-server problem); here it follows from the speeds that
were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from chorus_server.rates import Speeds
from chorus_server.routing import WAIT_SHARE, Candidate, Held, Need

SOONER_SHARE = 0.8
"""The fast one must be done within so much of the time that the free one needs: both are expectations."""

READING_STEP_S = 0.1
"""Who gets a token each tenth of a second can read along: then the first token is not put off beyond its time."""


class Better(NamedTuple):
    """What is worth waiting for."""

    node_name: str
    free_in_s: float


def better_later(
    free: Candidate, candidates: Sequence[Candidate], need: Need, held: Held, *, others: int, may_wait_s: float
) -> Better | None:
    """What to wait for instead of taking the slot of `free`, the best open one; None: take it.

    `others`: how many more requests wait. `may_wait_s`: how long this one may yet wait. Nobody waits for a guess: only
    replicas whose speeds were measured count.
    """
    if free.speeds is None:
        return None
    step_s, prompt_s = _step_and_prompt_s(free, free.speeds, free.slots_busy + 1, need, held)
    free_s = (free.prompts_s + prompt_s + need.expected_tokens * step_s) / free.weight
    longest_s = SOONER_SHARE * min(may_wait_s, free_s)  # it looks again while it may still take the free slot
    if need.urgent and step_s <= READING_STEP_S and held.left_s > 0:
        longest_s = min(longest_s, WAIT_SHARE * held.left_s)
    best: Better | None = None
    best_s = math.inf
    turns_per_s = 0.0
    for one in candidates:
        if one.speeds is None or not one.slots or one.slots_busy < one.slots:
            continue
        step_s, prompt_s = _step_and_prompt_s(one, one.speeds, one.slots, need, held)
        run_s = prompt_s + need.expected_tokens * step_s
        if run_s >= SOONER_SHARE * free_s * one.weight:
            continue
        turns_per_s += one.slots / run_s
        wait_s = one.prompts_s + _first_end_s(one, step_s, need)
        if wait_s + prompt_s <= longest_s and (wait_s + run_s) / one.weight < best_s:
            best, best_s = Better(one.node_name, wait_s), (wait_s + run_s) / one.weight
    if best is None or best_s + others / turns_per_s > SOONER_SHARE * free_s:
        return None
    return best


def _step_and_prompt_s(one: Candidate, speeds: Speeds, streams: int, need: Need, held: Held) -> tuple[float, float]:
    """Seconds for a token of each of so many streams, and for reading the prompt."""
    context_tokens = one.context_tokens + need.prompt_tokens + need.expected_tokens / 2
    unread_tokens = max(0.0, need.prompt_tokens - held.tokens.get(one.incarnation, 0.0))
    return speeds.step_s(streams, context_tokens), speeds.prompt_s(unread_tokens)


def _first_end_s(one: Candidate, step_s: float, need: Need) -> float:
    """Until the first of its streams ends, when what they have left is spread evenly from nothing to twice the mean."""
    left_tokens = one.tokens_left
    if left_tokens is None:
        left_tokens = one.slots_busy * need.expected_tokens / 2
    return 2 * left_tokens / (one.slots_busy * (one.slots_busy + 1)) * step_s
