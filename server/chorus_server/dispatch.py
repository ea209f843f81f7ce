"""One request from its acceptance to its end: wait for a slot, run it there, move on if the node is lost in time."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from itertools import count

from chorus_proto.channel import GENERATION_LIMIT_BYTES
from chorus_proto.clock import Clock
from chorus_proto.cluster import Call, CallEvent, CallFinished, CallOutput, CallStarted
from chorus_proto.errors import BodyTooLarge, ClusterError, DeadlineExceeded
from chorus_proto.ids import ExecutionId
from chorus_proto.values import RoutingStrategy
from chorus_server.metrics import Counters
from chorus_server.queue import Seat, SeatRequest, WaitingRoom
from chorus_server.registry import Rates, Registry
from chorus_server.routing import Need

log = logging.getLogger(__name__)

EXPECTED_TOKENS = 190
"""Output length assumed when the caller sets no limit: the median-like constant measured in scheduling studies."""

SETTLE_S = 1.0
"""A failed attempt may be heard of before the end of the engine behind it: refusals count after this time only."""


class Dispatcher:
    """Runs requests. An attempt that fails in a retryable way before its first byte was shown is tried elsewhere."""

    def __init__(
        self,
        registry: Registry,
        room: WaitingRoom,
        counters: Counters,
        clock: Clock,
        *,
        strategy: RoutingStrategy,
        queue_within_s: float,
        retry_within_s: float,
        attempts: int,
    ) -> None:
        self._registry = registry
        self._room = room
        self._counters = counters
        self._clock = clock
        self._strategy = strategy
        self._queue_within_s = queue_within_s
        self._retry_within_s = retry_within_s
        self._attempts = attempts
        self._execution_ids = count(1)

    async def run(self, call: Call, *, attempts: int | None = None) -> AsyncGenerator[CallEvent, None]:
        """See `Cluster.submit`. `attempts` replaces the setting: a council gives each member one."""
        ended = False
        try:
            async with aclosing(self._run(call, attempts or self._attempts)) as events:
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
        model = self._room.known_model(call.model)
        call = replace(call, model=model)
        node_id = None if call.node is None else self._registry.find(call.node).node_id
        strategy = call.strategy or self._strategy
        need = Need(
            prompt_tokens=call.prompt_tokens_estimate,
            expected_tokens=EXPECTED_TOKENS if call.max_tokens is None else min(call.max_tokens, EXPECTED_TOKENS),
            affinity=call.affinity,
        )
        excluded: set[int] = set()
        lost: ClusterError | None = None
        lost_at_s = -math.inf
        waited_s = 0.0
        for attempt in range(1, attempts + 1):
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                raise DeadlineExceeded(f"the request's {call.within_s:g} s were over before a slot came free")
            wanted = SeatRequest(
                model=model,
                need=need,
                strategy=strategy,
                node_id=node_id,
                excluded=frozenset(excluded),
                settles_at_s=lost_at_s + SETTLE_S,
                back_until_s=lost_at_s + self._retry_within_s,
            )
            waits_since_s = self._clock.monotonic_s()
            seat = await self._seat(wanted, call, waited_s, left_s, lost)
            waited_s += self._clock.monotonic_s() - waits_since_s
            shown = False
            try:
                yield CallStarted(
                    node_id=seat.record.node_id,
                    node_name=seat.record.name,
                    model=model,
                    attempt=attempt,
                    queued_s=self._clock.monotonic_s() - began_s,
                    strategy=strategy,
                )
                async with aclosing(self._attempt(seat, call, attempt, deadline_s)) as events:
                    async for event in events:
                        shown = True
                        yield event
                return
            except ClusterError as error:
                if shown or not error.surface.retryable or attempt == attempts:
                    raise
                log.info("request %s leaves node %s: %s", call.request_id, seat.record.name, error.message)
                self._counters.retried()
                excluded.add(seat.replica.incarnation)
                lost, lost_at_s = error, self._clock.monotonic_s()
            finally:
                seat.give_back()

    async def _seat(
        self, wanted: SeatRequest, call: Call, waited_s: float, left_s: float, lost: ClusterError | None
    ) -> Seat:
        """A slot. After a lost attempt the wait goes on, and a refusal is the reason of the loss."""
        queue_s = self._queue_within_s if call.queue_within_s is None else call.queue_within_s
        if lost is None:
            return await self._room.take(wanted, within_s=min(queue_s, left_s))
        try:
            return await self._room.take(wanted, within_s=min(max(queue_s - waited_s, self._retry_within_s), left_s))
        except ClusterError as error:
            log.info("request %s finds no other replica: %s", call.request_id, error.message)
            raise lost from None

    async def _attempt(
        self, seat: Seat, call: Call, attempt: int, deadline_s: float
    ) -> AsyncGenerator[CallOutput | CallFinished, None]:
        execution = seat.link.execute(
            ExecutionId(next(self._execution_ids)),
            call,
            attempt=attempt,
            remaining_s=deadline_s - self._clock.monotonic_s(),
        )
        try:
            while True:
                try:
                    async with asyncio.timeout(deadline_s - self._clock.monotonic_s()):
                        outputs = await execution.take()
                except TimeoutError:
                    raise DeadlineExceeded(f"no complete answer within the request's {call.within_s:g} s") from None
                for output in outputs:
                    if isinstance(output, CallFinished):
                        self._learn(seat, call, output)
                        yield output
                        return
                    yield output
        finally:
            execution.cancel()

    def _learn(self, seat: Seat, call: Call, finished: CallFinished) -> None:
        timings = finished.timings
        rates = seat.record.rates.setdefault(call.model, Rates())
        rates.learn(timings.decode_tokens_per_s, timings.prefill_tokens_per_s)
        self._counters.finished(
            seat.record.name,
            call.model,
            prompt_tokens=finished.usage.prompt_tokens,
            completion_tokens=finished.usage.completion_tokens,
            duration_s=timings.duration_s,
            ttft_s=timings.ttft_s,
        )
