"""A caller's request, checked and freed of its dialect."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName
from chorus_proto.values import Dialect, Priority, RoutingStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """One checked request. `prompt_tokens_estimate` is the prompt's bytes / 3; the node counts exactly."""

    dialect: Dialect
    model: ModelName
    stream: bool
    generation: Generation
    prompt_tokens_estimate: int
    affinity: str | None = None
    max_tokens: int | None = None
    node: str | None = None
    strategy: RoutingStrategy | None = None
    queue_within_s: float | None = None
    within_s: float | None = None
    priority: Priority | None = None
    routing: bool = False
    """The caller wants to see `_routing`."""
    others: tuple[Generation, ...] = ()
    """Further runs whose answers are joined with that of `generation`: more choices, or more prompts."""

    def once_called(self) -> ParsedRequest:
        """Without its text, where the call holds all of that: a request may wait for long, and ten thousand at once.

        With several runs it stays as it is, because each is a call of its own.
        """
        if self.others:
            return self
        return replace(self, generation=msgspec.structs.replace(self.generation, messages=None, prompt=None))


def tokens_estimate(length_bytes: int) -> int:
    """How many tokens `length_bytes` of prompt may be, for admission only: bytes / 3."""
    return -(-length_bytes // 3)


def check_model_name(model: str) -> ModelName:
    """Raises InvalidRequest for control characters; whether the model exists is the coordinator's to say."""
    if not model.isprintable():
        raise InvalidRequest("Invalid 'model': it holds a control character.", param="model")
    return ModelName(model)


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
