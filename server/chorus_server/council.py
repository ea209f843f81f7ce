"""Ask several nodes at once and make one answer of theirs."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import msgspec

from chorus_proto.clock import Clock
from chorus_proto.cluster import (
    Ask,
    AskDelta,
    AskEvent,
    AskFinished,
    Call,
    CallFinished,
    CallOutput,
    MemberAnswer,
    MemberDelta,
)
from chorus_proto.errors import NoAnswer, NodeLost, NoReplica
from chorus_proto.generation import Generation
from chorus_proto.ids import RequestId
from chorus_proto.values import AggregateStrategy, Dialect
from chorus_server.aggregate import answered, meaning
from chorus_server.concluding import Concluding
from chorus_server.definitions import EVERYBODY, Councils
from chorus_server.dispatch import Dispatcher
from chorus_server.fan_out import FanOutEvent, Member, Outcome, Patience, fan_out
from chorus_server.hearing import Hearing
from chorus_server.judging import synthesis_wanted
from chorus_server.likeness import Embedder
from chorus_server.members import Members
from chorus_server.opinions import Opinions
from chorus_server.panel import Candidate, panel, racers
from chorus_server.registry import Registry
from chorus_server.voting import Ballot, weights_of

MEMBERS_SHARE = 0.6
"""Of the caller's time is the members', where a judge or a writer comes after them and nothing else is said."""
_AFTERWARDS = (AggregateStrategy.JUDGE, AggregateStrategy.SYNTHESISE)


class Council:
    """Runs one question on many nodes through the dispatcher, each pinned to its node."""

    def __init__(
        self,
        registry: Registry,
        members: Members,
        dispatcher: Dispatcher,
        clock: Clock,
        *,
        councils: Councils,
        opinions: Opinions,
        embedder: Embedder | None = None,
    ) -> None:
        self._registry = registry
        self._known = members
        self._dispatcher = dispatcher
        self._clock = clock
        self._councils = councils
        self._opinions = opinions
        self._concluding = Concluding(dispatcher, embedder)

    async def run(self, ask: Ask) -> AsyncGenerator[AskEvent, None]:
        """See `Cluster.ask`."""
        if ask.council is not None:
            definition = self._councils.find(ask.council)
            candidates = self._known.of_council(ask.council, definition, ask)
        else:
            definition = msgspec.structs.replace(EVERYBODY, strategy=ask.strategy, quorum=ask.quorum)
            candidates = self._known.of_everybody(ask)
        if definition.strategy is AggregateStrategy.RACE:
            asked = racers(candidates, definition.panel) if ask.council is not None else candidates
        else:
            asked = panel(
                candidates,
                most=definition.panel,
                tiers_apart=definition.tiers_apart,
                yield_when_busy=definition.yield_when_busy,
            )
        best = max(asked, key=lambda one: one.quality)
        hearing = Hearing(
            ask=ask,
            definition=definition,
            generation=Generation.decoded(ask.generation),
            clock=self._clock,
            began_s=self._clock.monotonic_s(),
            best=best.model,
        )
        async with AsyncExitStack() as stragglers:
            async with aclosing(self._layers(hearing, asked, stragglers)) as events:
                async for event in events:
                    yield event
            self._learn(hearing)
            async with aclosing(self._concluding.conclude(hearing)) as concluding:
                async for event in concluding:
                    if isinstance(event, AskFinished) and hearing.late is not None:
                        async with aclosing(hearing.late()) as late:
                            async for answer in late:
                                hearing.pay(answer.usage)
                                event = _with_late(event, answer, hearing)
                                yield answer
                    yield event

    # The members --------------------------------------------------------------------------------------------------

    async def _layers(
        self, hearing: Hearing, asked: Sequence[Candidate], stragglers: AsyncExitStack
    ) -> AsyncGenerator[AskEvent, None]:
        """Ask the members, once or, for a synthesis in layers, again with what the others said before."""
        definition, generation = hearing.definition, hearing.generation
        for layer in range(definition.layers):
            if layer:
                said = [answer.text for answer in answered(hearing.last)]
                generation = synthesis_wanted(hearing.generation, said)
            outcome = Outcome()
            members = self._members(hearing, asked, generation)
            patience = self._patience(hearing, definition.layers - layer)
            asking = self._asking(hearing)
            async with aclosing(fan_out(members, asking, patience, self._clock, outcome, stragglers)) as events:
                async for event in events:
                    yield event
                    if (more := self._already(hearing, event, outcome)) is not None:
                        yield more
            hearing.late = outcome.late
            hearing.last = list(outcome.answers.values())
            hearing.members |= outcome.answers
            hearing.spared += outcome.spared
            for answer in hearing.last:
                hearing.pay(answer.usage)
            if outcome.leader is not None and (error := outcome.answers[outcome.leader].error) is not None:
                raise error  # its first words have been shown: nobody else can go on from there
            answered(hearing.last)  # raises when nobody answered: there is nothing for a next layer

    def _members(self, hearing: Hearing, asked: Sequence[Candidate], generation: Generation) -> list[Member]:
        """Each as often as samples are wanted of it, in turn."""
        definition = hearing.definition
        weights = weights_of([one.quality for one in asked], definition.choices)
        members: list[Member] = []
        for sample in range(definition.samples):
            for candidate, weight in zip(asked, weights, strict=True):
                number = len(hearing.members) + len(members)
                hearing.weights[number] = weight
                members.append(
                    Member(
                        node_id=candidate.node_id,
                        node_name=candidate.node_name,
                        model=candidate.model,
                        number=number,
                        generation=_sampled(generation, sample, definition.temperature),
                        weight=weight,
                    )
                )
        return members

    def _patience(self, hearing: Hearing, layers_left: int) -> Patience:
        definition = hearing.definition
        left_s = hearing.ask.within_s - hearing.since_s()
        share = MEMBERS_SHARE / layers_left if definition.strategy in _AFTERWARDS else 1.0
        within_s = left_s * share if definition.within_s is None else min(left_s, definition.within_s)
        return Patience(
            within_s=within_s,
            quorum=definition.quorum,
            wait_factor=definition.wait_factor,
            early_stop=definition.early_stop and definition.strategy is AggregateStrategy.VOTE,
            first_word=definition.strategy is AggregateStrategy.RACE,
            # Of several layers only the last one's answers stand beside the one answer.
            late_within_s=definition.late_within_s if layers_left == 1 else 0.0,
        )

    def _asking(self, hearing: Hearing) -> _AskOne:
        return _AskOne(self._registry, self._dispatcher, hearing.ask)

    def _already(self, hearing: Hearing, event: FanOutEvent, outcome: Outcome) -> AskDelta | None:
        """What of the one answer is known while members still answer."""
        match hearing.definition.strategy:
            case AggregateStrategy.RACE:
                if isinstance(event, MemberDelta) and event.member == outcome.leader:
                    hearing.shown = True
                    return AskDelta(event.text)
            case AggregateStrategy.FIRST:
                if isinstance(event, MemberAnswer) and not hearing.shown and event.error is None and event.text.strip():
                    hearing.shown = True
                    return AskDelta(event.text.encode())
            case _:
                pass
        return None

    def _learn(self, hearing: Hearing) -> None:
        self._opinions.learn(
            [
                (answer.model, Ballot(meaning(answer.text), hearing.weights[answer.member]))
                for answer in hearing.last
                if answer.error is None and answer.text.strip()
            ]
        )


class _AskOne:
    """Asks one member through the dispatcher."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher, ask: Ask) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._ask = ask

    async def __call__(self, member: Member) -> AsyncGenerator[MemberDelta | MemberAnswer, None]:
        """See `fan_out.AskMember`."""
        self._refuse_the_lost(member)
        ask = self._ask
        call = Call(
            request_id=RequestId(f"{ask.request_id}-{member.number}"),
            model=member.model,
            dialect=Dialect.TEXT,
            stream=True,
            generation=member.generation.encoded(),
            prompt_tokens_estimate=ask.prompt_tokens_estimate,
            within_s=ask.within_s,
            max_tokens=ask.max_tokens,
            node=member.node_id,
            user=ask.user,
            key_id=ask.key_id,
            priority=ask.priority,
            queue_within_s=ask.queue_within_s,
        )
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = ""
        async with aclosing(self._dispatcher.run(call, attempts=1)) as outputs:
            async for output in outputs:
                if isinstance(output, CallOutput):
                    text += decoder.decode(output.payload)
                    yield MemberDelta(member.node_id, output.payload, member.number)
                elif isinstance(output, CallFinished):
                    yield MemberAnswer(
                        node_id=member.node_id,
                        node_name=member.node_name,
                        model=member.model,
                        text=text + decoder.decode(output.payload, final=True),
                        usage=output.usage,
                        tokens_per_s=output.timings.decode_tokens_per_s,
                        finish_reason=output.finish_reason,
                        member=member.number,
                    )
                    return
        raise NoAnswer(f"node {member.node_name} ended its answer without an end")

    def _refuse_the_lost(self, member: Member) -> None:
        """A request may wait for a node to come back; a question to many is not held up by one that is away."""
        record = self._registry.find(member.node_id)
        if not record.takes_work:
            raise NodeLost(f"node {record.name} is {record.state}: nothing heard from it")
        if record.courtesy.paused:
            raise NoReplica(f"node {record.name} makes a {record.courtesy.words}")


def _with_late(event: AskFinished, late: MemberAnswer, hearing: Hearing) -> AskFinished:
    members = tuple(late if member.member == late.member else member for member in event.members)
    return replace(event, members=members, usage=hearing.usage)


def _sampled(generation: Generation, sample: int, temperature: float) -> Generation:
    """The caller's own request first; later answers of the same member must be able to differ from it."""
    if sample == 0:
        return generation
    seed = None if generation.seed is None else generation.seed + sample
    warmer = max(generation.temperature or 0.0, temperature)
    return msgspec.structs.replace(generation, temperature=warmer, seed=seed)
