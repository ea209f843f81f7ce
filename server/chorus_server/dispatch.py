"""One request from its acceptance to its end: wait for a slot, run it there, move on if the node is lost in time.

Longer than others, because the attempt, its refusals and what it gives back on each way out are one path, and a slot is
lost wherever that path is cut in two.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import count

from chorus_proto.channel import GENERATION_LIMIT_BYTES
from chorus_proto.clock import Clock
from chorus_proto.cluster import Call, CallEvent, CallFinished, CallOutput, CallStarted, CallWaiting
from chorus_proto.errors import BodyTooLarge, ClusterError, DeadlineExceeded, EngineDied, UnsupportedParameter
from chorus_proto.explained import Explanation
from chorus_proto.happenings import Outcome, RequestEnded, RequestStarted
from chorus_proto.ids import ExecutionId, ModelName, NodeId
from chorus_proto.values import Dialect, Priority, ReplicaState, RoutingStrategy
from chorus_server.fairness import job_tokens
from chorus_server.lengths import AnswerLengths
from chorus_server.metrics import Counters
from chorus_server.node_record import NodeRecord
from chorus_server.prefixes import blocks_of
from chorus_server.queue import WaitingRoom
from chorus_server.rates import Rates
from chorus_server.registry import Registry
from chorus_server.routing import Need
from chorus_server.seats import Place, Seat
from chorus_server.settings import CoordinatorSettings
from chorus_server.suspects import Suspects
from chorus_server.tickets import Group, Ticket

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often it is looked whether a load that a request waits for goes on."""

SETTLE_S = 1.0
"""A failed attempt may be heard of before the end of the engine behind it: refusals count after this time only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchRules:
    """See `CoordinatorSettings`."""

    strategy: RoutingStrategy
    queue_within_s: float
    batch_within_s: float
    load_within_s: float
    first_token_within_s: float
    retry_within_s: float
    attempts: int


@dataclass(frozen=True, slots=True)
class _Lost:
    """An attempt that ended before its first output, and when."""

    error: ClusterError
    at_s: float


@dataclass(slots=True)
class _Work:
    """What one attempt has done so far."""

    tokens: int = 0
    shown: bool = False
    started_s: float | None = None
    outcome: Outcome = Outcome.CANCELLED
    code: str = ""
    finished: CallFinished | None = None


class Dispatcher:
    """Runs requests. An attempt that fails in a retryable way before its first byte was shown is tried elsewhere; so is
    one whose engine cannot honour a field, where the model has another engine too."""

    def __init__(
        self,
        registry: Registry,
        room: WaitingRoom,
        counters: Counters,
        clock: Clock,
        rules: DispatchRules,
        tell: Callable[[RequestStarted | RequestEnded], None],
    ) -> None:
        """`tell` hears which node works on what, from when until when."""
        self._tell = tell
        self._registry = registry
        self._room = room
        self._counters = counters
        self._clock = clock
        self._rules = rules
        self._execution_ids = count(1)
        self._lengths = AnswerLengths()
        self._suspects = Suspects(clock)

    async def run(self, call: Call, *, attempts: int | None = None) -> AsyncGenerator[CallEvent, None]:
        """See `Cluster.submit`. `attempts` replaces the setting: a council gives each member one."""
        ended = False
        try:
            async with aclosing(self._run(call, attempts or self._rules.attempts)) as events:
                async for event in events:
                    ended = isinstance(event, CallFinished)
                    yield event
        except ClusterError as error:
            self._counters.failed(error.code)
            log.info("request %s failed: %s: %s", call.request_id, error.code, error.message)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not ended:
                self._counters.cancelled()
            raise

    async def _run(self, call: Call, attempts: int) -> AsyncGenerator[CallEvent, None]:
        if len(call.generation) > GENERATION_LIMIT_BYTES:
            raise BodyTooLarge(f"the request is over {GENERATION_LIMIT_BYTES // 1024} KiB of text; shorten it")
        began_s = self._clock.monotonic_s()
        deadline_s = began_s + call.within_s
        embeds = call.dialect is Dialect.EMBEDDINGS
        model = self._room.known_model(call.model, embeddings=embeds)
        if model != call.model:
            call = replace(call, model=model)
        node_id = None if call.node is None else self._registry.find(call.node).node_id
        need = self._need(call)
        excluded: set[int] = set()
        lost: _Lost | None = None
        for attempt in range(1, attempts + 1):
            if deadline_s <= self._clock.monotonic_s():
                raise DeadlineExceeded(f"the request's {call.within_s:g} s were over before a slot came free")
            group = Group(
                model=call.model,
                node_id=node_id,
                excluded=frozenset(excluded),
                digest=call.digest,
                suspect=self._suspects.check(call.model, call.generation),
            )
            ticket = self._ticket(call, group, need, began_s)
            with self._place(ticket, call, deadline_s, lost) as place:
                seat = place.seat_at_once()
                if seat is None:
                    async with aclosing(self._seated(place, call, deadline_s, lost)) as waiting:
                        async for one in waiting:
                            if isinstance(one, Seat):
                                seat = one
                            else:
                                yield one
            assert seat is not None, "who waits gets a seat or hears why not"
            work = _Work()
            try:
                if self._suspects.check(call.model, call.generation) and not group.suspect and attempt < attempts:
                    # The same request has killed an engine while this one waited.
                    continue
                self._begun(call, seat, work, attempt, began_s)
                yield CallStarted(
                    node_id=seat.record.node_id,
                    node_name=seat.record.name,
                    model=call.model,
                    attempt=attempt,
                    queued_s=self._clock.monotonic_s() - began_s,
                    strategy=ticket.strategy,
                    model_digest=_digest(seat.record, call.model),
                    load_s=max(0.0, (seat.replica.ready_since_s or began_s) - began_s),
                )
                async with aclosing(self._attempt(seat, call, attempt, deadline_s)) as events:
                    async for event in events:
                        work.shown = True
                        if isinstance(event, CallOutput):
                            work.tokens += event.tokens
                        else:
                            work.outcome, work.finished = Outcome.FINISHED, event
                        yield event
                return
            except ClusterError as error:
                self._room.failed(seat, error)
                work.outcome, work.code = Outcome.FAILED, error.code
                if isinstance(error, EngineDied):
                    self._room.engine_died(seat, self._suspects)
                unable = self._unable(error, seat, node_id)
                if work.shown or attempt == attempts or not (error.surface.retryable or unable):
                    raise
                log.info("request %s leaves node %s: %s", call.request_id, seat.record.name, error.message)
                self._counters.retried()
                work.outcome = Outcome.MOVED
                excluded |= {seat.replica.incarnation, *unable}
                lost = _Lost(error, self._clock.monotonic_s())
            finally:
                seat.give_back(work.tokens)
                self._ended(call, seat, work)

    def _begun(self, call: Call, seat: Seat, work: _Work, attempt: int, began_s: float) -> None:
        work.started_s = self._clock.monotonic_s()
        self._tell(
            RequestStarted(
                request_id=call.request_id,
                user=call.user,
                model=call.model,
                priority=call.priority,
                node_id=seat.record.node_id,
                node_name=seat.record.name,
                attempt=attempt,
                queued_s=work.started_s - began_s,
            )
        )

    def _ended(self, call: Call, seat: Seat, work: _Work) -> None:
        if work.started_s is None:
            return
        finished = work.finished
        self._tell(
            RequestEnded(
                request_id=call.request_id,
                user=call.user,
                model=call.model,
                node_id=seat.record.node_id,
                node_name=seat.record.name,
                outcome=work.outcome,
                code=work.code,
                prompt_tokens=0 if finished is None else finished.usage.prompt_tokens,
                completion_tokens=work.tokens if finished is None else finished.usage.completion_tokens,
                seconds=self._clock.monotonic_s() - work.started_s,
                decode_tokens_per_s=None if finished is None else finished.timings.decode_tokens_per_s,
            )
        )

    def _need(self, call: Call) -> Need:
        background = call.priority.is_background
        return Need(
            prompt_tokens=call.prompt_tokens_estimate,
            expected_tokens=self._lengths.expected(call.model, background=background, limit=call.max_tokens),
            affinity=call.affinity,
            blocks=blocks_of(call.generation),
            urgent=not background,
        )

    def _ticket(self, call: Call, group: Group, need: Need, came_s: float) -> Ticket:
        return Ticket(
            request_id=call.request_id,
            user=call.user,
            priority=call.priority,
            group=group,
            need=need,
            strategy=call.strategy or self._rules.strategy,
            came_s=came_s,
            on_time_until_s=came_s + self._rules.first_token_within_s,
            may_wait_until_s=came_s + min(self._may_wait_s(call), call.within_s),
            text=call.generation,
        )

    def explain(self, call: Call) -> Explanation:
        """See `Cluster.explain`."""
        call = replace(call, model=self._room.known_model(call.model))
        node_id = None if call.node is None else self._registry.find(call.node).node_id
        group = Group(model=call.model, node_id=node_id)
        return self._room.explain(self._ticket(call, group, self._need(call), self._clock.monotonic_s()))

    def _unable(self, error: ClusterError, seat: Seat, node_id: NodeId | None) -> set[int]:
        """Incarnations that cannot honour the request either: an engine that has not some field has it on no PC.

        Empty when the error says nothing of the kind, or no replica is there that another engine serves.
        """
        if not isinstance(error, UnsupportedParameter) or node_id is not None:
            return set()
        model, engine = seat.replica.report.model, seat.replica.report.engine
        replicas = [record.replicas[model] for record in self._registry.present() if model in record.replicas]
        if all(one.report.engine is engine or one.report.state is not ReplicaState.READY for one in replicas):
            return set()
        return {one.incarnation for one in replicas if one.report.engine is engine}

    def _place(self, ticket: Ticket, call: Call, deadline_s: float, lost: _Lost | None) -> Place:
        """The request's place in the waiting room, often with a slot already. Raises why it may not wait."""
        try:
            return self._room.enter(
                ticket,
                within_s=self._wait_left_s(ticket, call, deadline_s, lost),
                settles_at_s=0.0 if lost is None else lost.at_s + SETTLE_S,
                back_until_s=0.0 if lost is None else lost.at_s + self._rules.retry_within_s,
            )
        except ClusterError as error:
            raise _reason(error, lost, call) from None

    async def _seated(
        self, place: Place, call: Call, deadline_s: float, lost: _Lost | None
    ) -> AsyncGenerator[CallWaiting | Seat, None]:
        """How the request stands in the queue, as often as it wants to know, then its slot."""
        left_s = place.within_s
        waited_s = 0.0
        while True:
            left_s = left_s or self._longer_s(place, call, waited_s, deadline_s)
            if left_s <= 0:
                raise _reason(self._room.waited_in_vain(place.ticket, waited_s), lost, call)
            every_s = call.standing_every_s
            step_s = left_s if every_s is None else min(left_s, self._room.telling_every_s(every_s))
            try:
                seat = await place.seat(step_s)
            except ClusterError as error:
                raise _reason(error, lost, call) from None
            if seat is not None:
                yield seat
                return
            waited_s += step_s
            left_s -= step_s
            if every_s is not None and left_s:
                yield CallWaiting(place.standing())

    def _wait_left_s(self, ticket: Ticket, call: Call, deadline_s: float, lost: _Lost | None) -> float:
        """How long it may yet wait for a slot. After a lost attempt the wait goes on."""
        now_s = self._clock.monotonic_s()
        left_s = ticket.came_s + self._may_wait_s(call) - now_s
        if lost is not None:
            left_s = max(left_s, self._rules.retry_within_s)
        return min(left_s, deadline_s - now_s)

    def _may_wait_s(self, call: Call) -> float:
        if call.queue_within_s is not None:
            return call.queue_within_s
        match call.priority:
            case Priority.INTERACTIVE:
                return self._rules.queue_within_s
            case Priority.BATCH:
                return self._rules.batch_within_s
            case Priority.DURABLE:
                return math.inf

    def _longer_s(self, place: Place, call: Call, waited_s: float, deadline_s: float) -> float:
        """Who waits for a load and not for others may wait longer, unless the caller has said how long."""
        if call.queue_within_s is not None or not place.is_loading():
            return 0.0
        most_s = self._may_wait_s(call) + self._rules.load_within_s - waited_s
        return min(most_s, deadline_s - self._clock.monotonic_s(), LOOK_S)

    async def _attempt(
        self, seat: Seat, call: Call, attempt: int, deadline_s: float
    ) -> AsyncGenerator[CallOutput | CallFinished, None]:
        left_s = deadline_s - self._clock.monotonic_s()
        execution = seat.link.execute(ExecutionId(next(self._execution_ids)), call, attempt=attempt, remaining_s=left_s)
        late = DeadlineExceeded(f"no complete answer within the request's {call.within_s:g} s")
        # One timer for the whole answer: one for each piece of it would cost as much as the piece.
        deadline = asyncio.get_running_loop().call_later(max(0.0, left_s), execution.give_up, late)
        try:
            while True:
                for output in await execution.take():
                    if isinstance(output, CallFinished):
                        self._finished(seat, call, output)
                        yield output
                        return
                    seat.wrote(output.tokens)
                    yield output
        finally:
            deadline.cancel()
            execution.cancel()

    def _finished(self, seat: Seat, call: Call, finished: CallFinished) -> None:
        usage, timings = finished.usage, finished.timings
        read_tokens = max(0, usage.prompt_tokens - usage.cached_tokens)
        seat.give_back(job_tokens(read_tokens, usage.completion_tokens), finished=True)
        rates = seat.record.rates.get(call.model)
        if rates is None:
            rates = seat.record.rates[call.model] = Rates(stream_share=seat.record.stream_share)
        rates.learn(
            timings.decode_tokens_per_s,
            timings.prefill_tokens_per_s,
            streams=seat.streams,
            context_tokens=usage.prompt_tokens + usage.completion_tokens / 2,
            answer_tokens=usage.completion_tokens,
            prompt_tokens=read_tokens,
        )
        self._suspects.finished(call.model, call.generation)
        self._room.told_cached(seat, usage.cached_tokens)
        self._lengths.saw(call.model, usage.completion_tokens, background=call.priority.is_background)
        self._counters.finished(
            seat.record.name,
            call.model,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            duration_s=timings.duration_s,
            ttft_s=timings.ttft_s,
        )


def _reason(error: ClusterError, lost: _Lost | None, call: Call) -> ClusterError:
    """Why there is no slot: `error`, but after a lost attempt what that was lost by."""
    if lost is None:
        return error
    log.info("request %s finds no other replica: %s", call.request_id, error.message)
    return lost.error


def _digest(record: NodeRecord, model: ModelName) -> str:
    file = record.models.get(model)
    return "" if file is None else file.digest


def dispatch_rules(settings: CoordinatorSettings) -> DispatchRules:
    return DispatchRules(
        strategy=settings.routing_strategy,
        queue_within_s=settings.queue_within_s,
        batch_within_s=settings.batch_within_s,
        load_within_s=settings.load_within_s,
        first_token_within_s=settings.first_token_within_s,
        retry_within_s=settings.retry_within_s,
        attempts=settings.attempts,
    )
