"""What is said in `chorus chat`: the history, how the next question is asked, and what came of it.

What no longer fits the model's context is left out by the same rule as in kept chats (`chorus_http.chats.history`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from chorus_http.chats.asking import Agreed, Asking, Begun, Ended, Piece, Question, Said, Text, asking
from chorus_http.chats.history import fitted
from chorus_http.chats.models import model_to_ask
from chorus_http.chats.records import AnswerFacts, ChatMessage, CouncilShown, Role, Trimmed, new_message_id
from chorus_proto.catalogue import closest
from chorus_proto.clock import Clock, SystemClock
from chorus_proto.cluster import Cluster
from chorus_proto.errors import ContextLengthExceeded, ModelNotFound
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.values import ClusterState

REFUSALS_LIMIT = 4
"""So often a conversation that the model finds too long is shortened and sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a conversation begins. `model` None: the largest that is ready."""

    model: str | None = None
    system: str = ""
    sampling: Generation = field(default_factory=Generation)
    within_s: float = 300.0


@dataclass(slots=True, kw_only=True)
class Answer:
    """One answer as far as it has come."""

    model: ModelName
    text: str = ""
    node: str = ""
    began_s: float = 0.0
    first_s: float | None = None
    """Seconds until its first text."""
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_bytes: int = 0
    finish_reason: str = "stopped"
    trimmed: Trimmed | None = None
    council: CouncilShown | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Of the whole time, the reading of the question included; None when nothing can be said."""
        return self.completion_tokens / self.seconds if self.completion_tokens and self.seconds > 0 else None


class Conversation:
    """Questions and answers so far, and how the next one is asked."""

    def __init__(self, cluster: Cluster, wish: Wish, clock: Clock | None = None) -> None:
        self.model = wish.model
        self.system = wish.system
        self.line: list[ChatMessage] = []
        self._cluster = cluster
        self._ask: Asking = asking(cluster)
        self._wish = wish
        self._clock = clock or SystemClock()

    async def chosen(self) -> tuple[ModelName, int]:
        """Name and context (0: unknown) of the model that answers next. Raises ModelNotFound, NoReplica."""
        state = await self._cluster.state()
        try:
            return model_to_ask(state, self.model)
        except ModelNotFound:
            raise ModelNotFound(_no_model(self.model or "", state)) from None

    def ask(self, text: str) -> None:
        """The next question. One before it that got no word of an answer gives way: it could be asked again until now,
        but the templates of many models refuse two questions in a row."""
        if self.line and self.line[-1].role is Role.USER:
            self.line.pop()
        self._append(Role.USER, text, None)

    def take_back(self) -> bool:
        """Forget the last answer, so that its question is answered anew; False when nothing was asked."""
        while self.line and self.line[-1].role is Role.ASSISTANT:
            self.line.pop()
        return bool(self.line)

    async def answer(self, answer: Answer, context_tokens: int) -> AsyncGenerator[Piece, None]:
        """Answer the last question, fill `answer` and keep what was said, also when this is closed early.

        Raises ClusterError.
        """
        for refusals in range(REFUSALS_LIMIT + 1):
            sent = fitted(
                self.line,
                self.system,
                model=answer.model,
                context_tokens=context_tokens,
                answer_tokens=self._wish.sampling.max_tokens,
                refusals=refusals,
            )
            answer.trimmed, answer.prompt_bytes = sent.trimmed, sent.prompt_bytes
            answer.began_s = self._clock.monotonic_s()
            question = Question(
                request_id=new_request_id(),
                model=answer.model,
                generation=msgspec.structs.replace(self._wish.sampling, messages=sent.messages),
                prompt_bytes=sent.prompt_bytes,
                within_s=self._wish.within_s,
                user="",
            )
            try:
                async with aclosing(self._ask(question)) as pieces:
                    async for piece in pieces:
                        self._note(answer, piece)
                        yield piece
                return
            except ContextLengthExceeded:
                if answer.text or refusals == REFUSALS_LIMIT or len(sent.messages) <= 1 + bool(self.system):
                    raise
            finally:
                answer.seconds = self._clock.monotonic_s() - answer.began_s
                if answer.text:
                    self._keep(answer)

    def _note(self, answer: Answer, piece: Piece) -> None:
        match piece:
            case Begun():
                answer.node = piece.node
            case Text():
                if answer.first_s is None:
                    answer.first_s = self._clock.monotonic_s() - answer.began_s
                answer.text += piece.text
            case Agreed():
                answer.council = piece.council
            case Ended():
                answer.finish_reason = piece.finish_reason
                answer.prompt_tokens = piece.usage.prompt_tokens
                answer.completion_tokens = piece.usage.completion_tokens
            case Said():
                pass

    def _keep(self, answer: Answer) -> None:
        facts = AnswerFacts(
            model=answer.model,
            node=answer.node,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            prompt_bytes=answer.prompt_bytes,
            completion_tokens=answer.completion_tokens,
            seconds=answer.seconds,
            trimmed=answer.trimmed,
        )
        self._append(Role.ASSISTANT, answer.text, facts)

    def _append(self, role: Role, text: str, facts: AnswerFacts | None) -> None:
        parent = self.line[-1].id if self.line else None
        self.line.append(
            ChatMessage(
                id=new_message_id(),
                parent_id=parent,
                role=role,
                content=text,
                created_unix_s=time.time(),
                answer=facts,
            )
        )

    def as_markdown(self) -> str:
        """Who said what, under headings."""
        parts = [f"## System\n\n{self.system}"] if self.system else []
        for message in self.line:
            who = (
                "You" if message.answer is None else f"{message.answer.model} on {message.answer.node or 'several PCs'}"
            )
            parts.append(f"## {who}\n\n{message.content.strip()}")
        return "\n\n".join(parts) + "\n"


def _no_model(wanted: str, state: ClusterState) -> str:
    names = [
        *sorted(model.name for model in state.models if not model.embedding),
        *(one.name for one in state.councils),
    ]
    there = ", ".join(closest(wanted, names) or names[:5]) or "none"
    return f"no PC has a model {wanted!r}; there are: {there}. To bring one: chorus models pull NAME"
