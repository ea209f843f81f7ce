"""Synthetic requests: conversations with shared beginnings, generated for each client, and plain sets of jobs.

Lengths are log-normal and arrivals Gamma with a coefficient of variation of 2, as measured traces have them; a turn's
prompt is the whole conversation so far, so that most of it is cached where the last turn ran.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import count

from bench.sim_engine import BLOCK_TOKENS

SYSTEM_PROMPTS = 12
_blocks = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: when it comes, of whom, and what it is. `blocks` name the prompt's text, 64 tokens each."""

    at_s: float
    user: str
    prompt_tokens: int
    answer_tokens: int
    blocks: tuple[int, ...]
    answer_blocks: tuple[int, ...] = ()
    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of conversations. `rate` is in requests a second, of all clients together."""

    users: int
    rate: float
    seconds: float
    turns: float = 3.5
    think_s: float = 20.0
    system_tokens: int = 900
    turn_log: tuple[float, float] = (4.4, 1.0)
    answer_log: tuple[float, float] = (5.1, 0.85)
    cv: float = 2.0
    burst: tuple[float, float, float] | None = None
    """From second, until second, so many times as many."""


def _text(tokens: int) -> tuple[int, ...]:
    return tuple(next(_blocks) for _ in range(tokens // BLOCK_TOKENS))


def conversations(shape: Shape, chance: random.Random) -> list[Ask]:
    """In the order in which they come."""
    systems = [_text(shape.system_tokens) for _ in range(SYSTEM_PROMPTS)]
    weights = [1 / (rank + 1) for rank in range(SYSTEM_PROMPTS)]
    asks: list[Ask] = []
    each_s = shape.users * shape.turns / shape.rate
    for number in range(shape.users):
        at_s = chance.uniform(0, each_s)
        while at_s < shape.seconds:
            asks += _session(shape, chance, f"user-{number}", at_s, chance.choices(systems, weights)[0])
            at_s += _gap_s(shape, chance, at_s, each_s)
    asks.sort(key=lambda ask: ask.at_s)
    return [ask for ask in asks if ask.at_s < shape.seconds]


def _gap_s(shape: Shape, chance: random.Random, at_s: float, each_s: float) -> float:
    """Gamma with the mean `each_s`."""
    gap_s = chance.gammavariate(1 / shape.cv**2, each_s * shape.cv**2)
    if shape.burst is not None and shape.burst[0] <= at_s < shape.burst[1]:
        return gap_s / shape.burst[2]
    return gap_s


def _session(shape: Shape, chance: random.Random, user: str, at_s: float, system: tuple[int, ...]) -> list[Ask]:
    asks: list[Ask] = []
    blocks = system
    tokens = shape.system_tokens
    turns = 1 + int(math.log(1 - chance.random()) / math.log(1 - 1 / shape.turns))
    for _ in range(min(turns, 30)):
        turn = max(4, int(chance.lognormvariate(*shape.turn_log)))
        answer = min(2000, max(4, int(chance.lognormvariate(*shape.answer_log))))
        tokens += turn
        if tokens > 6000:
            break
        blocks += _text(turn)
        answer_blocks = _text(answer)
        asks.append(
            Ask(
                at_s=at_s,
                user=user,
                prompt_tokens=tokens,
                answer_tokens=answer,
                blocks=blocks,
                answer_blocks=answer_blocks,
            )
        )
        tokens += answer
        blocks += answer_blocks
        at_s += chance.expovariate(1 / shape.think_s) + answer * 0.02
    return asks


def jobs(number: int, chance: random.Random, *, background: bool = True, mean_tokens: int = 200) -> list[Ask]:
    """All at once, with nothing in common."""
    found: list[Ask] = []
    for _ in range(number):
        prompt = max(8, int(chance.lognormvariate(5.5, 0.8)))
        answer = max(4, int(chance.lognormvariate(math.log(mean_tokens) - 0.32, 0.8)))
        found.append(
            Ask(
                at_s=0.0,
                user="jobs",
                prompt_tokens=prompt,
                answer_tokens=answer,
                blocks=_text(prompt),
                background=background,
            )
        )
    return found
