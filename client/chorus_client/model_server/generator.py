"""The loop that computes: each turn reads a piece of one waiting prompt, then gives every running answer one token."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import msgspec
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from chorus_client.model_server.detokenize import AnswerText
from chorus_client.model_server.frames import Cancel, Ended, Event, Prefilled, Refused, Said
from chorus_client.model_server.lanes import Lanes
from chorus_client.model_server.sampling import Sampler, pick
from chorus_proto.errors import EngineFailed

_PROMPT_TOKENS_A_TURN = {"cpu": 128}
_PROMPT_TOKENS_A_TURN_ELSEWHERE = 1024
"""A long prompt keeps the running answers waiting for one such piece, and a cancelled one ends after it."""

_encode = msgspec.json.Encoder().encode


class Computes(Protocol):
    """The model's forward pass, as `model.TextModel` has it."""

    @property
    def device(self) -> torch.device: ...

    def new_cache(self) -> Cache: ...

    def scores(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache) -> Tensor: ...


class AnswerGrammar(Protocol):
    """What may come next, as `constrained.Grammar` tells."""

    @property
    def complete(self) -> bool: ...

    def allowed(self) -> Tensor: ...

    def took(self, token: int) -> None: ...


@dataclass(slots=True, kw_only=True)
class Job:
    """One prepared generation. `logprobs`: None, or how many alternatives of each token are told."""

    number: int
    prompt: list[int]
    most_tokens: int
    sampler: Sampler
    text: AnswerText
    end_tokens: frozenset[int]
    grammar: AnswerGrammar | None = None
    logprobs: int | None = None
    token_bytes: Callable[[int], bytes] = lambda token: b""
    opens_thought: bool = False

    read: int = 0
    """Tokens of the prompt that are computed."""
    cache: Cache | None = None
    last: int = 0
    made: int = 0
    unsaid: int = 0
    entries: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    began_s: float = 0.0
    read_s: float = 0.0


Incoming: TypeAlias = Job | Cancel | Refused
"""What other threads put into the inbox. Jobs and refusals come in the order of their numbers."""


class Generator:
    """Owns all computing state; everything here runs on the one thread that calls `run`.

    `inbox` is bounded by its feeder: the server lets only so many generations in. None in it ends the loop.
    """

    def __init__(
        self, model: Computes, inbox: queue.SimpleQueue[Incoming | None], emit: Callable[[list[Event]], None]
    ) -> None:
        self._model = model
        self._inbox = inbox
        self._emit = emit
        self._lanes = Lanes(model.device)
        self._reading: deque[Job] = deque()
        self._running: list[Job] = []
        self._cancelled: set[int] = set()
        self._events: list[Event] = []
        self._piece = _PROMPT_TOKENS_A_TURN.get(model.device.type, _PROMPT_TOKENS_A_TURN_ELSEWHERE)

    def run(self) -> None:
        """Compute until None comes in."""
        with torch.inference_mode():
            while self._take_in():
                self._read_a_piece()
                self._answer_a_token()
                self._flush()

    def _flush(self) -> None:
        if self._events:
            self._emit(self._events)
            self._events = []

    def _take_in(self) -> bool:
        """What came since the last turn; waits when there is nothing else to do. False: the end."""
        while True:
            self._flush()
            try:
                incoming = self._inbox.get(block=not self._reading and not self._running)
            except queue.Empty:
                return True
            if incoming is None:
                return False
            self._take(incoming)

    def _take(self, incoming: Incoming) -> None:
        number = incoming.number
        if isinstance(incoming, Cancel):
            self._cancel(number)
            return
        cancelled = number in self._cancelled
        # Whatever came before this one can be cancelled no more.
        self._cancelled = {later for later in self._cancelled if later > number}
        if isinstance(incoming, Refused):
            self._events.append(incoming)
        elif cancelled:
            self._events.append(Ended(number=number, finish_reason="cancelled"))
        else:
            incoming.began_s = time.perf_counter()
            self._reading.append(incoming)

    def _cancel(self, number: int) -> None:
        for job in self._reading:
            if job.number == number:
                self._reading.remove(job)
                self._end(job, "cancelled")
                return
        for job in self._running:
            if job.number == number:
                self._end(job, "cancelled")
                self._keep([one for one in self._running if one is not job])
                return
        self._cancelled.add(number)

    def _read_a_piece(self) -> None:
        if not self._reading:
            return
        job = self._reading[0]
        cache = job.cache = job.cache or self._model.new_cache()
        end = min(job.read + self._piece, len(job.prompt))
        device = self._model.device
        tokens = torch.tensor([job.prompt[job.read : end]], device=device)
        positions = torch.arange(job.read, end, device=device).unsqueeze(0)
        scores = self._model.scores(tokens, positions, None, cache)
        job.read = end
        self._events.append(Prefilled(job.number, end, len(job.prompt), job.opens_thought))
        if end < len(job.prompt):
            # Others may wait behind a long prompt with a short one.
            self._reading.rotate(-1)
            return
        self._reading.popleft()
        job.read_s = time.perf_counter()
        if self._chosen([job], scores):
            self._lanes.join(cache, end)
            self._running.append(job)
        job.cache = None

    def _answer_a_token(self) -> None:
        if not self._running:
            return
        jobs = self._running
        tokens = torch.tensor([[job.last] for job in jobs], device=self._model.device)
        positions, mask = self._lanes.next_inputs()
        scores = self._model.scores(tokens, positions, mask, self._lanes.cache)
        going_on = self._chosen(jobs, scores)
        if len(going_on) < len(jobs):
            self._keep(going_on)

    def _keep(self, jobs: list[Job]) -> None:
        self._lanes.keep([lane for lane, job in enumerate(self._running) if job in jobs])
        self._running = jobs

    def _chosen(self, jobs: Sequence[Job], scores: Tensor) -> list[Job]:
        """Give each job its next token; those that go on."""
        told = {row: torch.log_softmax(scores[row], dim=-1) for row, job in enumerate(jobs) if job.logprobs is not None}
        failed: dict[int, EngineFailed] = {}
        for row, job in enumerate(jobs):
            try:
                job.sampler.adjust(scores[row], job.grammar.allowed() if job.grammar else None)
            except EngineFailed as failure:
                failed[job.number] = failure
        tokens = pick(scores, [job.sampler for job in jobs])
        going_on: list[Job] = []
        for row, (job, token) in enumerate(zip(jobs, tokens, strict=True)):
            try:
                if failure := failed.get(job.number):
                    raise failure
                reason = self._took(job, token, told.get(row))
            except EngineFailed as failure:
                self._events.append(Refused(number=job.number, code=failure.code, message=failure.message))
                continue
            if reason is None:
                going_on.append(job)
            else:
                self._end(job, reason)
        return going_on

    def _took(self, job: Job, token: int, told: Tensor | None) -> str | None:
        """Note the token; the finish reason when it ends the answer."""
        job.last = token
        job.made += 1
        if token in job.end_tokens:
            return "stop"
        job.sampler.took(token)
        if job.grammar is not None:
            job.grammar.took(token)
        if told is not None:
            job.entries.append(_logprobs(told, token, job.logprobs or 0, job.token_bytes))
        job.unsaid += 1
        if text := job.text.feed(token):
            self._say(job, text)
        if job.text.stopped or (job.grammar is not None and job.grammar.complete):
            return "stop"
        return "length" if job.made >= job.most_tokens else None

    def _say(self, job: Job, text: str) -> None:
        logprobs = None
        if job.logprobs is not None:
            logprobs = _encode({"content": job.entries, "refusal": None})
            job.entries = []
        self._events.append(Said(job.number, text, job.unsaid, logprobs))
        job.unsaid = 0

    def _end(self, job: Job, reason: str) -> None:
        if reason != "cancelled" and ((rest := job.text.end()) or (job.entries and not job.text.stopped)):
            self._say(job, rest)
        now_s = time.perf_counter()
        self._events.append(
            Ended(
                number=job.number,
                finish_reason=reason,
                met=job.text.met,
                prompt_tokens=len(job.prompt),
                completion_tokens=job.made,
                prompt_s=(job.read_s or now_s) - job.began_s,
                completion_s=now_s - job.read_s if job.read_s else 0.0,
            )
        )


def _logprobs(told: Tensor, token: int, alternatives: int, token_bytes: Callable[[int], bytes]) -> dict[str, object]:
    """One entry of OpenAI's `logprobs.content`: the model's own distribution, before bias, grammar or temperature."""

    def entry(one: int, value: float) -> dict[str, object]:
        raw = token_bytes(one)
        return {"token": raw.decode("utf-8", "replace"), "logprob": max(value, -9999.0), "bytes": list(raw)}

    found = entry(token, float(told[token]))
    best = torch.topk(told, alternatives) if alternatives else None
    found["top_logprobs"] = (
        [entry(int(one), float(value)) for value, one in zip(best.values, best.indices, strict=True)] if best else []
    )
    return found
