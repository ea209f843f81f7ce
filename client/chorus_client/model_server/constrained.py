"""Answers that must be JSON: llguidance says after each token which tokens may follow.

What a schema asks for that llguidance cannot honour is refused with its keyword; nothing is ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import cast

import llguidance
import torch
from tokenizers import Tokenizer
from torch import Tensor

from chorus_proto.dialects.strict_json import JsonObject, load_object
from chorus_proto.errors import EngineFailed, InvalidRequest, UnsupportedParameter

_SCHEMA = "response_format.json_schema.schema"
# Small models like to indent for ever; two characters are enough between any two parts.
_WHITESPACE = r"[\x20\x0A]{1,2}"
_UNKNOWN_KEYWORDS = re.compile(r"Unimplemented keys: \[(?P<keys>[^\]]*)\]")
_KEYWORD_OF_WORDS = (
    ("oneOf", "oneOf"),
    ("regex", "pattern"),
    ("Unknown format", "format"),
    ("Invalid type", "type"),
    ("Resource", "$ref"),
    ("Pointer", "$ref"),
)


class Grammars:
    """Makes grammars for one model; a large vocabulary takes a second, so it is read on the first use."""

    def __init__(self, tokenizer: Tokenizer, *, vocabulary: int, end_tokens: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._end_tokens = list(end_tokens)
        self._made: llguidance.LLTokenizer | None = None

    def of_response_format(self, response_format: str) -> Grammar:
        """For OpenAI's `response_format` as JSON text.

        Raises UnsupportedParameter naming the keyword, or InvalidRequest for a schema that nothing can satisfy.
        """
        wanted = load_object(response_format.encode())
        schema: JsonObject = {"type": "object"}
        if wanted.get("type") == "json_schema":
            schema = cast("dict[str, JsonObject]", wanted["json_schema"]).get("schema") or {}
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), defaults={"whitespace_pattern": _WHITESPACE}
            )
        except ValueError as error:
            raise InvalidRequest(f"Invalid '{_SCHEMA}': {error}", param=_SCHEMA) from None
        matcher = llguidance.LLMatcher(self._read(), grammar)
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return Grammar(matcher, self._vocabulary)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, maybe a part of a character."""
        return self._read().decode_bytes([token])

    def _read(self) -> llguidance.LLTokenizer:
        if self._made is None:
            self._made = llguidance.LLTokenizer(
                self._tokenizer.to_str(), n_vocab=self._vocabulary, eos_token=self._end_tokens
            )
        return self._made


def _refusal(words: str) -> InvalidRequest | UnsupportedParameter:
    words = " ".join(words.split())[:300] or "it cannot be honoured"
    if found := _UNKNOWN_KEYWORDS.search(words):
        keys = found["keys"].replace('"', "'")
        return UnsupportedParameter(f"'{_SCHEMA}' uses {keys}, which cannot be enforced here.", param=_SCHEMA)
    keyword = next((keyword for start, keyword in _KEYWORD_OF_WORDS if start in words), None)
    if keyword is not None:
        return UnsupportedParameter(
            f"'{_SCHEMA}' uses '{keyword}' in a way that cannot be enforced here: {words}", param=_SCHEMA
        )
    return InvalidRequest(f"Invalid '{_SCHEMA}': {words}", param=_SCHEMA)


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def complete(self) -> bool:
        """Nothing may follow any more."""
        return self._matcher.is_stopped()

    def allowed(self) -> Tensor:
        """A mask over the vocabulary: what may come next. Raises EngineFailed when the grammar became too large."""
        bits = self._matcher.compute_bitmask()
        self._check()
        words = torch.frombuffer(bytearray(bits), dtype=torch.uint8)
        each = (words.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
        return each.flatten()[: self._vocabulary].bool()

    def took(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineFailed(f"the answer's grammar failed: {self._matcher.get_error()[:300]}")
