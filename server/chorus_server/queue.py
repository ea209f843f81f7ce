"""The waiting room: requests that need a slot, in the order they came. Choosing a slot and taking it is one step.

Who waits for a model that no node serves makes `Demand` load it, and is refused at once when no node can.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from chorus_proto.catalogue import closest, normalised
from chorus_proto.clock import Clock
from chorus_proto.errors import (
    ClusterError,
    InvalidRequest,
    ModelNotFound,
    NoNodes,
    NoReplica,
    QueueFull,
    QueueTimeout,
)
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import ReplicaState, RoutingStrategy
from chorus_server.demand import Demand, Hopeless, Want
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
    settles_at_s: float = 0.0
    """Until then no refusal is final: its replica has failed this moment, and what its node makes of it is not known
    yet."""
    back_until_s: float = 0.0
    """Until then it waits although no node is there that could refuse it: a lost one may come back."""


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

    def __init__(self, registry: Registry, router: Router, demand: Demand, clock: Clock, *, limit: int) -> None:
        self._registry = registry
        self._router = router
        self._demand = demand
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
        """A slot, at once or when one comes free, after a load if need be.

        Raises QueueFull, QueueTimeout, and what `Hopeless.error` says when no node can serve the request.
        """
        if not any(self._same_slots(request, waiter.request) for waiter in self._waiters):
            seat = self._seat_now(request)
            if seat is not None:
                return seat
        if within_s <= 0:
            raise self._cannot_wait(request)
        if len(self._waiters) >= self._limit:
            raise QueueFull(f"{self._limit} requests are waiting already; try again later", retry_after_s=5)
        waiter = _Waiter(request)
        self._waiters.append(waiter)
        try:
            # A look at everybody is for who is the first to wait; who comes later finds the load ordered.
            if not self._demand.is_coming(_want(request)):
                self._attend()
            async with asyncio.timeout(within_s):
                return await waiter.seat
        except TimeoutError:
            self._return_late_seat(waiter)
            raise self._waited_in_vain(request, within_s) from None
        except asyncio.CancelledError:
            self._return_late_seat(waiter)
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def would_load_on(self, model: ModelName, need: Need) -> NodeId | None:
        """The node on which the model would be loaded for a request, None when no node can."""
        best = self._demand.choice(Want(model=model, need=need), {}).best
        return None if best is None else best.site.node_id

    def _cannot_wait(self, request: SeatRequest) -> ClusterError:
        want = _want(request)
        hopeless = self._demand.hopeless(want)
        if hopeless is not None:
            return hopeless.error()
        if not self._demand.is_coming(want):
            return NoReplica(f"model {request.model} is not loaded, and this request may not wait", retry_after_s=10)
        going_on = self._demand.progress_words(want)
        return QueueTimeout(going_on or f"every slot of {request.model} is taken", retry_after_s=1)

    def _waited_in_vain(self, request: SeatRequest, within_s: float) -> QueueTimeout:
        going_on = self._demand.progress_words(_want(request))
        if not going_on:
            return QueueTimeout(f"no slot of {request.model} came free within {within_s:g} s", retry_after_s=5)
        return QueueTimeout(f"model {request.model} was not ready within {within_s:g} s: {going_on}", retry_after_s=5)

    @staticmethod
    def _return_late_seat(waiter: _Waiter) -> None:
        """The seat may have been handed over in the very moment the waiter gave up."""
        if waiter.seat.done() and not waiter.seat.cancelled() and waiter.seat.exception() is None:
            waiter.seat.result().give_back()

    @staticmethod
    def _same_slots(one: SeatRequest, other: SeatRequest) -> bool:
        return one.model == other.model and (
            one.node_id is None or other.node_id is None or one.node_id == other.node_id
        )

    def look(self) -> None:
        """Something changed: serve who waits, order the loads that they need, refuse those whom no node can serve."""
        self.slots_changed()
        self._attend()

    def _attend(self) -> None:
        groups: dict[tuple[ModelName, NodeId | None, frozenset[int]], list[_Waiter]] = {}
        for waiter in self._waiters:
            if not waiter.seat.done():
                one = waiter.request
                groups.setdefault((one.model, one.node_id, one.excluded), []).append(waiter)
        wants = [replace(_want(waiters[0].request), waiting=len(waiters)) for waiters in groups.values()]
        for waiters, hopeless in zip(groups.values(), self._demand.step(wants), strict=True):
            if hopeless is not None:
                self._refuse(waiters, hopeless)

    def _refuse(self, waiters: Sequence[_Waiter], hopeless: Hopeless) -> None:
        now_s = self._clock.monotonic_s()
        for waiter in waiters:
            request = waiter.request
            if now_s >= (request.back_until_s if hopeless.nobody_is_there else request.settles_at_s):
                waiter.seat.set_exception(hopeless.error())

    def slots_changed(self) -> None:
        """A slot came free: serve who waits, oldest first."""
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
        for record in self._registry.records():
            replica = record.replicas.get(request.model)
            if replica is None or not record.takes_work or request.node_id not in (None, record.node_id):
                continue
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


def _want(request: SeatRequest) -> Want:
    return Want(model=request.model, need=request.need, node_id=request.node_id, excluded=request.excluded)
