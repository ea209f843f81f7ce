"""Makes a job out of a request: prompt tokens, sampling rules, grammar. Runs beside the computing thread."""

from __future__ import annotations

import random
import traceback

from chorus_client.model_server.constrained import Grammars
from chorus_client.model_server.detokenize import AnswerText
from chorus_client.model_server.frames import Begin, Refused
from chorus_client.model_server.generator import Job
from chorus_client.model_server.model import LoadedText, StreamDecoder
from chorus_client.model_server.prompts import Prompts
from chorus_client.model_server.sampling import Sampler, SamplingRules
from chorus_client.thinking.think_tags import OPENING
from chorus_proto.errors import ClusterError, EngineFailed, InvalidRequest
from chorus_proto.generation import Generation

_CONTEXT_FOR_DECODING = 8
"""Tokens before the answer that some decoders need, to know whether a space begins it."""


class Preparation:
    """For one loaded model."""

    def __init__(self, loaded: LoadedText, *, context_tokens: int, keep_special: bool) -> None:
        self._loaded = loaded
        self._context_tokens = context_tokens
        self._keep_special = keep_special
        self._tokenizer = loaded.tokenizer.backend_tokenizer
        self._prompts = Prompts(loaded.tokenizer, context_tokens=context_tokens, table=loaded.model.table)
        self._grammars = Grammars(self._tokenizer, vocabulary=loaded.model.vocabulary, end_tokens=loaded.end_tokens)

    def job(self, begin: Begin) -> Job | Refused:
        """The job, or why there is none."""
        try:
            return self._job(begin)
        except ClusterError as error:
            return Refused(number=begin.number, code=error.code, message=error.message, param=error.param)
        except Exception as error:  # noqa: BLE001 - an edge: foreign code, reached by what callers send
            traceback.print_exc()
            words = f"the request could not be prepared: {type(error).__name__}"
            return Refused(number=begin.number, code=EngineFailed.code, message=words)

    def _job(self, begin: Begin) -> Job:
        asked = begin.generation
        rules = self._rules(asked, begin.top_k)
        prompt = self._prompts.tokens(
            asked, reasoning=begin.reasoning, developer_instructions=begin.developer_instructions
        )
        room = self._context_tokens - len(prompt)
        # A chat's answer begins a text of its own; only a raw completion goes on with one.
        context = prompt[-_CONTEXT_FOR_DECODING:] if asked.messages is None else ()
        decoder = StreamDecoder(self._tokenizer, keep_special=self._keep_special, context=context)
        if asked.logprobs is not None:
            self._grammars.token_bytes(0)  # reads a large vocabulary, which would hold up the computing thread
        grammar = self._grammars.of_response_format(asked.response_format) if asked.response_format else None
        return Job(
            number=begin.number,
            prompt=prompt,
            most_tokens=min(asked.max_tokens, room) if asked.max_tokens is not None else room,
            sampler=Sampler(rules),
            text=AnswerText(decoder, asked.stop),
            end_tokens=frozenset(self._loaded.end_tokens),
            grammar=grammar,
            logprobs=asked.logprobs,
            token_bytes=self._grammars.token_bytes,
            opens_thought=self._tokenizer.decode(prompt[-_CONTEXT_FOR_DECODING:], skip_special_tokens=False)
            .rstrip()
            .endswith(OPENING),
        )

    def _rules(self, asked: Generation, top_k: int | None) -> SamplingRules:
        defaults = self._loaded.defaults
        bias = tuple((int(token), value) for token, value in (asked.logit_bias or {}).items())
        if any(token >= self._loaded.model.vocabulary for token, _ in bias):
            raise InvalidRequest(
                f"Invalid 'logit_bias': the model has the tokens 0 to {self._loaded.model.vocabulary - 1}.",
                param="logit_bias",
            )
        return SamplingRules(
            temperature=defaults.temperature if asked.temperature is None else asked.temperature,
            top_p=defaults.top_p if asked.top_p is None else asked.top_p,
            top_k=defaults.top_k if top_k is None else top_k,
            presence_penalty=asked.presence_penalty or 0.0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            logit_bias=bias,
            seed=random.SystemRandom().getrandbits(63) if asked.seed is None else asked.seed,
            never=self._loaded.end_tokens if asked.ignore_end else (),
        )
