"""What the routes of chat sessions take and give, as typed JSON. Answers may gain fields; requests refuse others."""

from __future__ import annotations

from typing import Annotated

import msgspec

from chorus_http.chats.records import AnswerFacts, Found, MessageId, Role, SessionId, TitleFrom
from chorus_http.chats.titles import TITLE_CHARACTERS
from chorus_proto.dialects.fields import ModelText, Temperature, Text, TokenLimit, TopP, Unchecked

MessageIdText = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]

_UnixSeconds = Annotated[float, msgspec.Meta(ge=0, le=2**40)]


class NewSession(msgspec.Struct):
    """POST /chat/sessions."""

    title: str | None = None
    model: ModelText | None = None
    system: str | None = None


class SessionChange(msgspec.Struct):
    """PATCH of a session. What is left out stays; a model of null leaves the choice open."""

    title: str | msgspec.UnsetType = msgspec.UNSET
    model: ModelText | msgspec.UnsetType | None = msgspec.UNSET
    system: str | msgspec.UnsetType | None = msgspec.UNSET


class TitleBody(msgspec.Struct):
    title: str


class HeadBody(msgspec.Struct):
    message_id: MessageIdText


class AnswerBody(msgspec.Struct, kw_only=True):
    """How an answer is to be made."""

    stream: bool | None = None
    model: ModelText | None = None
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: int | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    rag: Unchecked = None


class MessageBody(AnswerBody, kw_only=True):
    content: Text
    after: MessageIdText | None = None
    edits: MessageIdText | None = None


class NamingBody(msgspec.Struct):
    model: ModelText | None = None


class ImportBody(msgspec.Struct):
    """POST /chat/sessions/import: what an export gave, or a plain list of messages as OpenAI's API has them."""

    messages: Unchecked
    chorus_chat: Annotated[int, msgspec.Meta(ge=1)] | None = None
    title: Annotated[str, msgspec.Meta(max_length=TITLE_CHARACTERS)] | None = None
    model: ModelText | None = None
    system: str | None = None
    created_unix_s: _UnixSeconds | None = None
    head: str | None = None


class ImportedMessage(msgspec.Struct):
    role: str
    content: str
    id: MessageIdText | None = None
    parent_id: str | None = None
    created_unix_s: _UnixSeconds | None = None
    answer: Unchecked = None


class SessionReply(msgspec.Struct, kw_only=True):
    """A session without its messages."""

    id: SessionId
    title: str
    title_from: TitleFrom
    model: str | None
    system: str
    head: MessageId | None
    revision: int
    created_unix_s: float
    updated_unix_s: float


class MessageReply(msgspec.Struct, kw_only=True):
    id: MessageId
    parent_id: MessageId | None
    role: Role
    content: str
    created_unix_s: float
    answer: AnswerFacts | None


class BranchMessageReply(MessageReply, kw_only=True):
    """`versions`: the ids of the messages that stand in the same place in different branches."""

    versions: tuple[MessageId, ...]


class WholeSessionReply(SessionReply, kw_only=True):
    messages: tuple[BranchMessageReply, ...]


class RunningSessionReply(WholeSessionReply, kw_only=True):
    """`running`: the answer that is being made, as far as it has come."""

    running: dict[str, object] | None


class SessionsReply(msgspec.Struct, kw_only=True):
    sessions: tuple[SessionReply, ...]


class SessionDeleted(msgspec.Struct, kw_only=True):
    id: str
    deleted: bool


class StoppedReply(msgspec.Struct, kw_only=True):
    stopped: bool


class SaidReply(msgspec.Struct, kw_only=True):
    """An answer, and the question that it answers where that is new."""

    message: MessageReply
    session: SessionReply
    question: MessageReply | None = None


class FoundReply(msgspec.Struct, kw_only=True):
    results: tuple[Found, ...]


class ExportReply(msgspec.Struct, kw_only=True):
    chorus_chat: int
    title: str
    model: str | None
    system: str
    created_unix_s: float
    head: MessageId | None
    messages: tuple[MessageReply, ...]
