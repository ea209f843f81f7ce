"""One question to several members at once: who is asked when, and when enough of them have answered.

A member that fails or is late is a value here, not an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TypeAlias

from chorus_proto.clock import Clock
from chorus_proto.cluster import MemberAnswer, MemberDelta, MemberStarted
from chorus_proto.errors import Cancelled, ClusterError, DeadlineExceeded, InternalError, NoAnswer
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, NodeId
from chorus_server.aggregate import meaning
from chorus_server.voting import Ballot, decided, fewest_to_decide

log = logging.getLogger(__name__)

PENDING_EVENTS = 256
"""Events of all members that may wait for the asker; members pause beyond it."""
WAIT_LEAST_S = 1.0
"""Nobody is dropped for coming so little after the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node and the model it is asked with. `number` tells the members of one question apart."""

    node_id: NodeId
    node_name: str
    model: ModelName
    number: int = 0
    generation: Generation
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When asking ends before all have answered."""

    within_s: float
    quorum: int | None = None
    """So many answers."""
    wait_factor: float | None = None
    """Once more than half have answered, the rest has this many times their median."""
    early_stop: bool = False
    """No later answer can change the outcome of a vote; who is not needed for that is not even asked."""
    first_word: bool = False
    """Somebody has begun to answer: the others are sent home."""
    late_within_s: float = 0.0
    """Whoever is not waited for may still say so long, beside what is made of the others' answers."""


@dataclass(slots=True)
class Outcome:
    """What has come so far; complete when the generator has ended."""

    answers: dict[int, MemberAnswer] = field(default_factory=dict[int, MemberAnswer])
    spared: int = 0
    leader: int | None = None
    """Of a race: who began first."""
    late: Callable[[], AsyncGenerator[MemberAnswer, None]] | None = None
    """Tells of those who come late; None where they were sent home."""

    @property
    def good(self) -> list[MemberAnswer]:
        return [answer for answer in self.answers.values() if answer.error is None]


AskMember: TypeAlias = Callable[[Member], AsyncGenerator[MemberDelta | MemberAnswer, None]]
"""Ask one member: its deltas, then its answer without `seconds`. Raises ClusterError."""

FanOutEvent: TypeAlias = MemberStarted | MemberDelta | MemberAnswer


async def fan_out(
    members: Sequence[Member],
    ask: AskMember,
    patience: Patience,
    clock: Clock,
    outcome: Outcome,
    stragglers: AsyncExitStack,
) -> AsyncGenerator[FanOutEvent, None]:
    """Ask the members, best first; tell what comes, and of those who are not waited for. `outcome` is filled.

    Of those what they said so far is kept. Closing `stragglers` ends whoever still speaks then.
    """
    running = _FanOut(members, ask, patience, clock, outcome)
    async with AsyncExitStack() as working:
        working.push_async_callback(running.end)
        async with aclosing(running.events()) as events:
            async for event in events:
                yield event
        if patience.late_within_s > 0 and outcome.leader is None:
            running.go_on_late()
            stragglers.push_async_exit(working.pop_all())
    for missing in running.missing():
        outcome.answers[missing.member] = missing
        yield missing


class _FanOut:
    def __init__(
        self, members: Sequence[Member], ask: AskMember, patience: Patience, clock: Clock, outcome: Outcome
    ) -> None:
        self._ask = ask
        self._patience = patience
        self._clock = clock
        self._outcome = outcome
        self._members = {member.number: member for member in members}
        self._waiting = list(members)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asked_at_s: dict[int, float] = {}
        self._queue: asyncio.Queue[MemberDelta | MemberAnswer] = asyncio.Queue(maxsize=PENDING_EVENTS)
        self._began_s = clock.monotonic_s()
        self._why: ClusterError = Cancelled("enough others had answered")
        self._said: dict[int, bytearray] = {}
        self._late = False

    async def events(self) -> AsyncGenerator[FanOutEvent, None]:
        for started in self._start(self._needed()):
            yield started
        while not self._is_enough():
            try:
                async with asyncio.timeout(self._left_s()):
                    event = await self._queue.get()
            except TimeoutError:
                break
            leader = self._outcome.leader
            if leader is not None and event.member != leader:
                continue
            if isinstance(event, MemberAnswer):
                self._outcome.answers[event.member] = event
            elif self._patience.first_word and leader is None and event.text:
                self._lead(event.member)
            yield event
            if isinstance(event, MemberAnswer):
                for started in self._start(self._needed()):
                    yield started

    def _start(self, count: int) -> list[MemberStarted]:
        """Ask the next `count` members."""
        started: list[MemberStarted] = []
        for member in self._waiting[:count]:
            self._asked_at_s[member.number] = self._clock.monotonic_s()
            self._tasks[member.number] = asyncio.create_task(self._one(member), name=f"ask:{member.node_name}")
            started.append(
                MemberStarted(
                    node_id=member.node_id, node_name=member.node_name, model=member.model, member=member.number
                )
            )
        del self._waiting[:count]
        return started

    def _needed(self) -> int:
        """How many of those who wait must be asked now."""
        if not self._patience.early_stop:
            return len(self._waiting)
        open_weights = [self._members[number].weight for number in self._tasks if number not in self._outcome.answers]
        return fewest_to_decide(self._ballots(), open_weights, [member.weight for member in self._waiting])

    def _ballots(self) -> list[Ballot]:
        return [
            Ballot(meaning(answer.text), self._members[answer.member].weight)
            for answer in self._outcome.good
            if answer.text.strip()
        ]

    def _is_enough(self) -> bool:
        answers = self._outcome.answers
        if self._outcome.leader is not None:
            return self._outcome.leader in answers
        if len(answers) == len(self._tasks) and not self._waiting:
            return True
        if self._patience.quorum is not None and len(self._outcome.good) >= self._patience.quorum:
            return True
        if self._patience.early_stop:
            outstanding = [member.weight for number, member in self._members.items() if number not in answers]
            if decided(self._ballots(), outstanding):
                self._why = Cancelled("the outcome stood without it")
                return True
        return False

    def _left_s(self) -> float:
        """Seconds until nobody is waited for any longer; who ends the wait is remembered as the reason."""
        now_s = self._clock.monotonic_s()
        left_s = self._began_s + self._patience.within_s - now_s
        self._why = DeadlineExceeded(f"no answer within {self._patience.within_s:g} s")
        good = self._outcome.good
        factor = self._patience.wait_factor
        if (
            factor is not None
            and not self._waiting
            and self._outcome.leader is None
            and len(good) > len(self._tasks) / 2
        ):
            patience_s = max(WAIT_LEAST_S, factor * median(answer.seconds for answer in good))
            late_s = max(self._asked_at_s.values()) + patience_s - now_s
            if late_s < left_s:
                left_s = late_s
                self._why = Cancelled(f"dropped: {len(good)} others had answered, and it took over {patience_s:.1f} s")
        return left_s

    def _lead(self, number: int) -> None:
        self._outcome.leader = number
        self._why = Cancelled("another was faster")
        for other, task in self._tasks.items():
            if other != number:
                task.cancel()

    def go_on_late(self) -> None:
        """Nobody is waited for any longer, and those who speak may go on."""
        self._late = True
        self._outcome.spared = len(self._waiting)
        self._outcome.late = self.late

    async def late(self) -> AsyncGenerator[MemberAnswer, None]:
        """Those who were not waited for and come after all, with the reason why they do not count."""
        ends_s = self._clock.monotonic_s() + self._patience.late_within_s
        answers = self._outcome.answers
        speaking = {number for number in self._tasks if answers[number].error is self._why}
        while speaking:
            try:
                async with asyncio.timeout(ends_s - self._clock.monotonic_s()):
                    event = await self._queue.get()
            except TimeoutError:
                return
            if isinstance(event, MemberAnswer) and event.member in speaking:
                speaking.discard(event.member)
                if event.error is None:
                    yield replace(event, error=self._why)

    async def end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._outcome.spared = len(self._waiting)

    def missing(self) -> list[MemberAnswer]:
        """Those who were asked and are not waited for, with the reason."""
        why = self._why
        if self._outcome.leader is not None and self._outcome.leader in self._outcome.answers:
            why = Cancelled("another was faster")
        elif self._patience.quorum is not None and len(self._outcome.good) >= self._patience.quorum:
            why = Cancelled("enough others had answered")
        self._why = why
        return [
            replace(
                self._unanswered(self._members[number]),
                text="" if self._outcome.leader is not None else self._so_far(number),
                seconds=self._since_s(number),
                error=why,
            )
            for number in self._tasks
            if number not in self._outcome.answers
        ]

    def _so_far(self, number: int) -> str:
        return self._said.get(number, bytearray()).decode("utf-8", "ignore")

    def _unanswered(self, member: Member) -> MemberAnswer:
        return MemberAnswer(
            node_id=member.node_id, node_name=member.node_name, model=member.model, member=member.number
        )

    def _since_s(self, number: int) -> float:
        return self._clock.monotonic_s() - self._asked_at_s[number]

    async def _one(self, member: Member) -> None:
        answer = self._unanswered(member)
        try:
            async with aclosing(self._ask(member)) as events:
                async for event in events:
                    if isinstance(event, MemberDelta):
                        self._said.setdefault(member.number, bytearray()).extend(event.text)
                        if not self._late:
                            await self._queue.put(event)
                    else:
                        answer = event
                        break
                else:
                    raise NoAnswer(f"node {member.node_name} ended its answer without an end")
        except ClusterError as error:
            answer = replace(answer, error=error)
        except Exception:
            # The edge of one member: a bug in it must be heard of, and not hold up the others until the deadline.
            log.exception("asking node %s broke", member.node_name)
            answer = replace(answer, error=InternalError("internal error"))
        await self._queue.put(replace(answer, seconds=self._since_s(member.number)))
