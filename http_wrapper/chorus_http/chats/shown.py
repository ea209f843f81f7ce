"""Sessions and messages as callers see them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from chorus_http.chats.records import ChatMessage, ChatSession, Found
from chorus_http.chats.tree import Tree

Json = dict[str, object]


def session_shown(session: ChatSession) -> Json:
    """Without its owner, who is the caller."""
    return {name: value for name, value in msgspec.structs.asdict(session).items() if name != "owner"}


def whole_shown(session: ChatSession, messages: Sequence[ChatMessage], *, branches: bool) -> Json:
    """The session with the messages of the branch that is shown, or with all."""
    tree = Tree(messages)
    shown = messages if branches else tree.line(session.head)
    return {**session_shown(session), "messages": messages_shown(tree, shown)}


def messages_shown(tree: Tree, messages: Iterable[ChatMessage]) -> list[Json]:
    """`versions` are the ids of the messages that stand in the same place in different branches."""
    return [{**message_shown(message), "versions": tree.versions(message)} for message in messages]


def message_shown(message: ChatMessage) -> Json:
    return {
        "id": message.id,
        "parent_id": message.parent_id,
        "role": message.role,
        "content": message.content,
        "created_unix_s": message.created_unix_s,
        "answer": None if message.answer is None else msgspec.to_builtins(message.answer),
    }


def found_shown(found: Found) -> Json:
    return msgspec.structs.asdict(found)
