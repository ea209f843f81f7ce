"""Makes one answer in a session: asks, shows what comes, and keeps it however it ends.

An answer belongs to the request that asked for it. When that request ends early, or somebody stops it, what was said
so far is kept and marked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from chorus_http.chat_documents import ChatDocuments
from chorus_http.chats.asking import Agreed, Asking, Begun, Ended, Piece, Question, Said, Text
from chorus_http.chats.events import ChatEvent, ChatEventKind, ChatEvents, LastEvent
from chorus_http.chats.history import Fitted, fitted
from chorus_http.chats.models import model_to_ask
from chorus_http.chats.records import (
    AnswerFacts,
    ChatMessage,
    ChatSession,
    MessageId,
    Role,
    SessionId,
    new_message_id,
)
from chorus_http.chats.shown import message_shown, session_shown
from chorus_http.chats.sources import cited, with_passages
from chorus_http.chats.store import ChatStore
from chorus_http.rag.bodies import ChatOption
from chorus_http.state import StateReader
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, ContextLengthExceeded, NotFound
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Usage

log = logging.getLogger(__name__)

REFUSALS_LIMIT = 4
"""So often a conversation that the model finds too long is shortened and sent again."""
KEEP_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How one answer is to be made. `model` is for this answer alone; `sampling` has no messages yet."""

    request_id: RequestId
    user: str
    within_s: float
    key_id: str = ""
    model: str | None = None
    sampling: Generation = field(default_factory=Generation)
    rag: ChatOption | None = None
    """Which documents the question is put together with; None: none."""


@dataclass(slots=True, kw_only=True)
class _Running:
    """An answer that is being made."""

    message_id: MessageId
    question_id: MessageId
    began_s: float
    facts: AnswerFacts
    text: str = ""
    text_units: int = 0
    """Length of `text` as browsers count it: in UTF-16 code units."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def shown(self) -> dict[str, object]:
        return {
            "message_id": self.message_id,
            "parent_id": self.question_id,
            "model": self.facts.model,
            "node": self.facts.node,
            "content": self.text,
            "sources": msgspec.to_builtins(self.facts.sources),
        }


class Answers:
    """The answers that are being made, at most one in a session."""

    def __init__(
        self,
        store: ChatStore,
        ask: Asking,
        states: StateReader,
        events: ChatEvents,
        clock: Clock,
        documents: ChatDocuments | None = None,
    ) -> None:
        self._documents = documents
        self._store = store
        self._ask = ask
        self._states = states
        self._events = events
        self._clock = clock
        self._running: dict[SessionId, _Running] = {}

    def running(self, session: ChatSession) -> dict[str, object] | None:
        """The one that is being made in this session, as far as it has come."""
        running = self._running.get(session.id)
        return None if running is None else running.shown()

    def stop(self, session: ChatSession) -> bool:
        """End the one that is being made; what it said is kept. False when there was none."""
        running = self._running.get(session.id)
        if running is not None:
            running.stop.set()
        return running is not None

    async def model(self, session: ChatSession, wish: Wish) -> tuple[ModelName, int]:
        """Name and context (0: unknown) of the model that answers. Raises ModelNotFound, NoReplica."""
        return model_to_ask(await self._states.state(), wish.model or session.model)

    async def make(self, session: ChatSession, line: list[ChatMessage], wish: Wish) -> AsyncGenerator[ChatEvent, None]:
        """Answer the end of `line`: `STARTED`, `DELTA`s and a `LastEvent`. Raises ClusterError."""
        model, context_tokens = await self.model(session, wish)
        try:
            line, sources = await with_passages(self._documents, line, wish, context_tokens=context_tokens)
        except ClusterError as error:
            self._tell_failed(session, new_message_id(), error)
            raise
        for refusals in range(REFUSALS_LIMIT + 1):
            sent = fitted(
                line,
                session.system,
                model=model,
                context_tokens=context_tokens,
                answer_tokens=wish.sampling.max_tokens,
                refusals=refusals,
            )
            running = _Running(
                message_id=new_message_id(),
                question_id=line[-1].id,
                began_s=self._clock.monotonic_s(),
                facts=AnswerFacts(model=model, prompt_bytes=sent.prompt_bytes, trimmed=sent.trimmed, sources=sources),
            )
            try:
                async with aclosing(self._run(session, running, sent, wish)) as events:
                    async for event in events:
                        yield event
                return
            except ContextLengthExceeded as error:
                if running.text or refusals == REFUSALS_LIMIT or len(sent.messages) <= 1 + bool(session.system):
                    self._tell_failed(session, running.message_id, error)
                    raise
                log.info("request %s: the chat is too long for %s, and is shortened", wish.request_id, model)
            except ClusterError as error:
                self._tell_failed(session, running.message_id, error)
                raise

    async def _run(
        self, session: ChatSession, running: _Running, sent: Fitted, wish: Wish
    ) -> AsyncGenerator[ChatEvent, None]:
        """One attempt. However it ends, what was said is kept."""
        question = Question(
            request_id=wish.request_id,
            model=ModelName(running.facts.model),
            generation=msgspec.structs.replace(wish.sampling, messages=sent.messages),
            prompt_bytes=sent.prompt_bytes,
            within_s=wish.within_s,
            user=wish.user,
            key_id=wish.key_id,
        )
        self._running[session.id] = running
        complete = False
        try:
            async with aclosing(_stoppable(self._ask(question), running.stop)) as pieces:
                async for piece in pieces:
                    match piece:
                        case Begun():
                            running.facts = msgspec.structs.replace(running.facts, node=piece.node)
                            event = ChatEvent(ChatEventKind.STARTED, self._started(running))
                        case Text():
                            event = ChatEvent(ChatEventKind.DELTA, self._more(running, piece.text))
                        case Said():
                            member = msgspec.to_builtins(piece.member)
                            event = ChatEvent(
                                ChatEventKind.MEMBER, {"message_id": running.message_id, "member": member}
                            )
                        case Agreed():
                            running.facts = msgspec.structs.replace(running.facts, council=piece.council)
                            continue
                        case Ended():
                            complete = True
                            self._ended(running, piece.finish_reason, piece.usage)
                            continue
                    self._events.tell_of(session, event)
                    yield event
            if not complete:
                self._ended(running, "stopped", Usage())
                complete = True
            yield await self._keep(session, running)
        except ClusterError as error:
            if running.text:
                self._ended(running, "failed", Usage(), error=error.message)
                await self._keep(session, running)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not complete and running.text:
                # Whoever asked has left: this is the last moment at which the words can be kept.
                self._ended(running, "stopped", Usage())
                await self._keep(session, running)
            raise
        finally:
            del self._running[session.id]

    def _more(self, running: _Running, text: str) -> dict[str, object]:
        """Take `text` in. `at` tells who joins in which words its snapshot holds already."""
        at = running.text_units
        running.text += text
        running.text_units += len(text.encode("utf-16-le", "surrogatepass")) // 2
        return {"message_id": running.message_id, "at": at, "text": text}

    def _started(self, running: _Running) -> dict[str, object]:
        facts = running.facts
        trimmed = None if facts.trimmed is None else msgspec.to_builtins(facts.trimmed)
        return {**running.shown(), "trimmed": trimmed}

    def _ended(self, running: _Running, finish_reason: str, usage: Usage, *, error: str = "") -> None:
        running.facts = msgspec.structs.replace(
            cited(running.facts, running.text),
            finish_reason=finish_reason,
            error=error,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=self._clock.monotonic_s() - running.began_s,
        )

    async def _keep(self, session: ChatSession, running: _Running) -> LastEvent:
        """Write the answer down and tell of it, or that the session was deleted meanwhile."""
        message = ChatMessage(
            id=running.message_id,
            parent_id=running.question_id,
            role=Role.ASSISTANT,
            content=running.text,
            created_unix_s=self._clock.unix_s(),
            answer=running.facts,
        )
        try:
            async with asyncio.timeout(KEEP_WITHIN_S):
                kept = await self._store.append(session.owner, session.id, message)
        except NotFound:
            return LastEvent(ChatEventKind.DELETED, {"session_id": session.id})
        body: dict[str, object] = {"message": message_shown(message), "session": session_shown(kept)}
        self._events.tell_of(kept, ChatEvent(ChatEventKind.FINISHED, body))
        return LastEvent(ChatEventKind.FINISHED, body)

    def _tell_failed(self, session: ChatSession, message_id: MessageId, error: ClusterError) -> None:
        body: dict[str, object] = {"message_id": message_id, "code": error.code, "message": error.message}
        self._events.tell_of(session, ChatEvent(ChatEventKind.FAILED, body))


async def _stoppable(pieces: AsyncGenerator[Piece, None], stop: asyncio.Event) -> AsyncGenerator[Piece, None]:
    """`pieces` until they end or `stop` is set."""
    stopping = asyncio.create_task(stop.wait(), name="chat:stop")
    try:
        async with aclosing(pieces):
            while True:
                step = asyncio.ensure_future(anext(pieces))
                try:
                    await asyncio.wait((step, stopping), return_when=asyncio.FIRST_COMPLETED)
                    if not step.done():
                        return
                finally:
                    # The generator can be closed only while nobody waits for its next piece.
                    step.cancel()
                    await asyncio.wait((step,))
                try:
                    piece = step.result()
                except StopAsyncIteration:
                    return
                yield piece
    finally:
        stopping.cancel()
