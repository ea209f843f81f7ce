"""Sessions as documents: JSON that can be imported again with all branches, and Markdown of the branch shown."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import msgspec

from chorus_http.chats.bodies import ImportBody, ImportedMessage
from chorus_http.chats.records import (
    AnswerFacts,
    ChatMessage,
    ChatSession,
    MessageId,
    Role,
    SessionId,
    TitleFrom,
    new_message_id,
    new_session_id,
)
from chorus_http.chats.shown import Json
from chorus_http.chats.store import MESSAGES_LIMIT
from chorus_http.chats.titles import TITLE_CHARACTERS, UNTITLED
from chorus_http.chats.tree import Tree
from chorus_proto.dialects.fields import as_object, read_fields
from chorus_proto.dialects.strict_json import JsonValue, load_object
from chorus_proto.errors import InvalidRequest

FORMAT = 1
_MOST_VALUES = 40 * MESSAGES_LIMIT


def as_json(session: ChatSession, messages: list[ChatMessage]) -> Json:
    """All branches. Ids serve only to tell the branches apart: an import makes new ones."""
    return {
        "chorus_chat": FORMAT,
        "title": session.title,
        "model": session.model,
        "system": session.system,
        "created_unix_s": session.created_unix_s,
        "head": session.head,
        "messages": [msgspec.to_builtins(message) for message in messages],
    }


def as_markdown(session: ChatSession, messages: list[ChatMessage]) -> str:
    """The branch that is shown, for people."""
    parts = [f"# {session.title}", f"*{_day(session.created_unix_s)}*"]
    if session.system:
        parts.append("> " + session.system.replace("\n", "\n> "))
    for message in Tree(messages).line(session.head):
        facts = message.answer
        by = "You" if message.role is Role.USER else (facts.model if facts is not None else "Assistant")
        parts += [f"## {by}", message.content]
        if facts is not None and facts.trimmed is not None:
            parts.append(f"*({facts.trimmed.dropped_messages} earlier messages did not fit the model's context)*")
        if facts is not None and facts.finish_reason in ("stopped", "failed"):
            parts.append(f"*(not finished: {facts.error or facts.finish_reason})*")
    return "\n\n".join(parts) + "\n"


def file_name(session: ChatSession, ending: str) -> str:
    """A name that every system takes, for a header."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", session.title).strip("-").lower()[:60]
    return f"{plain or 'chat'}.{ending}"


def _day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))


@dataclass(frozen=True, slots=True)
class Imported:
    session: ChatSession
    messages: list[ChatMessage]


def imported(raw: bytes, owner: str, now_unix_s: float) -> Imported:
    """A document that `as_json` made, or a plain list of messages as OpenAI's API has them.

    A first message of the role system becomes the session's system prompt. Raises InvalidJson, InvalidRequest or
    UnknownParameter naming the part at fault.
    """
    document = read_fields(load_object(raw, most_nodes=_MOST_VALUES), ImportBody, refused={})
    if document.chorus_chat is not None and document.chorus_chat > FORMAT:
        raise InvalidRequest("A newer Chorus wrote this chat; upgrade this one.", param="chorus_chat")
    rows = _rows(document.messages)
    system = document.system or ""
    if rows and rows[0].role in ("system", "developer") and not system:
        system, rows = rows[0].content, rows[1:]
    names: dict[str, MessageId] = {}
    messages: list[ChatMessage] = []
    for index, row in enumerate(rows):
        message = _read(row, f"messages[{index}]", names, messages, now_unix_s)
        if row.id is not None:
            if row.id in names:
                raise InvalidRequest(f"The id of messages[{index}] stands twice.", param=f"messages[{index}].id")
            names[row.id] = message.id
        messages.append(message)
    head = messages[-1].id if messages else None
    if document.head is not None:
        head = names.get(document.head)
        if head is None:
            raise InvalidRequest("'head' names no message of this chat.", param="head")
    session = ChatSession(
        id=SessionId(new_session_id()),
        owner=owner,
        title=checked_title(document.title) if document.title else UNTITLED,
        title_from=TitleFrom.PERSON if document.title else TitleFrom.NOTHING,
        model=checked_name(document.model) if document.model else None,
        system=checked_text(system, "system"),
        head=head,
        revision=1,
        created_unix_s=document.created_unix_s if document.created_unix_s is not None else now_unix_s,
        updated_unix_s=now_unix_s,
    )
    return Imported(session, messages)


def _rows(value: JsonValue) -> list[ImportedMessage]:
    if not isinstance(value, list):
        raise InvalidRequest("Invalid 'messages': expected an array of messages.", param="messages")
    if len(value) > MESSAGES_LIMIT:
        raise InvalidRequest(f"The chat has more than {MESSAGES_LIMIT} messages.", param="messages")
    return [
        read_fields(as_object(row, f"messages[{i}]"), ImportedMessage, refused={}, at=f"messages[{i}]")
        for i, row in enumerate(value)
    ]


def _read(
    row: ImportedMessage, at: str, names: dict[str, MessageId], before: list[ChatMessage], now_unix_s: float
) -> ChatMessage:
    try:
        role = Role(row.role)
    except ValueError:
        raise InvalidRequest(f"Invalid '{at}.role': expected user or assistant.", param=f"{at}.role") from None
    if row.id is None:
        parent = before[-1].id if before else None
    elif row.parent_id is None:
        parent = None
    else:
        # Messages stand after the ones that they answer, so there can be no circle.
        parent = names.get(row.parent_id)
        if parent is None:
            raise InvalidRequest(f"'{at}.parent_id' names no message before it.", param=f"{at}.parent_id")
    facts = None
    if role is Role.ASSISTANT and row.answer is not None:
        try:
            facts = msgspec.convert(row.answer, AnswerFacts)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"Invalid '{at}.answer': {error}.", param=f"{at}.answer") from None
        facts = msgspec.structs.replace(facts, trimmed=None)
    return ChatMessage(
        id=new_message_id(),
        parent_id=parent,
        role=role,
        content=checked_text(row.content, f"{at}.content"),
        created_unix_s=row.created_unix_s if row.created_unix_s is not None else now_unix_s,
        answer=facts,
    )


def checked_title(title: str) -> str:
    """One line of printable text, without white space around it. Raises InvalidRequest."""
    plain = title.strip()
    if not plain or not plain.isprintable() or len(plain) > TITLE_CHARACTERS:
        raise InvalidRequest(
            f"Invalid 'title': expected one line of 1 to {TITLE_CHARACTERS} printable characters.", param="title"
        )
    return plain


def checked_name(model: str) -> str:
    """Raises InvalidRequest for what cannot name a model; whether there is one is asked when it is needed."""
    if not model.isprintable():
        raise InvalidRequest("Invalid 'model': it holds a control character.", param="model")
    return model


def checked_text(text: str, param: str) -> str:
    """Raises InvalidRequest: SQLite and C programs end a text at a NUL character."""
    if "\0" in text:
        raise InvalidRequest(f"Invalid '{param}': it holds a NUL character.", param=param)
    return text
