"""What a chat session is made of, as frozen values. Times are seconds since 1970, tokens the engine's own counts."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import NewType

import msgspec

SessionId = NewType("SessionId", str)
"""24 hexadecimal digits."""

MessageId = NewType("MessageId", str)
"""24 hexadecimal digits; never used twice, also not by an import."""


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


class TitleFrom(StrEnum):
    """Where a session's title comes from; a better source replaces a worse one, and never a person's word."""

    NOTHING = "nothing"
    QUESTION = "question"
    MODEL = "model"
    PERSON = "person"


class Trimmed(msgspec.Struct, frozen=True, kw_only=True):
    """What of a conversation the model did not see, because its context is too small for all of it."""

    dropped_messages: int
    kept_messages: int
    context_tokens: int
    """Of the model; 0 when only its refusal told that the conversation is too long."""
    first_kept_id: MessageId


class MemberShown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One member of a council: what it said, or why it did not."""

    node: str
    model: str
    text: str = ""
    seconds: float = 0.0
    tokens: int = 0
    weight: float | None = None
    agrees: bool | None = None
    error: str = ""


class CouncilShown(msgspec.Struct, frozen=True, kw_only=True):
    """How a council came to its answer. `disagreement` is the share of the votes against it, 0-1."""

    strategy: str
    disagreement: float
    members: tuple[MemberShown, ...]


class SourceShown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A passage of a document that the model was given under `number`; `cited`: its answer names it."""

    number: int
    document_id: str
    title: str
    text: str
    headings: tuple[str, ...] = ()
    page: int | None = None
    source: str | None = None
    cited: bool = False


class AnswerFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one answer came about."""

    model: str
    node: str = ""
    finish_reason: str = ""
    """The engine's; `stopped` when a person stopped it or left, `failed` when it broke off."""
    error: str = ""
    prompt_tokens: int = 0
    prompt_bytes: int = 0
    """Text that the prompt tokens stand for; the two together tell how this model counts."""
    completion_tokens: int = 0
    seconds: float = 0.0
    trimmed: Trimmed | None = None
    council: CouncilShown | None = None
    sources: tuple[SourceShown, ...] | None = None
    """None: no documents were asked for; empty: they hold nothing about the question."""
    wrong_citations: tuple[int, ...] = ()
    """Numbers that the answer names and that no passage had."""


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message. Those with the same parent are versions of each other: edits, or answers given anew."""

    id: MessageId
    parent_id: MessageId | None
    role: Role
    content: str
    created_unix_s: float
    answer: AnswerFacts | None = None


class ChatSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session without its messages. `model` None: whichever able one is ready when it is asked."""

    id: SessionId
    owner: str
    title: str
    title_from: TitleFrom
    model: str | None
    system: str
    head: MessageId | None
    """The message that is shown last."""
    revision: int
    """Grows with every change; a tab that sees a gap reads the session anew."""
    created_unix_s: float
    updated_unix_s: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A message, or with `message_id` None a title, that a search has found; `snippet` marks the words with [ ]."""

    session_id: SessionId
    title: str
    message_id: MessageId | None
    role: Role | None
    snippet: str
    created_unix_s: float


def new_session_id() -> SessionId:
    return SessionId(secrets.token_hex(12))


def new_message_id() -> MessageId:
    return MessageId(secrets.token_hex(12))
