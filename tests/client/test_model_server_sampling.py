"""How the next token is chosen; on scores made by hand."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest

from chorus_client.engines.transformers import missing

if missing():
    pytest.skip("needs the extra transformers", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch warns of itself
    import torch

from chorus_client.model_server.sampling import Sampler, SamplingRules, pick

SCORES = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def drawn(rules: SamplingRules, times: int = 400) -> Counter[int]:
    sampler = Sampler(rules)
    return Counter(pick(SCORES.repeat(1, 1), [sampler])[0] for _ in range(times))


def test_temperature_zero_takes_the_best() -> None:
    assert drawn(SamplingRules(temperature=0.0)) == {0: 400}


def test_draws_follow_the_probabilities() -> None:
    found = drawn(SamplingRules(seed=1), 4000)
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(found[token] / 4000 - share) < 0.03


@pytest.mark.parametrize(
    ("rules", "possible"),
    [
        (SamplingRules(top_p=0.79, seed=2), {0, 1}),
        (SamplingRules(top_p=0.81, seed=2), {0, 1, 2}),
        (SamplingRules(top_p=0.01, seed=2), {0}),
        (SamplingRules(top_k=3, seed=2), {0, 1, 2}),
        (SamplingRules(top_k=1, temperature=2.0, seed=2), {0}),
        (SamplingRules(top_k=3, top_p=0.6, seed=2), {0, 1}),
    ],
)
def test_top_p_and_top_k_leave_the_best_only(rules: SamplingRules, possible: set[int]) -> None:
    assert set(drawn(rules)) == possible


def test_the_same_seed_draws_the_same_whoever_else_is_in_the_batch() -> None:
    alone, together = Sampler(SamplingRules(seed=5)), Sampler(SamplingRules(seed=5))
    others = [Sampler(SamplingRules(temperature=0.0)), Sampler(SamplingRules(seed=9, top_p=0.9))]
    scores = SCORES.repeat(3, 1)
    for _ in range(50):
        assert pick(SCORES.repeat(1, 1), [alone])[0] == pick(scores, [others[0], together, others[1]])[1]


def test_bias_penalties_and_masks_change_the_scores() -> None:
    row = torch.zeros(4)
    sampler = Sampler(SamplingRules(logit_bias=((1, 5.0),), presence_penalty=1.0, frequency_penalty=0.5, never=(3,)))
    for token in (2, 2, 0):
        sampler.took(token)
    sampler.adjust(row, torch.tensor([True, True, True, True]))
    assert torch.equal(row, torch.tensor([-1.5, 5.0, -2.0, -torch.inf]))
    sampler.adjust(row, torch.tensor([True, False, True, True]))
    assert row[1] == -torch.inf


def test_only_what_is_allowed_can_be_drawn() -> None:
    for seed in range(200):
        row = SCORES.clone()
        sampler = Sampler(SamplingRules(seed=seed, temperature=2.0))
        sampler.adjust(row, torch.tensor([False, False, True, False]))
        assert pick(row.unsqueeze(0), [sampler]) == [2]
