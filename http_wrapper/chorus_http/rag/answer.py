"""One question's answer from documents, as a whole or as events: `sources` once, `delta` for each piece of text,
`finished`."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator

from chorus_http.exchange import Exchange
from chorus_http.rag.asking import Asked
from chorus_http.rag.bodies import AskReply, Unanswered
from chorus_http.rag.documents import Passage
from chorus_http.rag.prompt import citations_of
from chorus_http.rag.shown import shown_sources
from chorus_http.rag.support import MarkerFilter
from chorus_http.replies import encoded
from chorus_http.sse import named_event
from chorus_proto.cluster import CallEvent, CallFinished, CallOutput, CallStarted
from chorus_proto.values import Usage

NO_ANSWER = {
    Unanswered.NOTHING_FOUND: "The documents hold nothing about this.",
    Unanswered.TOO_FAR: "The documents seem to hold nothing about this; what comes nearest is among the sources.",
}
"""Said instead of asking a model, which would make something up."""


class DocumentAnswer:
    """`passages` are those that the model is given, `similarity` is how near the nearest came."""

    def __init__(self, exchange: Exchange, question: str, *, reranked: bool) -> None:
        self._exchange = exchange
        self._question = question
        self._reranked = reranked
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._marker = MarkerFilter()
        self._text: list[str] = []
        self._started: CallStarted | None = None
        self.passages: list[Passage] = []
        self.similarity: float | None = None

    def whole(self, asked: Asked) -> AskReply:
        text = self._marker.feed(asked.text, last=True)
        return self._reply(text, asked.model, asked.node, asked.finish_reason, asked.usage, because=self._because())

    def without(self, because: Unanswered) -> AskReply:
        """No model was asked."""
        return self._reply(NO_ANSWER[because], None, None, None, Usage(), because=because)

    async def streamed_without(self, because: Unanswered) -> AsyncGenerator[bytes, None]:
        reply = self.without(because)
        yield named_event("sources", encoded({"sources": reply.sources}))
        yield named_event("delta", encoded({"text": reply.answer}))
        yield named_event("finished", encoded(reply))

    def render(self, event: CallEvent) -> bytes:
        match event:
            case CallStarted():
                first, self._started = self._started is None, event
                if not first:
                    return b""
                return named_event("sources", encoded({"sources": shown_sources(self.passages, set())}))
            case CallOutput():
                return self._delta(event.payload)
            case CallFinished():
                last = self._delta(event.payload, last=True)
                model = self._started.model if self._started is not None else None
                node = self._started.node_name if self._started is not None else None
                text = "".join(self._text)
                because = self._because()
                reply = self._reply(text, model, node, event.finish_reason, event.usage, because=because)
                return last + named_event("finished", encoded(reply))
            case _:
                return b""

    def _because(self) -> Unanswered | None:
        return Unanswered.MODEL if self._marker.found else None

    def _delta(self, payload: bytes, *, last: bool = False) -> bytes:
        text = self._marker.feed(self._decoder.decode(payload, last), last=last)
        self._text.append(text)
        return named_event("delta", encoded({"text": text})) if text else b""

    def _reply(
        self,
        text: str,
        model: str | None,
        node: str | None,
        finish_reason: str | None,
        usage: Usage,
        *,
        because: Unanswered | None,
    ) -> AskReply:
        cited, wrong = citations_of(text, self.passages)
        order = [citation.number for citation in cited]
        sources = shown_sources(self.passages, set(order))
        return AskReply(
            request_id=self._exchange.request_id,
            question=self._question,
            answer=text,
            answered=because is None,
            unanswered_because=because,
            similarity=self.similarity,
            model=model,
            node=node,
            finish_reason=finish_reason,
            citations=tuple(sources[number - 1] for number in order),
            wrong_citations=tuple(wrong),
            sources=sources,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            reranked=self._reranked,
        )
