"""Titles of sessions: the first words of the question at once, a small model's words when asked. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chorus_http.chats.records import ChatMessage, Role
from chorus_proto.generation import Generation, Message

UNTITLED = "New chat"
TITLE_CHARACTERS = 200
_QUESTION_CHARACTERS = 60
_MODEL_CHARACTERS = 80
_READ_CHARACTERS = 500
"""Of the question and of the answer, that the model sees."""

_ASKED = "Write a title of at most six words for this conversation. Answer with the title alone.\n\n"
_MARKS = " \t\"'`*_#.\u201c\u201d\u2018\u2019\u00ab\u00bb"
_LABEL = re.compile(r"^\W*title\W*:\s*", re.IGNORECASE)


def title_of_question(question: str) -> str:
    """The question's beginning, cut between words; `UNTITLED` for one without a word."""
    return _cut(" ".join(question.split()), _QUESTION_CHARACTERS) or UNTITLED


def title_wanted(line: Sequence[ChatMessage]) -> Generation:
    """What a model is asked. `line` has a question."""
    said = [f"{role}: {message.content[:_READ_CHARACTERS]}" for role, message in _opening(line)]
    return Generation(
        messages=(Message(role="user", content=_ASKED + "\n".join(said)),), max_tokens=32, temperature=0.2
    )


def title_of_answer(text: str) -> str:
    """The model's title, freed of what models put around one; "" when there is none."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip(_MARKS)]
    if not lines:
        return ""
    plain = "".join(c for c in _LABEL.sub("", lines[0]) if c.isprintable())
    return _cut(" ".join(plain.split()).strip(_MARKS), _MODEL_CHARACTERS)


def _opening(line: Sequence[ChatMessage]) -> list[tuple[str, ChatMessage]]:
    question = next((message for message in line if message.role is Role.USER), None)
    answer = next((message for message in line if message.role is Role.ASSISTANT), None)
    return [(role, message) for role, message in (("User", question), ("Assistant", answer)) if message is not None]


def _cut(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    begin, _, _ = text[: characters + 1].rpartition(" ")
    return f"{begin or text[:characters]}…"
