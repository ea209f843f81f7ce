"""What a person does with a chat session: say, edit, ask again, stop, name. Whatever happens is told to all its tabs.

A question is on the disk before a node hears of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from chorus_http.chat_documents import ChatDocuments
from chorus_http.chats.answering import Answers, Wish
from chorus_http.chats.asking import Asking, Question, Text
from chorus_http.chats.events import ChatEvent, ChatEventKind, ChatEvents, everything_of
from chorus_http.chats.models import model_for_titles, model_to_ask
from chorus_http.chats.records import (
    ChatMessage,
    ChatSession,
    MessageId,
    Role,
    SessionId,
    TitleFrom,
    new_message_id,
    new_session_id,
)
from chorus_http.chats.shown import message_shown, session_shown
from chorus_http.chats.store import ChatStore
from chorus_http.chats.titles import UNTITLED, title_of_answer, title_of_question, title_wanted
from chorus_http.chats.tree import Tree
from chorus_http.state import StateReader
from chorus_proto.clock import Clock
from chorus_proto.errors import InvalidRequest, NoAnswer, SessionBusy

TITLE_WITHIN_S = 60.0


class Conversations:
    """All sessions of this process's callers."""

    def __init__(
        self,
        store: ChatStore,
        ask: Asking,
        states: StateReader,
        clock: Clock,
        *,
        events: ChatEvents | None = None,
        documents: ChatDocuments | None = None,
    ) -> None:
        self.store = store
        self._ask = ask
        self._states = states
        self._clock = clock
        self._events = events or ChatEvents()
        self._answers = Answers(store, ask, states, self._events, clock, documents)
        self._taken: set[SessionId] = set()

    # Sessions -----------------------------------------------------------------------------------------------------

    async def create(self, owner: str, *, title: str | None, model: str | None, system: str) -> ChatSession:
        """Raises InvalidRequest when the owner has too many."""
        now_unix_s = self._clock.unix_s()
        session = ChatSession(
            id=new_session_id(),
            owner=owner,
            title=title or UNTITLED,
            title_from=TitleFrom.PERSON if title else TitleFrom.NOTHING,
            model=model,
            system=system,
            head=None,
            revision=1,
            created_unix_s=now_unix_s,
            updated_unix_s=now_unix_s,
        )
        await self.add(session)
        return session

    async def add(self, session: ChatSession, messages: list[ChatMessage] | None = None) -> None:
        """A session that comes from elsewhere. Raises InvalidRequest when the owner has too many."""
        await self.store.add(session, messages or [])
        self._events.tell_changed(session)

    async def change(
        self,
        owner: str,
        session_id: str,
        *,
        title: str | None = None,
        model: str | None = None,
        system: str | None = None,
        head: str | None = None,
    ) -> ChatSession:
        """See `ChatStore.change`. `head` shows the branch of that message up to its newest end."""
        end = None
        if head is not None:
            _, messages = await self.store.whole(owner, session_id)
            end = Tree(messages).newest_end(head)
        named = None if title is None else (title, TitleFrom.PERSON)
        session = await self.store.change(
            owner, session_id, title=named, model=model, system=system, head=end, now_unix_s=self._clock.unix_s()
        )
        self._events.tell_changed(session)
        return session

    async def delete(self, owner: str, session_id: str) -> None:
        """An answer that is being made ends with it."""
        session = await self.store.session(owner, session_id)
        await self.store.delete(owner, session.id)
        self._answers.stop(session)
        self._events.tell_deleted(owner, session.id)

    def running(self, session: ChatSession) -> dict[str, object] | None:
        """The answer that is being made in this session, as far as it has come."""
        return self._answers.running(session)

    async def stop(self, owner: str, session_id: str) -> bool:
        """End the answer that is being made; what it said is kept. False when there was none."""
        return self._answers.stop(await self.store.session(owner, session_id))

    async def watch(self, owner: str, session_id: str, *, within_s: float) -> AsyncGenerator[ChatEvent, None]:
        """What happens in a session, beginning with its revision and the answer that is being made."""

        async def first() -> ChatEvent:
            session = await self.store.session(owner, session_id)
            shown: dict[str, object] = {"session": session_shown(session), "running": self.running(session)}
            return ChatEvent(ChatEventKind.SNAPSHOT, shown)

        async with aclosing(self._events.watch(session_id, first, within_s=within_s)) as events:
            async for event in events:
                yield event

    async def watch_all(self, owner: str, *, within_s: float) -> AsyncGenerator[ChatEvent, None]:
        """Which of the owner's sessions change, come and go."""

        async def first() -> ChatEvent:
            return ChatEvent(ChatEventKind.SNAPSHOT, {})

        async with aclosing(self._events.watch(everything_of(owner), first, within_s=within_s)) as events:
            async for event in events:
                yield event

    # Talking ------------------------------------------------------------------------------------------------------

    async def say(
        self,
        owner: str,
        session_id: str,
        content: str,
        wish: Wish,
        *,
        after: str | None = None,
        edits: str | None = None,
    ) -> AsyncGenerator[ChatEvent, None]:
        """Add a message and have it answered: the message, the answer's beginning, its text, then a `LastEvent`.

        It goes to the end of what is shown, or after the answer `after`, or beside the message `edits`. One that
        was never answered is replaced by the next, as a new version: a caller who tries again is not heard twice.
        Raises NotFound, ModelNotFound, SessionBusy and what the answer fails with; the message stays then.
        """
        async with self._alone(owner, session_id) as session:
            _, messages = await self.store.whole(owner, session.id)
            tree = Tree(messages)
            await self._answers.model(session, wish)  # before anything is written down
            message = ChatMessage(
                id=new_message_id(),
                parent_id=_place(tree, session.head, after, edits),
                role=Role.USER,
                content=content,
                created_unix_s=self._clock.unix_s(),
            )
            title = (title_of_question(content), TitleFrom.QUESTION)
            session = await self.store.append(owner, session.id, message, title=title)
            told = ChatEvent(
                ChatEventKind.MESSAGE, {"message": message_shown(message), "session": session_shown(session)}
            )
            self._events.tell_of(session, told)
            yield told
            line = [*tree.line(message.parent_id), message]
            async with aclosing(self._answers.make(session, line, wish)) as events:
                async for event in events:
                    yield event

    async def again(self, owner: str, session_id: str, message_id: str, wish: Wish) -> AsyncGenerator[ChatEvent, None]:
        """Answer a question anew, beside the answers that it has; `message_id` is the question's or an answer's.

        Raises as `say` does.
        """
        async with self._alone(owner, session_id) as session:
            _, messages = await self.store.whole(owner, session.id)
            tree = Tree(messages)
            message = tree.find(message_id)
            line = tree.line(message.id if message.role is Role.USER else message.parent_id)
            if not line:
                raise InvalidRequest("This message answers nothing.", param="message_id")
            async with aclosing(self._answers.make(session, line, wish)) as events:
                async for event in events:
                    yield event

    async def name(self, owner: str, session_id: str, wish: Wish) -> ChatSession:
        """Have the smallest model make the title, unless a person gave one. Raises InvalidRequest for an empty chat."""
        session, messages = await self.store.whole(owner, session_id)
        line = Tree(messages).line(session.head)
        if not line:
            raise InvalidRequest("There is nothing yet to make a title of.")
        state = await self._states.state()
        model = model_for_titles(state) if wish.model is None else model_to_ask(state, wish.model)[0]
        wanted = title_wanted(line)
        question = Question(
            request_id=wish.request_id,
            model=model,
            generation=wanted,
            prompt_bytes=sum(len(one.content.encode()) for one in wanted.messages or ()),
            within_s=min(TITLE_WITHIN_S, wish.within_s),
            user=wish.user,
            key_id=wish.key_id,
        )
        text = ""
        async with aclosing(self._ask(question)) as pieces:
            async for piece in pieces:
                text += piece.text if isinstance(piece, Text) else ""
        title = title_of_answer(text)
        if not title:
            raise NoAnswer(f"Model {model} gave no title.")
        session = await self.store.change(
            owner, session.id, title=(title, TitleFrom.MODEL), now_unix_s=self._clock.unix_s()
        )
        self._events.tell_changed(session)
        return session

    @asynccontextmanager
    async def _alone(self, owner: str, session_id: str) -> AsyncGenerator[ChatSession]:
        """One answer at a time in a session, so that all its tabs show the same. Raises NotFound and SessionBusy."""
        session = await self.store.session(owner, session_id)
        if session.id in self._taken:
            raise SessionBusy("An answer is being written in this chat; stop it, or wait for its end.", retry_after_s=2)
        self._taken.add(session.id)
        try:
            yield session
        finally:
            self._taken.discard(session.id)


def _place(tree: Tree, head: MessageId | None, after: str | None, edits: str | None) -> MessageId | None:
    """The parent of the next message. Raises NotFound and InvalidRequest."""
    if edits is not None:
        edited = tree.find(edits)
        if edited.role is not Role.USER:
            raise InvalidRequest("Only one's own message can be edited.", param="edits")
        return edited.parent_id
    if after is not None:
        before = tree.find(after)
        if before.role is not Role.ASSISTANT:
            raise InvalidRequest("A message goes after an answer.", param="after")
        return before.id
    if head is None:
        return None
    last = tree.find(head)
    return last.id if last.role is Role.ASSISTANT else last.parent_id
