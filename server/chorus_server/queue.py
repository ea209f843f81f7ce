"""The waiting room: requests that need a slot. Choosing a slot and taking it is one step.

`Scheduler` decides who gets which slot. Who waits for a model that no node serves makes `Demand` load it, and is
refused at once when no node can.

Longer than others, because whoever enters, is served, leaves or loses a node changes the same few tables, and between
two of those changes nothing may be seen half done.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from chorus_proto.clock import Clock
from chorus_proto.errors import (
    ClusterError,
    NoReplica,
    QueueFull,
    QueueTimeout,
)
from chorus_proto.explained import Explanation
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.queue_state import QueueState, Standing
from chorus_proto.values import Priority, ReplicaState
from chorus_server.aliases import Aliases
from chorus_server.breakers import Breakers
from chorus_server.demand import Demand, Hopeless, Want
from chorus_server.explain import explanation, refused_nodes
from chorus_server.fairness import Debts
from chorus_server.known_models import KnownModels
from chorus_server.node_record import NodeRecord, ReplicaRecord
from chorus_server.queue_shown import counts, shown
from chorus_server.registry import Registry
from chorus_server.routing import Candidate, Need, Router
from chorus_server.scheduler import QueueRules, Scheduler
from chorus_server.seats import Place, Places, Seat
from chorus_server.settings import CoordinatorSettings
from chorus_server.standings import HoldTimes, Serving, Standings
from chorus_server.suspects import Ran, Suspects
from chorus_server.tickets import Group, Ticket

log = logging.getLogger(__name__)

EARLY_REFUSAL = 2.0
"""Who would have to wait so many times as long as it may is told so at once; expectations may be off by as much."""

TOLD_PER_S = 500
USUAL_CONTEXT_TOKENS = 4096
_RETRY_AFTER_S = (1.0, 60.0)


class WaitingRoom:
    """Hands out slots."""

    def __init__(
        self,
        registry: Registry,
        router: Router,
        demand: Demand,
        debts: Debts,
        clock: Clock,
        rules: QueueRules,
        aliases: Aliases,
        weights: Mapping[str, float],
    ) -> None:
        """`weights`: by a node's name, see `Candidate.weight`."""
        self._models = KnownModels(registry, demand, aliases)
        self._registry = registry
        self._demand = demand
        self._clock = clock
        self._router = router
        self._scheduler = Scheduler(self, router, debts, clock, rules)
        self._breakers = Breakers(clock)
        self._weights = weights
        self._holds = HoldTimes()
        self.standings = Standings(self._scheduler, self._holds, self._serving, clock)
        self._places = Places()
        self._seats: dict[int, Seat] = {}
        self._suspects_on: Counter[int] = Counter()
        self._again: asyncio.TimerHandle | None = None
        self.changes = 0
        """How often somebody came, got a slot or left."""

    @property
    def waiting(self) -> int:
        return len(self._scheduler)

    def known_model(self, wanted: str, *, embeddings: bool = False) -> ModelName:
        """The name under which nodes hold the model that the caller means.

        Raises ModelNotFound, NoNodes, and, unless `embeddings`, InvalidRequest for a model that only makes those.
        """
        return self._models.find(wanted, embeddings=embeddings)

    # Coming and going ---------------------------------------------------------------------------------------------

    def enter(self, ticket: Ticket, *, within_s: float, settles_at_s: float = 0.0, back_until_s: float = 0.0) -> Place:
        """Ask for a slot; the place has it at once, or when one comes free, after a load if need be.

        `within_s`: how long it may wait. Raises QueueFull, and for 0 why there is no slot now; also what
        `Hopeless.error` says when no node can serve the request.
        """
        place = Place(self, ticket, within_s=within_s, settles_at_s=settles_at_s, back_until_s=back_until_s)
        group = ticket.group
        self._scheduler.enter(ticket)
        self._places.add(place)
        self.changes += 1
        self._serve(group.model)
        if place.came.done():
            return place
        try:
            self._check_worth_waiting(ticket, within_s)
        except ClusterError:
            # Who may not wait for a faster PC takes the free slot that it has let pass for it.
            ticket.may_wait_until_s = -math.inf
            self._serve(group.model)
            if place.came.done():
                return place
            self.left(place)
            raise
        # A look at everybody is for who is the first to wait; who comes later finds the load ordered.
        if not self._demand.is_coming(_want(group, ticket.need)):
            self._attend()
        return place

    def _check_worth_waiting(self, ticket: Ticket, within_s: float) -> None:
        if within_s <= 0:
            raise self._cannot_wait(ticket)
        model = ticket.group.model
        expected_s = self.standings.last_wait_s(model, ticket.user)
        after_s = None if expected_s is None else min(max(expected_s, _RETRY_AFTER_S[0]), _RETRY_AFTER_S[1])
        try:
            self._scheduler.begin_to_wait(ticket)
        except QueueFull as error:
            error.retry_after_s = after_s or 5.0
            raise
        if ticket.priority is Priority.INTERACTIVE and expected_s is not None and expected_s > EARLY_REFUSAL * within_s:
            raise QueueFull(
                f"about {expected_s:.0f} s of work for {model} are ahead of this request, it may wait {within_s:g} s",
                retry_after_s=after_s,
            )

    def telling_every_s(self, wished_s: float) -> float:
        """How often each who waits hears of its place, so that all together hear it `TOLD_PER_S` times a second."""
        return max(wished_s, self.waiting / TOLD_PER_S)

    def left(self, place: Place) -> None:
        """The request no longer waits."""
        if self._places.pop(place.ticket) is not None:
            self._scheduler.leave(place.ticket)
            self.changes += 1

    def given_back(self, seat: Seat, tokens: float, *, finished: bool) -> None:
        del self._seats[seat.ticket.number]
        self.changes += 1
        if seat.ticket.group.suspect:
            self._suspects_on[seat.replica.incarnation] -= 1
            self._suspects_on += Counter()  # without those that are 0 now
        seat.streams = seat.replica.in_flight.end(seat.ticket.number, self._clock.monotonic_s())
        if finished:
            node_id, model = seat.record.node_id, seat.ticket.group.model
            self._breakers.answered(node_id, model, began_s=seat.since_s)
            self._holds.learn(node_id, model, self._clock.monotonic_s() - seat.since_s)
        self._scheduler.gave_back(seat.ticket, tokens)
        self._serve()

    def engine_died(self, seat: Seat, suspects: Suspects) -> None:
        """The engine died while it worked on this request, and on all others that have a slot there."""
        incarnation = seat.replica.incarnation
        ran = [
            Ran(one.ticket.group.model, one.ticket.text)
            for one in self._seats.values()
            if one.replica.incarnation == incarnation
        ]
        suspects.died(incarnation, seat.record.name, ran)

    def failed(self, seat: Seat, error: ClusterError) -> None:
        """The node could not do it."""
        if seat.ticket.group.suspect:
            return  # more likely the request's fault than the node's
        words = self._breakers.failed(
            seat.record.node_id,
            seat.ticket.group.model,
            error,
            incarnation=seat.replica.incarnation,
            began_s=seat.since_s,
        )
        if words is not None:
            log.warning("node %s %s", seat.record.name, words)

    def told_cached(self, seat: Seat, cached_tokens: int) -> None:
        """How much of the prompt the engine had, as it says."""
        self._scheduler.prefixes.told(
            seat.replica.incarnation, held_tokens=seat.ticket.held_tokens, cached_tokens=cached_tokens
        )

    def wrote(self, seat: Seat, tokens: int) -> None:
        """The seat's request has got so many tokens of its answer."""
        in_flight = seat.replica.in_flight
        now_s = self._clock.monotonic_s()
        reading = self._again is not None and in_flight.prompts_s(now_s) > 0
        in_flight.wrote(seat.ticket.number, tokens, now_s)
        if reading:
            self._serve()  # a prompt is read sooner than it was expected

    def _serve(self, model: ModelName | None = None) -> None:
        again_s = self._scheduler.serve(model)
        if self._again is None and again_s is None:
            return
        loop = asyncio.get_running_loop()
        if self._again is not None:
            if model is not None and (again_s is None or self._again.when() <= loop.time() + again_s):
                return  # it may be for another model
            self._again.cancel()
            self._again = None
        if again_s is not None:
            self._again = loop.call_later(again_s, self._serve)

    def would_load_on(self, model: ModelName, need: Need) -> NodeId | None:
        """The node on which the model would be loaded for a request, None when no node can."""
        best = self._demand.choice(Want(model=model, need=need), {}).best
        return None if best is None else best.site.node_id

    def _cannot_wait(self, ticket: Ticket) -> ClusterError:
        group = ticket.group
        want = _want(group, ticket.need)
        hopeless = self._demand.hopeless(want)
        if hopeless is not None:
            return hopeless.error()
        going_on = self._demand.progress_words(want)
        if not self._demand.is_coming(want):
            what = f"is not ready, and this request may not wait: {going_on}" if going_on else ""
            what = what or "is not loaded, and this request may not wait"
            return NoReplica(f"model {group.model} {what}", retry_after_s=10)
        after_s = self._demand.expected_s(want) or 1.0
        return QueueTimeout(going_on or f"every slot of {group.model} is taken", retry_after_s=after_s)

    def waited_in_vain(self, ticket: Ticket, waited_s: float) -> QueueTimeout:
        """What is told to a request that has waited for as long as it may."""
        model = ticket.group.model
        want = _want(ticket.group, ticket.need)
        going_on = self._demand.progress_words(want)
        if going_on:
            after_s = self._demand.expected_s(want) or 5.0
            return QueueTimeout(
                f"model {model} was not ready within {waited_s:.3g} s: {going_on}", retry_after_s=after_s
            )
        expected_s = self.standings.next_wait_s(model, ticket.user)
        after_s = 5.0 if expected_s is None else min(max(expected_s, _RETRY_AFTER_S[0]), _RETRY_AFTER_S[1])
        return QueueTimeout(f"no slot of {model} came free within {waited_s:.3g} s", retry_after_s=after_s)

    def standing(self, ticket: Ticket) -> Standing:
        standing = self.standings.of(ticket)
        if self._serving(ticket.group.model):
            return standing
        want = _want(ticket.group, ticket.need)
        going_on = self._demand.progress_words(want)
        return replace(standing, going_on=going_on, load_left_s=self._demand.expected_s(want))

    def is_loading(self, group: Group) -> bool:
        return not self._serving(group.model) and bool(self._demand.progress_words(_want(group, Need(prompt_tokens=0))))

    # Serving ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Something changed: serve who waits, order the loads that they need, refuse those whom no node can serve."""
        self._serve()
        self._attend()
        self._scheduler.prefixes.forget_all_but(
            {replica.incarnation for record in self._registry.records() for replica in record.replicas.values()}
        )

    def _attend(self) -> None:
        groups = self._places.groups()
        wants = [_want(group, first.ticket.need, waiting=count) for group, first, count in groups]
        for (group, _, _), hopeless in zip(groups, self._demand.step(wants), strict=True):
            if hopeless is not None:
                self._refuse(self._places.of(group), hopeless)

    def _refuse(self, places: Sequence[Place], hopeless: Hopeless) -> None:
        now_s = self._clock.monotonic_s()
        for place in places:
            if now_s >= (place.back_until_s if hopeless.nobody_is_there else place.settles_at_s):
                self.left(place)
                place.came.set_exception(hopeless.error())

    def seat(self, ticket: Ticket, candidate: Candidate, prompt_s: float) -> None:
        """See `Replicas.seat`."""
        place = self._places.pop(ticket)
        assert place is not None, "who gets a seat waits for it"
        record = self._registry.find(candidate.node_id)
        assert record.link is not None, "candidates have a link, and nothing ran since"
        replica = record.replicas[ticket.group.model]
        now_s = self._clock.monotonic_s()
        seat = Seat(self, ticket, record, replica, record.link, now_s)
        replica.in_flight.begin(
            ticket.number,
            prompt_tokens=ticket.need.prompt_tokens,
            expected_tokens=ticket.need.expected_tokens,
            prompt_s=prompt_s,
            now_s=now_s,
        )
        self._seats[ticket.number] = seat
        self._suspects_on[replica.incarnation] += ticket.group.suspect
        place.came.set_result(seat)

    def candidates(self, group: Group) -> list[Candidate]:
        """See `Replicas.candidates`."""
        model, node_id, excluded = group.model, group.node_id, group.excluded
        now_s = self._clock.monotonic_s()
        found: list[Candidate] = []
        for record in self._registry.records():
            replica = record.replicas.get(model)
            if replica is None or replica.report.state is not ReplicaState.READY or not record.takes_requests:
                continue
            if group.suspect and self._suspects_on[replica.incarnation]:
                continue
            if replica.incarnation in excluded or (node_id is not None and node_id != record.node_id):
                continue
            if group.digest is not None and record.digest_of(model) != group.digest:
                continue
            found.append(_candidate(record, replica, model, now_s, self._weights.get(record.name, 1.0)))
        return self._breakers.sifted(found)

    def _serving(self, model: ModelName) -> list[Serving]:
        found: list[Serving] = []
        for record in self._registry.records():
            replica = record.replicas.get(model)
            if replica is not None and record.takes_requests and replica.report.state is ReplicaState.READY:
                slots = record.slots_of(replica)
                found.append(Serving(record.node_id, slots, slots - replica.slots_busy))
        return found

    # Showing ------------------------------------------------------------------------------------------------------

    def explain(self, ticket: Ticket) -> Explanation:
        """What would become of this ticket, which has not entered; see `Cluster.explain`."""
        group = ticket.group
        candidates = self.candidates(group)
        held = self._scheduler.held(ticket)
        decision = self._router.rank(ticket.strategy, candidates, ticket.need, held)
        waiting = self._scheduler.waiting(group.model)
        better = None
        if decision.chosen is not None:
            better = self._scheduler.better_later(ticket, decision.chosen, candidates, held, others=waiting)
        want = _want(group, ticket.need)
        return explanation(
            ticket,
            decision,
            refused_nodes(
                self._registry.records(), group, candidates, self._demand.choice(want, {}), rests=self._breakers.words
            ),
            digest=self.digest(group.model),
            waiting=waiting,
            better=better,
            expected_wait_s=self.standings.next_wait_s(group.model, ticket.user),
            going_on=self._demand.progress_words(want),
            hopeless=self._demand.hopeless(want),
        )

    def digest(self, model: ModelName) -> str:
        """Of the model's file, where a node told it."""
        files = (record.models.get(model) for record in self._registry.present())
        return next((file.digest for file in files if file is not None and file.digest), "")

    def queue_state(self) -> QueueState:
        """Who waits and who runs, now."""
        return shown(
            self._scheduler, self.standings, list(self._seats.values()), self._serving, self._clock.monotonic_s()
        )

    def queue_counts(self) -> QueueState:
        """How many wait and run, now, without their names."""
        return counts(self._scheduler, self.standings, list(self._seats.values()), self._serving)


def _candidate(record: NodeRecord, replica: ReplicaRecord, model: ModelName, now_s: float, weight: float) -> Candidate:
    """By position, because a hundred are made for every request."""
    rates = record.rates.get(model)
    in_flight = replica.in_flight
    return Candidate(
        record.node_id,
        record.name,
        model,
        record.slots_of(replica),
        len(in_flight),
        0,
        record.score.score,
        None if rates is None else rates.prefill_tokens_per_s,
        None if rates is None else rates.decode_tokens_per_s,
        None if rates is None else rates.speeds,
        in_flight.context_tokens,
        in_flight.tokens_left,
        in_flight.prompts_s(now_s),
        replica.incarnation,
        record.stream_share,
        max(1, replica.report.slots) * (replica.report.context_tokens or USUAL_CONTEXT_TOKENS),
        weight,
    )


def queue_rules(settings: CoordinatorSettings) -> QueueRules:
    return QueueRules(
        limit=settings.queue_limit,
        model_limit=settings.queue_model_limit,
        user_limit=settings.queue_user_limit,
        bytes_limit=settings.queue_bytes_limit,
        background_share=settings.background_share,
    )


def _want(group: Group, need: Need, *, waiting: int = 1) -> Want:
    return Want(
        model=group.model,
        need=need,
        node_id=group.node_id,
        excluded=group.excluded,
        digest=group.digest,
        waiting=waiting,
    )
