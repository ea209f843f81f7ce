"""The least squares find a machine's real step from nothing but rates and batch sizes."""

from __future__ import annotations

import random

import pytest

from chorus_server.fitting import CHANGED_AFTER, SETTLED_AFTER, Fit
from chorus_server.rates import CPU_STREAM_SHARE, GPU_STREAM_SHARE, Rates, Speeds, speeds_of

REAL = Speeds(base_s=0.0162, stream_s=0.0009, context_s=0.45e-6, prompt_base_s=0.02, prompt_token_s=1 / 1700)
"""Of an RTX 3060 with an 8B model."""


def teach(rates: Rates, real: Speeds, count: int, chance: random.Random, *, noise: float = 0.05) -> None:
    for _ in range(count):
        streams, context, prompt = chance.uniform(1, 4), chance.randrange(100, 3000), chance.randrange(20, 2000)
        step_s = real.step_s(streams, streams * context) * chance.lognormvariate(0, noise)
        prompt_s = real.prompt_s(prompt) * chance.lognormvariate(0, noise)
        rates.learn(
            1 / step_s,
            prompt / prompt_s,
            streams=streams,
            context_tokens=context,
            answer_tokens=200,
            prompt_tokens=prompt,
        )


def worst_ratio(found: Speeds, real: Speeds) -> float:
    points = [(1, 200), (1, 3000), (4, 1200), (4, 8000)]
    ratios = [found.step_s(*point) / real.step_s(*point) for point in points]
    ratios += [found.prompt_s(tokens) / real.prompt_s(tokens) for tokens in (200, 500, 2000)]
    return max(max(ratio, 1 / ratio) for ratio in ratios)


def test_a_hundred_requests_teach_the_step_and_the_prompt_within_a_tenth() -> None:
    rates = Rates()
    teach(rates, REAL, 100, random.Random(1))
    assert rates.speeds is not None
    assert worst_ratio(rates.speeds, REAL) < 1.1


def test_rates_are_of_one_stream_however_many_ran_when_they_were_measured() -> None:
    rates = Rates()
    for _ in range(30):
        step_s = REAL.step_s(4, 4 * 512)
        rates.learn(1 / step_s, 1000.0, streams=4, context_tokens=512, answer_tokens=200, prompt_tokens=512)
    assert rates.decode_tokens_per_s == pytest.approx(1 / REAL.step_s(1, 512), rel=0.3)
    assert rates.decode_tokens_per_s is not None and rates.decode_tokens_per_s > 1 / REAL.step_s(4, 2048)


def test_one_request_is_taken_at_its_word_with_the_usual_proportions() -> None:
    rates = Rates(50.0, 800.0)
    assert rates.decode_tokens_per_s == pytest.approx(50)
    assert rates.prefill_tokens_per_s == pytest.approx(800)
    assert rates.speeds is not None
    usual = speeds_of(800.0, 50.0)
    assert rates.speeds.stream_s == pytest.approx(usual.stream_s, rel=0.05)


def test_a_batch_helps_little_on_a_cpu_and_much_on_a_gpu_until_it_is_measured() -> None:
    gpu, cpu = Rates(10.0, 100.0, stream_share=GPU_STREAM_SHARE), Rates(10.0, 100.0, stream_share=CPU_STREAM_SHARE)
    assert gpu.speeds is not None and cpu.speeds is not None
    assert cpu.speeds.step_s(4, 0) > 1.5 * gpu.speeds.step_s(4, 0)


def test_answers_of_a_token_and_rates_that_are_none_teach_nothing() -> None:
    rates = Rates()
    for value in (None, 0.0, -1.0, float("nan"), float("inf")):
        rates.learn(value, value, answer_tokens=100, prompt_tokens=100)
    rates.learn(5000.0, 5000.0, answer_tokens=1, prompt_tokens=3)
    assert (rates.decode_tokens_per_s, rates.prefill_tokens_per_s, rates.speeds) == (None, None, None)


def test_a_single_slow_answer_changes_nothing_and_a_slower_machine_is_believed_after_a_few() -> None:
    rates = Rates()
    teach(rates, REAL, 50, random.Random(2), noise=0.01)
    before = rates.decode_tokens_per_s
    rates.learn(3.0, None, streams=1, context_tokens=512, answer_tokens=200)
    assert rates.decode_tokens_per_s == before
    half = Speeds(*(2 * value for value in REAL))
    teach(rates, half, CHANGED_AFTER + 2, random.Random(3), noise=0.01)
    assert rates.speeds is not None
    assert worst_ratio(rates.speeds, half) < 1.2


def test_the_fit_follows_a_slow_drift_without_setting_anything_aside() -> None:
    fit = Fit((0.9, 0.1, 0.0))
    for number in range(300):
        assert fit.observe((1.0, 2.0, 0.0), 1.0 + number / 300)
    assert fit.set_aside == 0
    found = fit.predict((1.0, 2.0, 0.0))
    assert found == pytest.approx(2.0, rel=0.15)


def test_no_coefficient_turns_negative_and_what_was_never_varied_keeps_its_proportion() -> None:
    fit = Fit((0.5, 0.5, 0.0))
    for streams in (1.0, 4.0) * SETTLED_AFTER:
        fit.observe((1.0, streams, 0.0), 2.0 - 0.1 * streams)
    assert fit.coefficients is not None
    assert min(fit.coefficients) >= 0
    flat = Fit((3.0, 1.0, 0.0))
    for _ in range(20):
        flat.observe((1.0, 1.0, 0.0), 8.0)
    assert flat.coefficients == pytest.approx((6.0, 2.0, 0.0))
