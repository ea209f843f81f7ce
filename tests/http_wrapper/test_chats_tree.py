"""Branches of a session."""

from __future__ import annotations

import pytest

from chorus_http.chats.records import ChatMessage, MessageId, Role
from chorus_http.chats.tree import Tree
from chorus_proto.errors import NotFound


def message(name: str, parent: str | None, role: Role = Role.USER) -> ChatMessage:
    parent_id = None if parent is None else MessageId(parent)
    return ChatMessage(id=MessageId(name), parent_id=parent_id, role=role, content=name, created_unix_s=0)


TREE = Tree(
    [
        message("q1", None),
        message("a1", "q1", Role.ASSISTANT),
        message("q2", "a1"),
        message("a2", "q2", Role.ASSISTANT),
        message("a1 again", "q1", Role.ASSISTANT),
        message("q1 edited", None),
    ]
)


def test_a_line_runs_from_the_first_message_to_the_head() -> None:
    assert [one.id for one in TREE.line(MessageId("a2"))] == ["q1", "a1", "q2", "a2"]
    assert TREE.line(None) == []


def test_versions_stand_in_the_same_place() -> None:
    assert TREE.versions(TREE.find("a1")) == ["a1", "a1 again"]
    assert TREE.versions(TREE.find("q1 edited")) == ["q1", "q1 edited"]
    assert TREE.versions(TREE.find("a2")) == ["a2"]


def test_a_branch_goes_on_to_its_newest_end() -> None:
    assert TREE.newest_end("a1") == "a2"
    assert TREE.newest_end("q1") == "a1 again"


def test_a_message_that_is_not_there_is_said_so() -> None:
    with pytest.raises(NotFound, match="q9"):
        TREE.line(MessageId("q9"))
