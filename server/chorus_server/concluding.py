"""Makes one answer of what the members of a council said, asking a model for its judgement where that is wanted.

What a judge or a writer cannot do, the votes do: an answer that somebody gave is never lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from chorus_proto.cluster import AskDelta, AskEvent, AskFinished, Call, CallFinished, CallOutput, MemberAnswer
from chorus_proto.errors import ClusterError, DeadlineExceeded
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import AggregateStrategy, Dialect
from chorus_server.aggregate import Aggregate, aggregate, answered, chosen, meaning
from chorus_server.dispatch import Dispatcher
from chorus_server.hearing import Hearing
from chorus_server.judging import MOST_CANDIDATES, judged, judgement_wanted, question_of, synthesis_wanted
from chorus_server.likeness import SAME_FROM, Embedder, by_vectors, lexical, nearest_to_all

log = logging.getLogger(__name__)

EMBED_WITHIN_S = 10.0


class Concluding:
    """Comes to the one answer of each hearing."""

    def __init__(self, dispatcher: Dispatcher, embedder: Embedder | None) -> None:
        self._dispatcher = dispatcher
        self._embedder = embedder

    async def conclude(self, hearing: Hearing) -> AsyncGenerator[AskEvent, None]:
        """What of the one answer was not told yet, then `AskFinished`. Raises ClusterError."""
        strategy = hearing.definition.strategy
        weights = {answer.member: hearing.weights[answer.member] for answer in answered(hearing.last)}
        result = aggregate(strategy, hearing.last, weights)
        if strategy is AggregateStrategy.SEMANTIC:
            result = await self._nearest(hearing, weights)
        elif strategy is AggregateStrategy.JUDGE:
            result = await self._judged(hearing, weights, result)
        elif strategy is AggregateStrategy.SYNTHESISE:
            written = bytearray()
            async with aclosing(self._written(hearing)) as pieces:
                async for piece in pieces:
                    written += piece
                    hearing.shown = True
                    yield AskDelta(piece)
            if written:
                result = replace(result, text=written.decode("utf-8", "replace"))
        if not hearing.shown:
            yield AskDelta(result.text.encode())
        yield self._finished(hearing, result)

    def _finished(self, hearing: Hearing, result: Aggregate) -> AskFinished:
        last = {answer.member for answer in hearing.last}
        winners = set(result.winning_members)
        members = tuple(
            replace(
                answer,
                weight=hearing.weights[answer.member] if answer.error is None else None,
                agrees=answer.member in winners if answer.error is None and answer.member in last else None,
            )
            for answer in hearing.members.values()
        )
        return AskFinished(
            strategy=hearing.definition.strategy,
            text=result.text,
            members=members,
            seconds=hearing.since_s(),
            agreement=result.agreement,
            disagreement=result.disagreement,
            usage=hearing.usage,
            spared=hearing.spared,
            note="; ".join(hearing.notes),
        )

    async def _nearest(self, hearing: Hearing, weights: Mapping[int, float]) -> Aggregate:
        """The answer that is most like all others, by their embeddings where an engine makes some."""
        answers = answered(hearing.last)
        texts = [answer.text for answer in answers]
        likeness = await self._vectors(hearing, texts) if len(texts) > 1 else None
        if likeness is None:
            likeness = lexical(texts)
        index = nearest_to_all(likeness, [weights[answer.member] for answer in answers])
        same = [answer for answer, like in zip(answers, likeness[index], strict=True) if like >= SAME_FROM]
        total, won = sum(weights.values()), sum(weights[answer.member] for answer in same)
        return Aggregate(
            text=answers[index].text,
            agreement=len(same) / len(answers),
            winners=tuple(answer.node_id for answer in same),
            winning_members=tuple(answer.member for answer in same),
            disagreement=max(0.0, 1 - won / total) if total > 0 else 0.0,
        )

    async def _vectors(self, hearing: Hearing, texts: Sequence[str]) -> list[list[float]] | None:
        if self._embedder is not None:
            try:
                vectors = await self._embedder(texts, within_s=min(EMBED_WITHIN_S, hearing.left_s()))
                if vectors is not None:
                    return by_vectors(vectors)
            except ClusterError as error:
                log.info("request %s: no embeddings: %s", hearing.ask.request_id, error.message)
        hearing.notes.append("compared by words: no engine makes embeddings now")
        return None

    async def _judged(self, hearing: Hearing, weights: Mapping[int, float], voted: Aggregate) -> Aggregate:
        """The answer that a model prefers, whichever order it reads them in; `voted` where it has no opinion."""
        answers = answered(hearing.last)
        distinct: dict[str, MemberAnswer] = {}
        for answer in sorted(answers, key=lambda one: -weights[one.member]):
            distinct.setdefault(meaning(answer.text), answer)
        options = list(distinct.values())[:MOST_CANDIDATES]
        if len(options) == 1:
            return voted
        question = question_of(hearing.generation)
        texts = [option.text for option in options]
        model = ModelName(hearing.definition.judge or hearing.best)
        forward, backward = await asyncio.gather(
            self._said(hearing, judgement_wanted(question, texts), model, "judge-1"),
            self._said(hearing, judgement_wanted(question, texts[::-1]), model, "judge-2"),
        )
        first = judged(forward, len(options))
        second = judged(backward, len(options))
        picks = [pick for pick in (first, None if second is None else len(options) - 1 - second) if pick is not None]
        if not picks:
            hearing.notes.append("the judge named no answer: the votes decided")
            return voted
        if len(set(picks)) > 1:
            hearing.notes.append("the judge's choice went with the order of the answers: the votes decided between two")
        # Options stand by weight: of two, the one with more votes.
        return chosen(options[min(picks)], answers, weights)

    async def _said(self, hearing: Hearing, wanted: Generation, model: ModelName, label: str) -> str:
        """What a model says; "" when it cannot."""
        text = b""
        try:
            async with aclosing(self._outputs(hearing, wanted, model, label)) as outputs:
                async for output in outputs:
                    text += output
        except ClusterError as error:
            log.info("request %s: %s of its council failed: %s", hearing.ask.request_id, label, error.message)
        return text.decode("utf-8", "replace")

    async def _written(self, hearing: Hearing) -> AsyncGenerator[bytes, None]:
        """A new answer out of all; nothing when the writer cannot. Raises what it fails with after its first word."""
        texts = [answer.text for answer in answered(hearing.last)]
        wanted = synthesis_wanted(hearing.generation, texts)
        model = ModelName(hearing.definition.judge or hearing.best)
        began = False
        try:
            async with aclosing(self._outputs(hearing, wanted, model, "writer")) as outputs:
                async for output in outputs:
                    began = began or bool(output)
                    yield output
        except ClusterError as error:
            if began:
                raise
            hearing.notes.append(f"nobody could write one answer of all ({error.message}): the votes decided")

    async def _outputs(
        self, hearing: Hearing, wanted: Generation, model: ModelName, label: str
    ) -> AsyncGenerator[bytes, None]:
        ask = hearing.ask
        left_s = hearing.left_s()
        if left_s <= 0:
            raise DeadlineExceeded(f"the request's {ask.within_s:g} s were over before the council had its answer")
        call = Call(
            request_id=RequestId(f"{ask.request_id}-{label}"),
            model=model,
            dialect=Dialect.TEXT,
            stream=True,
            generation=wanted.encoded(),
            prompt_tokens_estimate=ask.prompt_tokens_estimate + sum(len(one.text) for one in hearing.last) // 3,
            within_s=left_s,
            max_tokens=wanted.max_tokens,
            user=ask.user,
            key_id=ask.key_id,
            priority=ask.priority,
        )
        async with aclosing(self._dispatcher.run(call)) as events:
            async for event in events:
                if isinstance(event, CallOutput | CallFinished) and event.payload:
                    yield event.payload
                if isinstance(event, CallFinished):
                    hearing.pay(event.usage)
