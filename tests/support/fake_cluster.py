"""A `Cluster` without coordinator, nodes or engines: tests script what the engine yields; the renderer is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

from chorus_proto.cluster import (
    Ask,
    AskEvent,
    AskFinished,
    Call,
    CallEvent,
    CallFinished,
    CallOutput,
    CallStarted,
    MemberAnswer,
    MemberDelta,
    MemberStarted,
)
from chorus_proto.dialects.openai_answer import renderer
from chorus_proto.errors import ClusterError
from chorus_proto.generation import Delta, Done, Generation, Piece
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import (
    AggregateStrategy,
    Assignment,
    ClusterState,
    Hardware,
    ModelSummary,
    Node,
    NodeState,
    Reassignment,
    RoutingStrategy,
    Score,
    Timings,
    Usage,
)

MODEL = ModelName("tiny:1b")
NODE = NodeId("6f1d1a52-0000-4000-8000-000000000001")

Engine: TypeAlias = Callable[[Call], AsyncGenerator[Piece, None]]


async def paris(call: Call) -> AsyncGenerator[Piece, None]:
    """Two deltas and a full `Done`."""
    yield Delta("The capital is ")
    yield Delta("Paris.")
    yield Done(finish_reason="stop", prompt_tokens=7, completion_tokens=2, cached_tokens=3)


def failing(error: Exception, *, after: tuple[Piece, ...] = ()) -> Engine:
    """An engine that yields `after` and then raises."""

    async def engine(call: Call) -> AsyncGenerator[Piece, None]:
        for piece in after:
            yield piece
        raise error

    return engine


def waiting(gate: asyncio.Event, *, before: tuple[Piece, ...] = ()) -> Engine:
    """An engine that yields `before`, waits for `gate`, then answers as `paris` does."""

    async def engine(call: Call) -> AsyncGenerator[Piece, None]:
        for piece in before:
            yield piece
        await gate.wait()
        async for piece in paris(call):
            yield piece

    return engine


class FakeCluster:
    """Records what was asked, and which requests were closed before their end."""

    def __init__(self, engine: Engine = paris) -> None:
        self.engine = engine
        self.calls: list[Call] = []
        self.asks: list[Ask] = []
        self.cancelled: list[RequestId] = []
        self.ended: list[RequestId] = []
        self.ask_events: list[AskEvent] = []
        self.ask_gate: asyncio.Event | None = None
        """When set, `ask` waits for it after its events."""
        self.state_error: ClusterError | None = None
        self.state_hangs = False
        self.shown_state = ready_state()

    async def submit(self, call: Call) -> AsyncGenerator[CallEvent, None]:
        self.calls.append(call)
        generation = Generation.decoded(call.generation)
        answer = renderer(
            call.dialect,
            stream=call.stream,
            request_id=call.request_id,
            model=call.model,
            created_unix_s=1_700_000_000,
            include_usage=generation.include_usage,
        )
        try:
            yield CallStarted(
                node_id=NODE,
                node_name="attic-pc",
                model=call.model,
                attempt=1,
                queued_s=0.25,
                strategy=RoutingStrategy.EXPECTED_FINISH,
            )
            async for piece in self.engine(call):
                if isinstance(piece, Delta):
                    yield CallOutput(answer.delta(piece), piece.tokens)
                    continue
                assert isinstance(piece, Done)
                yield CallFinished(
                    finish_reason=piece.finish_reason,
                    usage=Usage(prompt_tokens=piece.prompt_tokens, completion_tokens=piece.completion_tokens),
                    timings=Timings(),
                    payload=answer.done(piece),
                )
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(call.request_id)
            raise
        finally:
            self.ended.append(call.request_id)

    async def ask(self, ask: Ask) -> AsyncGenerator[AskEvent, None]:
        self.asks.append(ask)
        try:
            for event in self.ask_events:
                yield event
            if self.ask_gate is not None:
                await self.ask_gate.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(ask.request_id)
            raise

    async def state(self) -> ClusterState:
        if self.state_hangs:
            await asyncio.Event().wait()
        if self.state_error is not None:
            raise self.state_error
        return self.shown_state

    async def reassign(self) -> Reassignment:
        return Reassignment(
            assignments=(Assignment(node_id=NODE, node_name="attic-pc", model=MODEL, reason="the largest that fits"),)
        )

    async def metrics(self) -> bytes:
        if self.state_error is not None:
            raise self.state_error
        return b"# TYPE chorus_nodes gauge\nchorus_nodes 1.0\n"


def ready_state() -> ClusterState:
    """One PC with one ready model, and one model that only lies on its disk."""
    node = Node(
        node_id=NODE,
        name="attic-pc",
        client_id="client-attic-pc-6f1d1a",
        address="192.0.2.7:40000",
        state=NodeState.ALIVE,
        hardware=Hardware(os="linux", arch="x86_64"),
        score=Score(score=63.0, comfortable_parameters=3e9),
        assigned_model=MODEL,
    )
    models = (
        ModelSummary(name=MODEL, ready_on=(NODE,), on_disk_at=(NODE,), context_tokens=2048),
        ModelSummary(name=ModelName("org/large:8b"), on_disk_at=(NODE,)),
    )
    return ClusterState(version="0.1.0", epoch=3, uptime_s=12.0, nodes=(node,), models=models)


def council() -> list[AskEvent]:
    """Two members: one answers in a text whose first character is cut between two deltas, one is lost."""
    other = NodeId("6f1d1a52-0000-4000-8000-000000000002")
    answered = MemberAnswer(
        node_id=NODE,
        node_name="attic-pc",
        model=MODEL,
        text="é!",
        seconds=0.5,
        usage=Usage(prompt_tokens=3, completion_tokens=2),
        tokens_per_s=4.0,
        finish_reason="stop",
    )
    lost = MemberAnswer(
        node_id=other, node_name="cellar-pc", model=MODEL, error=ClusterError("the node went away"), seconds=0.1
    )
    return [
        MemberStarted(node_id=NODE, node_name="attic-pc", model=MODEL),
        MemberDelta(NODE, "é!".encode()[:1]),
        MemberDelta(NODE, "é!".encode()[1:]),
        answered,
        lost,
        AskFinished(
            strategy=AggregateStrategy.LONGEST, text="é!", members=(answered, lost), seconds=0.6, agreement=1.0
        ),
    ]
