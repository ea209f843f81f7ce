"""One question of a chat, asked of a model: what comes back, freed of how it came."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from chorus_http.chats.records import CouncilShown, MemberShown
from chorus_proto.cluster import (
    Ask,
    AskDelta,
    AskFinished,
    Call,
    CallFinished,
    CallOutput,
    CallStarted,
    CallWaiting,
    Cluster,
    MemberAnswer,
    MemberDelta,
    MemberStarted,
)
from chorus_proto.dialects.openai_request import tokens_estimate
from chorus_proto.errors import InternalError
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, RequestId, is_council
from chorus_proto.values import Dialect, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A node works on it."""

    node: str
    model: str


@dataclass(frozen=True, slots=True)
class Text:
    """Some more of the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The answer is complete."""

    finish_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Said:
    """What one member of a council said, or why it did not."""

    member: MemberShown


@dataclass(frozen=True, slots=True)
class Agreed:
    """How a council came to its answer; before `Ended`."""

    council: CouncilShown


Piece: TypeAlias = Begun | Text | Said | Agreed | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`within_s` is the whole time; `user` and `key_id` are who asks, as in `Call`."""

    request_id: RequestId
    model: ModelName
    generation: Generation
    prompt_bytes: int
    within_s: float
    user: str
    key_id: str = ""


class Asking(Protocol):
    """Whoever can answer a question. Closing the generator early cancels the work."""

    def __call__(self, question: Question) -> AsyncGenerator[Piece, None]:
        """`Begun` (again when another node takes over), texts, `Ended`; of a council also what its members said.

        Raises ClusterError.
        """
        ...


def asking(cluster: Cluster) -> Asking:
    """Asks models and councils of `cluster`."""

    async def ask(question: Question) -> AsyncGenerator[Piece, None]:
        source = _of_council if is_council(question.model) else _of_model
        async with aclosing(source(cluster, question)) as pieces:
            async for piece in pieces:
                yield piece

    return ask


async def _of_model(cluster: Cluster, question: Question) -> AsyncGenerator[Piece, None]:
    call = Call(
        request_id=question.request_id,
        model=question.model,
        dialect=Dialect.TEXT,
        stream=True,
        generation=question.generation.encoded(),
        prompt_tokens_estimate=tokens_estimate(question.prompt_bytes),
        within_s=question.within_s,
        max_tokens=question.generation.max_tokens,
        user=question.user,
        key_id=question.key_id,
    )
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async with aclosing(cluster.submit(call)) as events:
        async for event in events:
            match event:
                case CallStarted():
                    yield Begun(node=event.node_name, model=event.model)
                case CallOutput():
                    if text := decoder.decode(event.payload):
                        yield Text(text)
                case CallFinished():
                    if text := decoder.decode(event.payload, final=True):
                        yield Text(text)
                    yield Ended(finish_reason=event.finish_reason, usage=event.usage)
                    return
                case CallWaiting():
                    pass
    raise InternalError("The answer ended without its closing event.")


async def _of_council(cluster: Cluster, question: Question) -> AsyncGenerator[Piece, None]:
    ask = Ask(
        request_id=question.request_id,
        generation=question.generation.encoded(),
        prompt_tokens_estimate=tokens_estimate(question.prompt_bytes),
        within_s=question.within_s,
        max_tokens=question.generation.max_tokens,
        user=question.user,
        key_id=question.key_id,
        council=question.model,
    )
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    began = False
    async with aclosing(cluster.ask(ask)) as events:
        async for event in events:
            match event:
                case MemberStarted():
                    if not began:
                        began = True
                        yield Begun(node="", model=question.model)
                case MemberDelta():
                    pass
                case MemberAnswer():
                    yield Said(_member(event))
                case AskDelta():
                    if text := decoder.decode(event.text):
                        yield Text(text)
                case AskFinished():
                    if text := decoder.decode(b"", final=True):
                        yield Text(text)
                    members = tuple(map(_member, event.members))
                    yield Agreed(
                        CouncilShown(strategy=event.strategy, disagreement=event.disagreement, members=members)
                    )
                    yield Ended(finish_reason="stop", usage=event.usage)
                    return
    raise InternalError("The answer ended without its closing event.")


def _member(answer: MemberAnswer) -> MemberShown:
    return MemberShown(
        node=answer.node_name,
        model=answer.model,
        text=answer.text,
        seconds=answer.seconds,
        tokens=answer.usage.completion_tokens,
        weight=answer.weight,
        agrees=answer.agrees,
        error="" if answer.error is None else answer.error.message,
    )
