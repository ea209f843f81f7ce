"""Asking a model of the cluster about passages: which model, how much of them fits, and the call itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from chorus_http.asker import Asker
from chorus_http.rag.documents import Passage
from chorus_http.rag.prompt import BYTES_PER_TOKEN, INSTRUCTIONS, OR_SAY_SO, fitting, shortened
from chorus_http.sse import GRACE_S
from chorus_http.state import find_model, ready_models
from chorus_proto.cluster import Call, CallFinished, CallOutput, CallStarted, Cluster
from chorus_proto.errors import ContextLengthExceeded, DeadlineExceeded, InternalError, InvalidRequest, NoReplica
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName
from chorus_proto.values import ClusterState, Dialect, ModelSummary, Usage

DEFAULT_CONTEXT_TOKENS = 4096
"""Of a model that does not tell."""
_ANSWER_TOKENS = 1024
_MARGIN_TOKENS = 32
"""What a chat template adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A model's whole answer."""

    text: str
    model: ModelName
    node: str
    finish_reason: str
    usage: Usage


def model_for(state: ClusterState, wanted: str | None) -> ModelSummary:
    """The model of this name, or the largest that is loaded. Raises ModelNotFound, InvalidRequest, NoReplica."""
    if wanted is not None:
        model = find_model(state, wanted)
        if model.embedding:
            raise InvalidRequest(f"The model '{wanted}' makes embeddings and cannot answer.", param="model")
        return model
    chat = [model for model in ready_models(state) if not model.embedding]
    if not chat:
        raise NoReplica("No model is loaded that could answer.")
    return max(chat, key=lambda model: (model.parameters, model.file_bytes))


def answer_tokens(model: ModelSummary, wanted: int | None) -> int:
    """How long the answer may be: by default at most a quarter of the context."""
    context = model.context_tokens or DEFAULT_CONTEXT_TOKENS
    return min(wanted or _ANSWER_TOKENS, max(1, context // 4))


def passages_for(
    passages: Sequence[Passage], question: str, *, context_tokens: int, reserved_tokens: int
) -> list[Passage]:
    """Those that fit beside the question and what is reserved; of the first at least its beginning.

    Raises ContextLengthExceeded when not even that fits.
    """
    context = context_tokens or DEFAULT_CONTEXT_TOKENS
    fixed = len((INSTRUCTIONS + OR_SAY_SO + question).encode()) // BYTES_PER_TOKEN + _MARGIN_TOKENS
    room = context - fixed - reserved_tokens
    found = fitting(passages, tokens=room)
    if not found and passages:
        first = shortened(passages[0], tokens=room)
        if first is None:
            raise ContextLengthExceeded(
                f"The question takes some {fixed} tokens and the rest {reserved_tokens}; the model's context of "
                f"{context} tokens has no room for a passage beside them.",
                param="question",
            )
        found = [first]
    return found


def text_call(
    model: ModelName,
    prompt: str,
    *,
    asker: Asker,
    max_tokens: int,
    within_s: float,
    temperature: float | None = None,
    stream: bool = False,
) -> Call:
    """One prompt, answered in plain text, on behalf of the asker."""
    generation = Generation(
        messages=(Message(role="user", content=prompt),), max_tokens=max_tokens, temperature=temperature
    )
    return Call(
        request_id=asker.request_id,
        model=model,
        dialect=Dialect.TEXT,
        stream=stream,
        generation=generation.encoded(),
        prompt_tokens_estimate=-(-len(prompt.encode()) // BYTES_PER_TOKEN),
        within_s=within_s,
        max_tokens=max_tokens,
        user=asker.user,
        key_id=asker.key_id,
    )


async def answer_of(cluster: Cluster, call: Call) -> Asked:
    """Raises what `Cluster.submit` raises, and DeadlineExceeded."""
    parts: list[bytes] = []
    started: CallStarted | None = None
    finished: CallFinished | None = None
    try:
        async with asyncio.timeout(call.within_s + GRACE_S), aclosing(cluster.submit(call)) as events:
            async for event in events:
                match event:
                    case CallStarted():
                        started = event
                    case CallOutput():
                        parts.append(event.payload)
                    case CallFinished():
                        parts.append(event.payload)
                        finished = event
                    case _:
                        pass
    except TimeoutError:
        raise DeadlineExceeded("The request's time is up.") from None
    if started is None or finished is None:
        raise InternalError("The answer ended without its closing event.")
    return Asked(
        text=b"".join(parts).decode("utf-8", "replace"),
        model=started.model,
        node=started.node_name,
        finish_reason=finished.finish_reason,
        usage=finished.usage,
    )
