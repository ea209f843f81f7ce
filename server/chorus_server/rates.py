"""How fast one model runs on one node, learnt from its finished requests.

A decode step of B streams over C tokens of context in all takes base + stream * B + context * C seconds, and reading n
prompt tokens that no cache holds takes prompt_base + n * prompt_token seconds. The affine step fits llama.cpp's batched
benchmarks on Metal and CUDA (pull requests 16894, 17505) within a few per cent, which one average over whatever batch
sizes happened to run does not.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeGuard

from chorus_server.fitting import Fit

GPU_STREAM_SHARE = 0.12
"""What each further stream adds to a step, as a share of the step for one; 7-8B models, Metal and CUDA: 0.05-0.17."""

CPU_STREAM_SHARE = 0.5
"""On a CPU a batch of four buys 19 % in all (llama.cpp issue 3478, 8 vCPU)."""

CONTEXT_SHARE = 2.5e-5
"""What each token of context adds, as a share of the step for one: the KV cache of 7-8B models beside their weights."""

PROMPT_BASE_TOKENS = 16.0
"""The time before the first batch of a prompt is at work, in tokens read meanwhile."""

USUAL_CONTEXT_TOKENS = 512
USUAL_PROMPT_TOKENS = 512
"""Where one number has to stand for the whole line."""

LEAST_ANSWER_TOKENS = 4
LEAST_PROMPT_TOKENS = 16
FULL_WEIGHT_TOKENS = 32
"""Shorter answers and prompts say less, very short ones nothing but the clock's grain."""


class Speeds(NamedTuple):
    """The coefficients, in seconds."""

    base_s: float
    stream_s: float
    context_s: float
    prompt_base_s: float
    prompt_token_s: float

    def step_s(self, streams: float, context_tokens: float) -> float:
        """One token of each of `streams`, whose contexts hold so many tokens together."""
        return self.base_s + self.stream_s * streams + self.context_s * context_tokens

    def prompt_s(self, tokens: float) -> float:
        return self.prompt_base_s + self.prompt_token_s * tokens


def speeds_of(
    prefill_tokens_per_s: float, decode_tokens_per_s: float, stream_share: float = GPU_STREAM_SHARE
) -> Speeds:
    """From the two numbers that are known before anything was measured; the decode rate is of one stream."""
    step_s = 1 / decode_tokens_per_s
    stream_s = step_s * stream_share
    return Speeds(step_s - stream_s, stream_s, step_s * CONTEXT_SHARE, 0.0, 1 / prefill_tokens_per_s)


class Rates:
    """Of one model on one node. Rates of a stream that runs alone; None before anything was measured."""

    def __init__(
        self,
        decode_tokens_per_s: float | None = None,
        prefill_tokens_per_s: float | None = None,
        samples: int = 0,
        changed: bool = False,
        *,
        stream_share: float = GPU_STREAM_SHARE,
    ) -> None:
        """With what an earlier run measured; `changed`: it is to be saved."""
        self._steps = Fit((1 - stream_share, stream_share, CONTEXT_SHARE))
        self._prompts = Fit((PROMPT_BASE_TOKENS, 1.0, 0.0))
        self.samples = 0
        self.decode_tokens_per_s: float | None = None
        self.prefill_tokens_per_s: float | None = None
        self.speeds: Speeds | None = None
        """None until both a prompt and an answer have been measured."""
        self.learn(decode_tokens_per_s, prefill_tokens_per_s)
        self.samples = samples
        self.changed = changed

    def learn(
        self,
        decode_tokens_per_s: float | None,
        prefill_tokens_per_s: float | None,
        *,
        streams: float = 1.0,
        context_tokens: float | None = None,
        answer_tokens: int | None = None,
        prompt_tokens: int | None = None,
    ) -> None:
        """A request finished at these rates. `streams`: how many ran on average while it wrote, itself included;
        `context_tokens`: of one of them, half way; `prompt_tokens`: that were read, not those in the cache."""
        if _is_rate(decode_tokens_per_s) and (answer_tokens is None or answer_tokens >= LEAST_ANSWER_TOKENS):
            context = USUAL_CONTEXT_TOKENS if context_tokens is None else context_tokens
            at_once = max(1.0, streams)
            self._steps.observe(
                (1.0, at_once, at_once * context), 1 / decode_tokens_per_s, weight=_weight(answer_tokens)
            )
        if _is_rate(prefill_tokens_per_s) and (prompt_tokens is None or prompt_tokens >= LEAST_PROMPT_TOKENS):
            tokens = USUAL_PROMPT_TOKENS if prompt_tokens is None else prompt_tokens
            self._prompts.observe(
                (1.0, float(tokens), 0.0), tokens / prefill_tokens_per_s, weight=_weight(prompt_tokens)
            )
        self.samples += 1
        self.changed = True
        self._work_out()

    def _work_out(self) -> None:
        """Here and not when they are read, because every request reads them of every node."""
        steps, prompts = self._steps.coefficients, self._prompts.coefficients
        self.speeds = None if steps is None or prompts is None else Speeds(*steps, *prompts[:2])
        step_s = self._steps.predict((1.0, 1.0, float(USUAL_CONTEXT_TOKENS)))
        self.decode_tokens_per_s = 1 / step_s if step_s else None
        prompt_s = self._prompts.predict((1.0, float(USUAL_PROMPT_TOKENS), 0.0))
        self.prefill_tokens_per_s = USUAL_PROMPT_TOKENS / prompt_s if prompt_s else None


def _is_rate(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and value > 0


def _weight(tokens: int | None) -> float:
    return 1.0 if tokens is None else min(1.0, tokens / FULL_WEIGHT_TOKENS)
