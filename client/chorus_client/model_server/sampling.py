"""Chooses the next token of several generations at once from the model's scores.

The order is llama.cpp's and vLLM's: bias and penalties, what is allowed, temperature, top-k, top-p, then one draw.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

_GREEDY_BELOW = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRules:
    """How one generation chooses. `seed` None: a fresh one. `never`: tokens that must not come."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    never: tuple[int, ...] = ()


@dataclass(slots=True)
class Sampler:
    """The state of one generation's choices."""

    rules: SamplingRules
    counts: Counter[int] = field(default_factory=Counter[int])
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.rules.seed)

    @property
    def greedy(self) -> bool:
        return self.rules.temperature < _GREEDY_BELOW

    def draw(self) -> float:
        """In [0, 1). One for each token, whoever else is in the batch: the same seed gives the same answer."""
        return self._random.random()

    def adjust(self, row: Tensor, allowed: Tensor | None) -> None:
        """Change this generation's scores in place; `allowed` is a mask over the vocabulary."""
        rules = self.rules
        for token, bias in rules.logit_bias:
            row[token] += bias
        if self.counts and (rules.presence_penalty or rules.frequency_penalty):
            tokens = torch.tensor(list(self.counts), device=row.device)
            times = torch.tensor(list(self.counts.values()), device=row.device, dtype=row.dtype)
            row[tokens] -= rules.presence_penalty + rules.frequency_penalty * times
        if rules.never:
            row[list(rules.never)] = -torch.inf
        if allowed is not None:
            row.masked_fill_(~allowed.to(row.device), -torch.inf)

    def took(self, token: int) -> None:
        if self.rules.presence_penalty or self.rules.frequency_penalty:
            self.counts[token] += 1


def pick(scores: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """One token for each row of `scores` (generations, vocabulary), float32, already adjusted."""
    best = scores.argmax(dim=-1)
    drawn = [row for row, sampler in enumerate(samplers) if not sampler.greedy]
    if not drawn:
        return _listed(best)
    rules = [samplers[row].rules for row in drawn]
    draws = [samplers[row].draw() for row in drawn]
    whole = len(drawn) == len(samplers)
    wanted = scores if whole else scores[drawn]
    chosen = _drawn(wanted, rules, draws)
    if whole:
        return _listed(chosen)
    best[drawn] = chosen
    return _listed(best)


def _listed(tokens: Tensor) -> list[int]:
    return cast("list[int]", tokens.tolist())  # pyright: ignore[reportUnknownMemberType] - torch does not say of what


def _drawn(scores: Tensor, rules: Sequence[SamplingRules], draws: Sequence[float]) -> Tensor:
    device = scores.device
    temperature = torch.tensor([[rule.temperature] for rule in rules], device=device)
    probabilities = torch.softmax(scores / temperature, dim=-1)
    order: Tensor | None = None
    if any(rule.top_p < 1.0 or rule.top_k for rule in rules):
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        top_p = torch.tensor([[rule.top_p] for rule in rules], device=device)
        top_k = torch.tensor([[rule.top_k or scores.shape[-1]] for rule in rules], device=device)
        before = probabilities.cumsum(dim=-1) - probabilities
        ranks = torch.arange(scores.shape[-1], device=device)
        # The best one always stays: nothing comes before it.
        probabilities = probabilities.masked_fill((before >= top_p) | (ranks >= top_k), 0.0)
    reached = probabilities.cumsum(dim=-1)
    aim = torch.tensor([[draw] for draw in draws], device=device) * reached[:, -1:]
    index = torch.searchsorted(reached, aim, right=True).clamp_(max=scores.shape[-1] - 1)
    # Rounding may end one past the last possible token.
    impossible = probabilities.gather(1, index) <= 0
    index = torch.where(impossible, probabilities.argmax(dim=-1, keepdim=True), index)
    if order is not None:
        index = order.gather(1, index)
    return index.squeeze(1)
