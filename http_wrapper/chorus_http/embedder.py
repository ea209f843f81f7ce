"""Many texts made vectors by all the nodes that hold the same file of the model, and put together in their order.

The texts go out in parts. The first part chooses the node, and with it the file: two files of one name (another
quantisation) make vectors that must not be mixed. As many further parts run at once as those nodes have slots, so a
fast node does more of them, and nothing piles up anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from chorus_http.calls import call_of
from chorus_http.exchange import Exchange
from chorus_http.nearness import nearness
from chorus_http.routed import started_headers
from chorus_http.settings import HttpSettings
from chorus_http.sse import GRACE_S
from chorus_http.state import StateReader
from chorus_proto.cluster import Call, CallFinished, CallOutput, CallStarted, Cluster
from chorus_proto.dialects.embeddings_request import EmbeddingWork
from chorus_proto.dialects.parsed import ParsedRequest, text_bytes, tokens_estimate
from chorus_proto.errors import DeadlineExceeded, InternalError
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import ClusterState, Dialect, ReplicaState

PART_TEXTS = 16
LEAST_TEXTS = 2
PART_BYTES = 32 * 1024
MOST_AT_ONCE = 64
NO_VECTOR = b"null"
"""What a model that ranks writes for the query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """`vectors` are JSON values in the form that was asked for; of a ranking, a number for each document.

    `headers` say who made the first of them.
    """

    model: ModelName
    node_id: NodeId
    vectors: tuple[bytes, ...]
    prompt_tokens: int
    waited_s: float
    """For a loaded model and a place in it, before the first part."""
    by_reranker: bool
    """The model read query and document together; else their vectors were compared."""
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Made:
    vectors: list[bytes]
    prompt_tokens: int
    started: CallStarted
    by_reranker: bool


class Embedder:
    """Embeds for one app."""

    def __init__(self, cluster: Cluster, states: StateReader, settings: HttpSettings) -> None:
        self._cluster = cluster
        self._states = states
        self._settings = settings

    async def embed(self, work: EmbeddingWork, exchange: Exchange) -> Embedded:
        """Raises the ClusterError of the first part that fails; the others are cancelled then."""
        within_s = min(work.within_s or self._settings.request_within_s, self._settings.request_within_s)
        try:
            async with asyncio.timeout(within_s + GRACE_S):
                made = await self._all(work, exchange, within_s)
        except TimeoutError:
            raise DeadlineExceeded("The request's time is up.") from None
        return Embedded(
            model=work.model,
            node_id=made[0].started.node_id,
            vectors=tuple(vector for part in made for vector in part.vectors),
            prompt_tokens=sum(part.prompt_tokens for part in made),
            waited_s=made[0].started.queued_s,
            by_reranker=made[0].by_reranker,
            headers=started_headers(made[0].started),
        )

    async def _all(self, work: EmbeddingWork, exchange: Exchange, within_s: float) -> list[_Made]:
        part = _part(work.inputs, 0, PART_TEXTS)
        first = await self._one(_call(work, part, 0, exchange, within_s), ranks=work.query is not None)
        if len(part) == len(work.inputs):
            return [first]
        state = await self._states.state()
        digest = _digest(state, first.started.node_id, first.started.model)
        width = min(_slots(state, first.started.model, digest), MOST_AT_ONCE)
        parts = list(_parts(work.inputs, len(part), width))
        calls = [replace(_call(work, part, number, exchange, within_s), digest=digest) for number, part in parts]
        rest = iter(list(enumerate(calls, 1)))
        made: dict[int, _Made] = {0: first}

        async def worker() -> None:
            for number, call in rest:
                made[number] = await self._one(call, ranks=work.query is not None)

        tasks = [
            asyncio.create_task(worker(), name=f"embed:{exchange.request_id}") for _ in range(min(width, len(calls)))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [made[number] for number in range(len(calls) + 1)]

    async def _one(self, call: Call, *, ranks: bool) -> _Made:
        chunks: list[bytes] = []
        started: CallStarted | None = None
        finished: CallFinished | None = None
        async with aclosing(self._cluster.submit(call)) as events:
            async for event in events:
                match event:
                    case CallStarted():
                        started = event
                    case CallOutput():
                        chunks.append(event.payload)
                    case CallFinished():
                        chunks.append(event.payload)
                        finished = event
                    case _:
                        pass
        if started is None or finished is None:
            raise InternalError("The answer ended without its closing event.")
        lines = b"".join(chunks).splitlines()
        by_reranker = ranks and lines[:1] == [NO_VECTOR]
        if ranks:
            lines = lines[1:] if by_reranker else nearness(lines)
        return _Made(lines, finished.usage.prompt_tokens, started, by_reranker)


def _parts(texts: Sequence[str], place: int, width: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The texts from `place` on, numbered from 1. Parts grow small towards the end, where a slow node that still has
    large ones would be waited for (guided self-scheduling: Polychronopoulos and Kuck, 1987)."""
    number = 0
    while place < len(texts):
        share = -(-(len(texts) - place) // (2 * width))
        part = _part(texts, place, min(PART_TEXTS, max(LEAST_TEXTS, share)))
        place += len(part)
        number += 1
        yield number, part


def _part(texts: Sequence[str], place: int, most: int) -> tuple[str, ...]:
    """So many texts from `place` on, or fewer long ones; always one."""
    size_bytes = 0
    for end in range(place, min(place + most, len(texts))):
        size_bytes += text_bytes(texts[end])
        if size_bytes > PART_BYTES and end > place:
            return tuple(texts[place:end])
    return tuple(texts[place : place + most])


def _call(work: EmbeddingWork, part: tuple[str, ...], number: int, exchange: Exchange, longest_s: float) -> Call:
    texts = part if work.query is None else (work.query, *part)
    parsed = ParsedRequest(
        dialect=Dialect.EMBEDDINGS,
        model=work.model,
        stream=False,
        generation=Generation(
            inputs=texts,
            ranks=work.query is not None,
            vectors=work.form,
            dimensions=work.dimensions,
            cuts_inputs=work.cuts_inputs,
        ),
        prompt_tokens_estimate=tokens_estimate(sum(map(text_bytes, texts))),
        affinity=work.affinity,
        max_tokens=1,
        node=work.node,
        strategy=work.strategy,
        queue_within_s=work.queue_within_s,
        within_s=work.within_s,
    )
    call = call_of(parsed, exchange, longest_s=longest_s)
    return replace(call, request_id=RequestId(f"{call.request_id}-{number}")) if number else call


def _digest(state: ClusterState, node_id: NodeId, model: ModelName) -> str:
    return next(
        (file.digest for node in state.nodes if node.node_id == node_id for file in node.models if file.name == model),
        "",
    )


def _slots(state: ClusterState, model: ModelName, digest: str) -> int:
    """Of every node that serves this very file; at least one, for nodes come and go."""
    slots = 0
    for node in state.nodes:
        if any(file.name == model and file.digest == digest for file in node.models):
            for replica in node.replicas:
                if replica.report.model == model and replica.report.state is ReplicaState.READY:
                    slots += max(1, replica.report.slots)
    return max(1, slots)
