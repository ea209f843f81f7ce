"""One question to several nodes on its way: who was asked, what came, what it cost, how much time is left."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from chorus_proto.clock import Clock
from chorus_proto.cluster import Ask, MemberAnswer
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName
from chorus_proto.values import Usage
from chorus_server.definitions import Definition


@dataclass(slots=True, kw_only=True)
class Hearing:
    """One question on its way."""

    ask: Ask
    definition: Definition
    generation: Generation
    clock: Clock
    began_s: float
    best: ModelName
    weights: dict[int, float] = field(default_factory=dict[int, float])
    members: dict[int, MemberAnswer] = field(default_factory=dict[int, MemberAnswer])
    last: list[MemberAnswer] = field(default_factory=list[MemberAnswer])
    """Answers of the last layer: those that the aggregate is made of."""
    usage: Usage = field(default_factory=Usage)
    late: Callable[[], AsyncGenerator[MemberAnswer, None]] | None = None
    """Of the last layer: tells of members who come after they were waited for."""
    spared: int = 0
    notes: list[str] = field(default_factory=list[str])
    shown: bool = False
    """Some of the one answer has been told already."""

    def pay(self, usage: Usage) -> None:
        self.usage = Usage(
            prompt_tokens=self.usage.prompt_tokens + usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens + usage.completion_tokens,
            cached_tokens=self.usage.cached_tokens + usage.cached_tokens,
        )

    def since_s(self) -> float:
        return self.clock.monotonic_s() - self.began_s

    def left_s(self) -> float:
        """Of the caller's time; below 0 when it is over."""
        return self.ask.within_s - self.since_s()
