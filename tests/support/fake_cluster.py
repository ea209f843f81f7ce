"""A `Cluster` without coordinator, nodes or engines: tests script what the engine yields; the renderer is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeAlias

from chorus_proto.backends import Backend, BackendHealth, BackendState, NewBackend, check_backend
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import (
    Ask,
    AskEvent,
    AskFinished,
    Call,
    CallEvent,
    CallFinished,
    CallOutput,
    CallStarted,
    CallWaiting,
    MemberAnswer,
    MemberDelta,
    MemberStarted,
)
from chorus_proto.dialects.answers import renderer
from chorus_proto.errors import ClusterError, InvalidApiKey, NotFound
from chorus_proto.event_log import Batch, EventLog, Position
from chorus_proto.explained import Explanation, RankedReplica, RefusedNode
from chorus_proto.generation import Delta, Done, Generation, Piece
from chorus_proto.happenings import Happening, HubEvent
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.keys import ApiKey, KeyClaim, MadeKey, NewKey, Scope, claim_of, key_text
from chorus_proto.queue_state import QueueState, Standing
from chorus_proto.transfers import Transfer
from chorus_proto.values import (
    AggregateStrategy,
    Assignment,
    ClusterState,
    Hardware,
    ModelOrder,
    ModelSummary,
    Node,
    NodeState,
    OrderedOn,
    Reassignment,
    ReplicaState,
    RoutingStrategy,
    Score,
    Timings,
    Usage,
    Woken,
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
        self.loads: list[tuple[str, str | None, float | None]] = []
        self.unloads: list[tuple[str, str | None]] = []
        self.deleted: list[str] = []
        self.aliased: list[tuple[str, str]] = []
        self.load_error: ClusterError | None = None
        self.pulled: list[str] = []
        self.pull_steps: list[Transfer] | None = None
        """How a pull goes: each look at the transfers shows the next, and the last for ever."""
        self.pull_begun = False
        self.cancelled_transfers: list[str] = []
        self.ask_gate: asyncio.Event | None = None
        """When set, `ask` waits for it after its events."""
        self.state_error: ClusterError | None = None
        self.state_hangs = False
        self.standing = Standing(position=3, of=12, expected_wait_s=4.25)
        """What a request hears while it waits for `slot`."""
        self.looks = 0
        """How often the state was asked for."""
        self.shown_state = ready_state()
        self.slot: asyncio.Event | None = None
        """When set, requests wait for it in the third place of twelve."""
        self.shown_queue = QueueState(limit=1000)
        self.happened: EventLog[HubEvent] = EventLog(SystemClock(), epoch=7, keep_s=60, keep_events=1000)
        self.watch_error: ClusterError | None = None
        self.keys: dict[KeyClaim, ApiKey] = {}
        self.key_checks = 0
        self.registered: dict[str, tuple[NewBackend, Backend]] = {}

    async def submit(self, call: Call) -> AsyncGenerator[CallEvent, None]:
        self.calls.append(call)
        generation = Generation.decoded(call.generation)
        answer = renderer(
            call.dialect,
            generation,
            stream=call.stream,
            request_id=call.request_id,
            model=call.model,
            created_unix_s=1_700_000_000,
        )
        try:
            if self.slot is not None:
                if call.standing_every_s is not None:
                    yield CallWaiting(self.standing)
                await self.slot.wait()
            yield CallStarted(
                node_id=NODE,
                node_name="attic-pc",
                model=call.model,
                attempt=1,
                queued_s=0.25,
                strategy=RoutingStrategy.EXPECTED_FINISH,
                model_digest="sha256-12ab",
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
                    payload=answer.done(piece, Timings()),
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
        self.looks += 1
        if self.state_hangs:
            await asyncio.Event().wait()
        if self.state_error is not None:
            raise self.state_error
        return self.shown_state

    async def queue_state(self) -> QueueState:
        if self.state_error is not None:
            raise self.state_error
        return self.shown_queue

    def happen(self, *whats: Happening) -> None:
        """Tell those who watch."""
        for what in whats:
            self.happened.add(HubEvent(self.happened.position.id + 1, 1_763_000_000.0, what))

    async def watch(self, after: Position | None = None) -> AsyncGenerator[Batch[HubEvent]]:
        if self.watch_error is not None:
            raise self.watch_error
        async with aclosing(self.happened.follow(after)) as batches:
            async for batch in batches:
                if self.watch_error is not None:
                    raise self.watch_error
                yield batch

    async def explain(self, call: Call) -> Explanation:
        self.calls.append(call)
        if self.state_error is not None:
            raise self.state_error
        return Explanation(
            model=call.model,
            strategy=RoutingStrategy.EXPECTED_FINISH,
            priority=call.priority,
            verdict="attic-pc would run it at once",
            chosen=NODE,
            ranking=(RankedReplica(node_id=NODE, node_name="attic-pc", slots=4, slots_busy=1, cost_s=1.5),),
            refused=(RefusedNode(node_id=NodeId("cellar"), node_name="cellar-pc", reason="does not have it"),),
        )

    async def reassign(self) -> Reassignment:
        return Reassignment(
            assignments=(Assignment(node_id=NODE, node_name="attic-pc", model=MODEL, reason="the largest that fits"),)
        )

    async def wake(self, node: str) -> Woken:
        return Woken(node_id=NODE, node_name=node, mac_addresses=("1c:69:7a:00:00:01",))

    async def pull_model(self, source: str, *, node: str = "", sha256: str = "") -> Transfer:
        self.pulled.append(source)
        if self.pull_steps is None:
            raise NotFound("this cluster fetches nothing")
        self.pull_begun = True
        return self.pull_steps[0]

    async def copy_model(self, model: str, *, to: str) -> Transfer:
        raise NotFound("this cluster fetches nothing")

    async def transfers(self) -> tuple[Transfer, ...]:
        if self.pull_steps is None or not self.pull_begun:
            return ()
        if len(self.pull_steps) > 1:
            self.pull_steps.pop(0)
        return (self.pull_steps[0],)

    async def cancel_transfer(self, transfer_id: str) -> Transfer:
        self.cancelled_transfers.append(transfer_id)
        if self.pull_steps is None:
            raise NotFound("this cluster fetches nothing")
        return self.pull_steps[0]

    async def load_model(self, model: str, *, node: str | None = None, keep_alive_s: float | None = None) -> ModelOrder:
        self.loads.append((model, node, keep_alive_s))
        if self.load_error is not None:
            raise self.load_error
        return ModelOrder(model=MODEL, nodes=(OrderedOn(node_id=NODE, node_name="attic-pc"),))

    async def delete_model(self, model: str) -> ModelOrder:
        self.deleted.append(model)
        if self.load_error is not None:
            raise self.load_error
        return ModelOrder(model=MODEL, nodes=(OrderedOn(node_id=NODE, node_name="attic-pc"),))

    async def alias_model(self, name: str, model: str) -> ModelName:
        self.aliased.append((name, model))
        if self.load_error is not None:
            raise self.load_error
        return MODEL

    async def unload_model(self, model: str, *, node: str | None = None) -> ModelOrder:
        self.unloads.append((model, node))
        return ModelOrder(model=MODEL, nodes=(OrderedOn(node_id=NODE, node_name="attic-pc", state=ReplicaState.READY),))

    def add_key(self, name: str, *scopes: Scope, trusted: bool = False, requests_per_minute: int | None = None) -> str:
        """A new key's text."""
        key_id, text = key_text()
        claim = claim_of(text.encode())
        assert claim is not None
        self.keys[claim] = ApiKey(
            key_id=key_id,
            name=name,
            owner=name,
            scopes=scopes,
            created_unix_s=1_700_000_000,
            trusted=trusted,
            requests_per_minute=requests_per_minute,
        )
        return text

    async def create_key(self, wish: NewKey) -> MadeKey:
        text = self.add_key(wish.name, *wish.scopes, trusted=wish.trusted)
        return MadeKey(key=list(self.keys.values())[-1], text=text)

    async def list_keys(self) -> tuple[ApiKey, ...]:
        return tuple(self.keys.values())

    async def revoke_key(self, key: str) -> ApiKey:
        for claim, known in self.keys.items():
            if key in (known.key_id, known.name):
                return self.keys.pop(claim)
        raise NotFound(f"There is no API key {key!r}.")

    async def register_backend(self, wish: NewBackend) -> Backend:
        check_backend(wish)
        backend = Backend(
            node_id=NODE,
            name=wish.name,
            url=wish.url,
            model_type=wish.model_type,
            slots=wish.slots,
            created_unix_s=1_700_000_000,
            health=BackendHealth(state=BackendState.HEALTHY, models=wish.models, probe_age_s=1.5),
        )
        self.registered[wish.name] = (wish, backend)
        return backend

    async def unregister_backend(self, name: str) -> Backend:
        if name not in self.registered:
            raise NotFound(f"there is no backend {name!r}")
        return self.registered.pop(name)[1]

    async def backends(self) -> tuple[Backend, ...]:
        return tuple(backend for _, backend in self.registered.values())

    async def check_key(self, claim: KeyClaim) -> ApiKey:
        self.key_checks += 1
        if claim not in self.keys:
            raise InvalidApiKey("This API key is unknown.")
        return self.keys[claim]

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
