"""The waiting room: requests that need a slot, in the order they came. Choosing a slot and taking it is one step."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chorus_proto.catalogue import closest, normalised
from chorus_proto.clock import Clock
from chorus_proto.errors import InvalidRequest, ModelNotFound, NoNodes, NoReplica, QueueFull, QueueTimeout
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import ReplicaState, RoutingStrategy
from chorus_server.link import AgentLink
from chorus_server.registry import NodeRecord, Registry, ReplicaRecord
from chorus_server.routing import Candidate, Decision, Need, Router


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatRequest:
    """What a request needs: a slot of `model`, maybe on one node only, on none of the `excluded` incarnations."""

    model: ModelName
    need: Need
    strategy: RoutingStrategy
    node_id: NodeId | None = None
    excluded: frozenset[int] = frozenset()


class Seat:
    """One slot of one replica, taken. Give it back exactly once, however the request ended."""

    def __init__(self, room: WaitingRoom, record: NodeRecord, replica: ReplicaRecord, link: AgentLink) -> None:
        self.record = record
        self.replica = replica
        self.link = link
        self._room = room
        self._held = True
        replica.slots_busy += 1

    def give_back(self) -> None:
        if self._held:
            self._held = False
            self.replica.slots_busy -= 1
            self._room.slots_changed()


@dataclass(slots=True, eq=False)
class _Waiter:
    request: SeatRequest
    seat: asyncio.Future[Seat] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class WaitingRoom:
    """Hands out slots. A freed slot goes to the oldest waiter it suits; at most `limit` wait."""

    def __init__(self, registry: Registry, router: Router, clock: Clock, *, limit: int) -> None:
        self._registry = registry
        self._router = router
        self._clock = clock
        self._limit = limit
        self._waiters: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def known_model(self, wanted: str) -> ModelName:
        """The name under which nodes hold the model that the caller means.

        Raises ModelNotFound, NoNodes, and InvalidRequest for a model that only makes embeddings.
        """
        held = self._held_models()
        for known, embedding in held.items():
            if known == wanted or normalised(known) == normalised(wanted):
                if embedding:
                    raise InvalidRequest(f"model {known} makes embeddings and cannot answer", param="model")
                return known
        if not held and not self._registry.present():
            raise NoNodes("no node is connected yet; start one with: chorus agent --join HOST:PORT", retry_after_s=5)
        chat = sorted(name for name, embedding in held.items() if not embedding)
        near = closest(wanted, chat)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; models here: {', '.join(chat) or 'none'}"
        raise ModelNotFound(f"model {wanted!r} is on no node{hint}", param="model")

    def _held_models(self) -> dict[ModelName, bool]:
        """Every model on a node, and whether it only makes embeddings."""
        held: dict[ModelName, bool] = {}
        for record in self._registry.present():
            for name in (*record.models, *record.replicas):
                held[name] = name in record.models and record.models[name].embedding
        return held

    async def take(self, request: SeatRequest, *, within_s: float) -> Seat:
        """A slot, at once or when one comes free. Raises NoReplica, QueueFull or QueueTimeout."""
        if not any(self._same_slots(request, waiter.request) for waiter in self._waiters):
            seat = self._seat_now(request)
            if seat is not None:
                return seat
        self._refuse_the_hopeless(request)
        if len(self._waiters) >= self._limit:
            raise QueueFull(f"{self._limit} requests are waiting already; try again later", retry_after_s=5)
        if within_s <= 0:
            raise QueueTimeout(f"every slot of {request.model} is taken", retry_after_s=1)
        waiter = _Waiter(request)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(within_s):
                return await waiter.seat
        except TimeoutError:
            self._return_late_seat(waiter)
            raise QueueTimeout(f"no slot of {request.model} came free within {within_s:g} s", retry_after_s=5) from None
        except asyncio.CancelledError:
            self._return_late_seat(waiter)
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    @staticmethod
    def _return_late_seat(waiter: _Waiter) -> None:
        """The seat may have been handed over in the very moment the waiter gave up."""
        if waiter.seat.done() and not waiter.seat.cancelled():
            waiter.seat.result().give_back()

    @staticmethod
    def _same_slots(one: SeatRequest, other: SeatRequest) -> bool:
        return one.model == other.model and (
            one.node_id is None or other.node_id is None or one.node_id == other.node_id
        )

    def slots_changed(self) -> None:
        """A slot, replica or node came: serve who waits, oldest first."""
        for waiter in list(self._waiters):
            if waiter.seat.done():
                continue
            seat = self._seat_now(waiter.request)
            if seat is not None:
                waiter.seat.set_result(seat)

    def _seat_now(self, request: SeatRequest) -> Seat | None:
        chosen = self.decide(request).chosen
        if chosen is None:
            return None
        record = self._registry.find(chosen.node_id)
        assert record.link is not None, "candidates have a link, and nothing ran since"
        return Seat(self, record, record.replicas[request.model], record.link)

    def decide(self, request: SeatRequest) -> Decision:
        """Which replica would take the request now, and how the others rank."""
        return self._router.choose(request.strategy, self._candidates(request), request.need)

    def _candidates(self, request: SeatRequest) -> list[Candidate]:
        candidates: list[Candidate] = []
        for record, replica in self._replicas(request, lambda record: record.takes_work):
            if replica.report.state is not ReplicaState.READY or replica.incarnation in request.excluded:
                continue
            rates = record.rates.get(request.model)
            candidates.append(
                Candidate(
                    node_id=record.node_id,
                    node_name=record.name,
                    model=request.model,
                    slots=max(1, replica.report.slots),
                    slots_busy=replica.slots_busy,
                    score=record.score.score,
                    prefill_tokens_per_s=None if rates is None else rates.prefill_tokens_per_s,
                    decode_tokens_per_s=None if rates is None else rates.decode_tokens_per_s,
                )
            )
        return candidates

    def _replicas(
        self, request: SeatRequest, accept: Callable[[NodeRecord], bool]
    ) -> Iterable[tuple[NodeRecord, ReplicaRecord]]:
        for record in self._registry.records():
            if request.node_id is not None and record.node_id != request.node_id:
                continue
            replica = record.replicas.get(request.model)
            if replica is not None and accept(record):
                yield record, replica

    def _refuse_the_hopeless(self, request: SeatRequest) -> None:
        """Wait only for what can come: raises NoReplica when no node has, loads or is to load the model."""
        for record in self._registry.present():
            if request.node_id in (None, record.node_id) and self._may_serve(record, request):
                return
        where = "" if request.node_id is None else f" on node {self._registry.find(request.node_id).name}"
        ready = ", ".join(sorted(self._ready_models())) or "none"
        raise NoReplica(f"model {request.model} is not loaded{where}; models ready now: {ready}", retry_after_s=10)

    def _ready_models(self) -> set[ModelName]:
        return {
            name
            for record in self._registry.present()
            for name, replica in record.replicas.items()
            if replica.report.state is ReplicaState.READY
        }

    @staticmethod
    def _may_serve(record: NodeRecord, request: SeatRequest) -> bool:
        """True when this node may yet give a slot: a busy replica, one that loads, or a node that may come back."""
        replica = record.replicas.get(request.model)
        to_be_loaded = record.assigned == request.model
        if replica is None or not record.takes_work:
            return to_be_loaded or replica is not None
        if replica.report.state is ReplicaState.READY:
            return replica.incarnation not in request.excluded
        return to_be_loaded or replica.report.state is ReplicaState.LOADING
