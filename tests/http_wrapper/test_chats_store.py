"""Chat sessions on disk: whose they are, what they hold, what a search finds."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from chorus_http.chats.records import (
    AnswerFacts,
    ChatMessage,
    ChatSession,
    MessageId,
    Role,
    SessionId,
    TitleFrom,
    Trimmed,
    new_message_id,
    new_session_id,
)
from chorus_http.chats.store import ChatStore
from chorus_proto.errors import InvalidRequest, NotFound, VersionMismatch

Scenario = Callable[[ChatStore], Awaitable[None]]


def play(folder: Path, scenario: Scenario) -> None:
    async def run() -> None:
        store = ChatStore.open(folder / "chats.sqlite")
        try:
            async with asyncio.timeout(20):
                await scenario(store)
        finally:
            store.close()

    asyncio.run(run())


def a_session(owner: str = "ann", title: str = "New chat", now_unix_s: float = 1.0) -> ChatSession:
    return ChatSession(
        id=new_session_id(),
        owner=owner,
        title=title,
        title_from=TitleFrom.NOTHING,
        model=None,
        system="",
        head=None,
        revision=1,
        created_unix_s=now_unix_s,
        updated_unix_s=now_unix_s,
    )


def a_message(content: str, parent: MessageId | None = None, *, role: Role = Role.USER) -> ChatMessage:
    return ChatMessage(id=new_message_id(), parent_id=parent, role=role, content=content, created_unix_s=5.0)


def test_what_was_said_is_there_after_opening_again(tmp_path: Path) -> None:
    session = a_session()
    question = a_message("What is the capital of France?")
    trimmed = Trimmed(dropped_messages=2, kept_messages=1, context_tokens=64, first_kept_id=question.id)
    facts = AnswerFacts(model="tiny", node="attic", finish_reason="stop", prompt_tokens=9, trimmed=trimmed)
    answer = msgspec.structs.replace(a_message("Paris.", question.id, role=Role.ASSISTANT), answer=facts)

    async def save(store: ChatStore) -> None:
        await store.add(session)
        await store.append("ann", session.id, question, title=("Capitals", TitleFrom.QUESTION))
        await store.append("ann", session.id, answer)

    async def check(store: ChatStore) -> None:
        found, messages = await store.whole("ann", session.id)
        assert messages == [question, answer]
        assert (found.head, found.revision, found.title) == (answer.id, 3, "Capitals")
        assert [one.id for one in await store.sessions("ann", limit=10)] == [session.id]

    play(tmp_path, save)
    play(tmp_path, check)


def test_a_session_of_somebody_else_does_not_exist(tmp_path: Path) -> None:
    async def scenario(store: ChatStore) -> None:
        session = a_session("ann")
        await store.add(session)
        assert await store.sessions("bob", limit=10) == []
        for attempt in (
            store.session("bob", session.id),
            store.whole("bob", session.id),
            store.delete("bob", session.id),
            store.append("bob", session.id, a_message("hello")),
            store.change("bob", session.id, title=("mine", TitleFrom.PERSON), now_unix_s=2),
        ):
            with pytest.raises(NotFound):
                await attempt
        assert (await store.session("ann", session.id)).revision == 1

    play(tmp_path, scenario)


def test_a_better_title_replaces_a_worse_one_and_a_persons_word_stays(tmp_path: Path) -> None:
    async def scenario(store: ChatStore) -> None:
        session = a_session()
        await store.add(session)
        for title, source, expected in (
            ("from the question", TitleFrom.QUESTION, "from the question"),
            ("from a model", TitleFrom.MODEL, "from a model"),
            ("a better one", TitleFrom.MODEL, "a better one"),
            ("a worse one", TitleFrom.QUESTION, "a better one"),
            ("mine", TitleFrom.PERSON, "mine"),
            ("from a model", TitleFrom.MODEL, "mine"),
            ("mine again", TitleFrom.PERSON, "mine again"),
        ):
            changed = await store.change("ann", session.id, title=(title, source), now_unix_s=2)
            assert changed.title == expected

    play(tmp_path, scenario)


def test_deleting_a_session_leaves_nothing_to_be_found(tmp_path: Path) -> None:
    async def scenario(store: ChatStore) -> None:
        session = a_session()
        await store.add(session, [a_message("the zebra speaks")])
        assert len(await store.search("ann", "zebra", limit=5)) == 1
        await store.delete("ann", session.id)
        assert await store.search("ann", "zebra", limit=5) == []
        with pytest.raises(NotFound):
            await store.session("ann", session.id)

    play(tmp_path, scenario)
    with closing(sqlite3.connect(tmp_path / "chats.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (0,)
        # Raises when the index and the text differ.
        connection.execute("INSERT INTO message_text (message_text, rank) VALUES ('integrity-check', 1)")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("capital", 1),
        ("CAPITAL fra", 1),
        ("France capital", 1),
        ("cafe", 1),
        ("café", 1),
        ("capital NOT france", 0),
        ('"capital', 1),
        ("capital*", 1),
        ("content:capital", 0),
        ("cap%", 1),
        ("pital", 0),
        ("100%", 0),
    ],
)
def test_a_search_takes_words_for_words(tmp_path: Path, words: str, found: int) -> None:
    async def scenario(store: ChatStore) -> None:
        await store.add(a_session("ann"), [a_message("What is the capital of France? A Café!")])
        await store.add(a_session("bob"), [a_message("The capital of France is not yours to find. café")])
        assert len(await store.search("ann", words, limit=5)) == found

    play(tmp_path, scenario)


def test_titles_are_found_before_messages_and_the_words_are_marked(tmp_path: Path) -> None:
    async def scenario(store: ChatStore) -> None:
        talk = a_session(title="About sums")
        message = a_message("I like cheese and wine")
        await store.add(talk, [message])
        await store.add(a_session(title="Cheese 100% of the time"))
        by_title, by_text = await store.search("ann", "cheese", limit=5)
        assert (by_title.title, by_title.message_id) == ("Cheese 100% of the time", None)
        assert (by_text.session_id, by_text.message_id) == (talk.id, message.id)
        assert by_text.snippet == "I like [cheese] and wine"
        assert len(await store.search("ann", "100", limit=5)) == 1
        with pytest.raises(InvalidRequest):
            await store.search("ann", " ?! ", limit=5)

    play(tmp_path, scenario)


def test_the_head_must_be_a_message_of_the_session(tmp_path: Path) -> None:
    async def scenario(store: ChatStore) -> None:
        mine, other = a_session(), a_session()
        message = a_message("hello")
        await store.add(mine)
        await store.add(other, [message])
        with pytest.raises(NotFound):
            await store.change("ann", mine.id, head=message.id, now_unix_s=2)
        assert (await store.session("ann", mine.id)).revision == 1

    play(tmp_path, scenario)


def test_facts_that_a_newer_version_wrote_cost_the_facts_and_not_the_words(tmp_path: Path) -> None:
    session = a_session()

    async def save(store: ChatStore) -> None:
        await store.add(session, [a_message("hello")])

    async def check(store: ChatStore) -> None:
        _, (message,) = await store.whole("ann", SessionId(session.id))
        assert (message.content, message.answer) == ("hello", None)

    play(tmp_path, save)
    with closing(sqlite3.connect(tmp_path / "chats.sqlite")) as connection:
        connection.execute("UPDATE message SET answer = ?", (b'{"model": 7}',))
        connection.commit()
    play(tmp_path, check)


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "chats.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(VersionMismatch):
        ChatStore.open(tmp_path / "chats.sqlite")
