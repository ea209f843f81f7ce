"""Ask several nodes at once and aggregate who came. A node that fails or is late is a value here, not an error."""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from chorus_proto.clock import Clock
from chorus_proto.cluster import (
    Ask,
    AskEvent,
    AskFinished,
    Call,
    CallFinished,
    CallOutput,
    MemberAnswer,
    MemberDelta,
    MemberStarted,
)
from chorus_proto.errors import (
    Cancelled,
    ClusterError,
    DeadlineExceeded,
    InternalError,
    NoAnswer,
    NodeLost,
    NoNodes,
    NoReplica,
)
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import Dialect, ReplicaState
from chorus_server.aggregate import aggregate
from chorus_server.dispatch import Dispatcher
from chorus_server.node_record import NodeRecord
from chorus_server.queue import WaitingRoom
from chorus_server.registry import Registry
from chorus_server.routing import Need

log = logging.getLogger(__name__)

PENDING_EVENTS = 256
"""Events of all members that may wait for the asker; members pause beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node and the model it is asked with."""

    node_id: NodeId
    node_name: str
    model: ModelName


class Council:
    """Runs one question on many nodes through the dispatcher, each pinned to its node."""

    def __init__(self, registry: Registry, room: WaitingRoom, dispatcher: Dispatcher, clock: Clock) -> None:
        self._registry = registry
        self._room = room
        self._dispatcher = dispatcher
        self._clock = clock

    def members(self, ask: Ask) -> list[Member]:
        """Who would be asked now, one chat replica per node.

        Raises NoNodes, NodeNotFound, ModelNotFound or NoReplica.
        """
        model = None if ask.model is None else self._room.known_model(ask.model)
        named = {record.node_id: record for record in map(self._registry.find, ask.nodes)}
        records = list(named.values()) or self._registry.present()
        if not records:
            raise NoNodes("no node is connected yet; start one with: chorus agent --join HOST:PORT", retry_after_s=5)
        members = [
            Member(node_id=record.node_id, node_name=record.name, model=chosen)
            for record in records
            if (chosen := self._model_to_ask(record, model, wanted_by_name=bool(ask.nodes))) is not None
        ]
        if not members and model is not None:
            members = self._to_be_loaded(ask, model)
        if not members:
            what = "a model" if model is None else f"model {model}"
            raise NoReplica(f"no node has {what} ready; GET /status shows what is loading", retry_after_s=10)
        return members

    def _to_be_loaded(self, ask: Ask, model: ModelName) -> list[Member]:
        """Nobody serves the model: those who load it, else the one node where it would be loaded for a request."""
        loading = [
            record.node_id
            for record in self._registry.present()
            if record.takes_requests
            and model in record.replicas
            and record.replicas[model].report.state is ReplicaState.LOADING
        ]
        best = None if loading else self._room.would_load_on(model, Need(prompt_tokens=ask.prompt_tokens_estimate))
        return [
            Member(node_id=node_id, node_name=self._registry.find(node_id).name, model=model)
            for node_id in (loading if best is None else [best])
        ]

    @staticmethod
    def _model_to_ask(record: NodeRecord, model: ModelName | None, *, wanted_by_name: bool) -> ModelName | None:
        """The node's replica for this question: the one asked for, else the assigned one, else any that is ready.

        A node named by the asker is a member even when it cannot answer now, so that it is named as missing.
        """
        if record.courtesy.paused and not wanted_by_name:
            return None
        ready = [
            name
            for name, replica in record.replicas.items()
            if replica.report.state is ReplicaState.READY
            and not (name in record.models and record.models[name].embedding)
        ]
        if model is not None:
            return model if model in ready or wanted_by_name else None
        if record.assigned in ready:
            return record.assigned
        return min(ready) if ready else (record.assigned if wanted_by_name else None)

    async def run(self, ask: Ask) -> AsyncGenerator[AskEvent, None]:
        """See `Cluster.ask`."""
        began_s = self._clock.monotonic_s()
        members = self.members(ask)
        events: asyncio.Queue[MemberDelta | MemberAnswer] = asyncio.Queue(maxsize=PENDING_EVENTS)
        answers: dict[NodeId, MemberAnswer] = {}
        in_time = True
        tasks = [
            asyncio.create_task(self._ask_one(ask, member, number, events), name=f"ask:{member.node_name}")
            for number, member in enumerate(members)
        ]
        try:
            for member in members:
                yield MemberStarted(node_id=member.node_id, node_name=member.node_name, model=member.model)
            wanted = min(ask.quorum or len(members), len(members))
            while len(answers) < len(members) and sum(a.error is None for a in answers.values()) < wanted:
                left_s = began_s + ask.within_s - self._clock.monotonic_s()
                try:
                    async with asyncio.timeout(left_s):
                        event = await events.get()
                except TimeoutError:
                    in_time = False
                    break
                if isinstance(event, MemberAnswer):
                    answers[event.node_id] = event
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for member in members:
            if member.node_id not in answers:
                late = self._not_waited_for(ask, member, began_s, in_time=in_time)
                answers[member.node_id] = late
                yield late
        arrived = tuple(answers.values())
        result = aggregate(ask.strategy, arrived)
        yield AskFinished(
            strategy=ask.strategy,
            text=result.text,
            members=arrived,
            seconds=self._clock.monotonic_s() - began_s,
            agreement=result.agreement,
        )

    def _not_waited_for(self, ask: Ask, member: Member, began_s: float, *, in_time: bool) -> MemberAnswer:
        late = DeadlineExceeded(f"no answer within {ask.within_s:g} s")
        return MemberAnswer(
            node_id=member.node_id,
            node_name=member.node_name,
            model=member.model,
            seconds=self._clock.monotonic_s() - began_s,
            error=Cancelled("enough other nodes had answered") if in_time else late,
        )

    async def _ask_one(
        self, ask: Ask, member: Member, number: int, events: asyncio.Queue[MemberDelta | MemberAnswer]
    ) -> None:
        began_s = self._clock.monotonic_s()
        answer = MemberAnswer(node_id=member.node_id, node_name=member.node_name, model=member.model)
        try:
            self._refuse_the_lost(member)
            answer = await self._answer_of(ask, member, number, answer, events)
        except ClusterError as error:
            answer = replace(answer, error=error)
        except Exception:
            # The edge of one member: a bug in it must be heard of, and not hold up the others until the deadline.
            log.exception("asking node %s broke", member.node_name)
            answer = replace(answer, error=InternalError("internal error"))
        await events.put(replace(answer, seconds=self._clock.monotonic_s() - began_s))

    def _refuse_the_lost(self, member: Member) -> None:
        """A request may wait for a node to come back; a question to many is not held up by one that is away."""
        record = self._registry.find(member.node_id)
        if not record.takes_work:
            raise NodeLost(f"node {record.name} is {record.state}: nothing heard from it")
        if record.courtesy.paused:
            raise NoReplica(f"node {record.name} makes a {record.courtesy.words}")

    async def _answer_of(
        self,
        ask: Ask,
        member: Member,
        number: int,
        answer: MemberAnswer,
        events: asyncio.Queue[MemberDelta | MemberAnswer],
    ) -> MemberAnswer:
        call = Call(
            request_id=RequestId(f"{ask.request_id}-{number}"),
            model=member.model,
            dialect=Dialect.TEXT,
            stream=True,
            generation=ask.generation,
            prompt_tokens_estimate=ask.prompt_tokens_estimate,
            within_s=ask.within_s,
            max_tokens=ask.max_tokens,
            node=member.node_id,
            user=ask.user,
            priority=ask.priority,
        )
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = ""
        async with aclosing(self._dispatcher.run(call, attempts=1)) as outputs:
            async for output in outputs:
                if isinstance(output, CallOutput):
                    text += decoder.decode(output.payload)
                    await events.put(MemberDelta(member.node_id, output.payload))
                elif isinstance(output, CallFinished):
                    return replace(
                        answer,
                        text=text + decoder.decode(output.payload, final=True),
                        usage=output.usage,
                        tokens_per_s=output.timings.decode_tokens_per_s,
                        finish_reason=output.finish_reason,
                    )
        raise NoAnswer(f"node {member.node_name} ended its answer without an end")
