"""A chat whose answer may come from documents: the question as the model gets it, and what its answer then cites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from chorus_http.chat_documents import ChatDocuments
from chorus_http.chats.history import MOST_ANSWER_TOKENS
from chorus_http.chats.records import AnswerFacts, ChatMessage, SourceShown
from chorus_http.rag.prompt import numbers_in
from chorus_proto.errors import Unsupported

if TYPE_CHECKING:
    from chorus_http.chats.answering import Wish

PASSAGES_SHARE = 0.5
"""Of the context: what was said before keeps the rest."""


async def with_passages(
    documents: ChatDocuments | None, line: list[ChatMessage], wish: Wish, *, context_tokens: int
) -> tuple[list[ChatMessage], tuple[SourceShown, ...] | None]:
    """`line` with its last question put together with passages, and these; None where the wish asks for none.

    Raises Unsupported where there are no documents here, and what a search raises.
    """
    if wish.rag is None:
        return line, None
    if documents is None:
        raise Unsupported("Documents need further packages on the server's PC: pip install 'chorus-llm[rag]'.")
    question = line[-1]
    reserved = int(context_tokens * PASSAGES_SHARE) or MOST_ANSWER_TOKENS
    found = await documents.consulted(
        wish, question.content, wish.rag, context_tokens=context_tokens, reserved_tokens=reserved
    )
    sources = tuple(
        SourceShown(
            number=source.number,
            document_id=source.document_id,
            title=source.title,
            text=source.text,
            headings=source.headings,
            page=source.page,
            source=source.source,
        )
        for source in found.sources
    )
    return [*line[:-1], msgspec.structs.replace(question, content=found.prompt)], sources


def cited(facts: AnswerFacts, answer: str) -> AnswerFacts:
    """The facts, knowing which of their sources the answer names."""
    if not facts.sources:
        return facts
    right, wrong = numbers_in(answer, len(facts.sources))
    return msgspec.structs.replace(facts, sources=_marked(facts.sources, right), wrong_citations=tuple(wrong))


def _marked(sources: Sequence[SourceShown], right: Sequence[int]) -> tuple[SourceShown, ...]:
    return tuple(msgspec.structs.replace(source, cited=source.number in right) for source in sources)
