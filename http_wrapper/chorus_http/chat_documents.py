"""The option `rag` of every chat, whichever API it comes by; `chorus_http.rag.chat_option` is what stands behind it.

That needs packages that may be missing, so the routes know it by these protocols.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from chorus_http.asker import Asker
from chorus_http.exchange import Exchange
from chorus_http.rag.bodies import ChatOption, SourceReply
from chorus_http.replies import Reply

Answer: TypeAlias = Callable[[bytes], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consulted:
    """What is put to a model instead of a question: the question with passages, or itself where nothing was found."""

    prompt: str
    sources: tuple[SourceReply, ...]


class ChatDocuments(Protocol):
    """Looks passages up and puts them to the model with the last question."""

    async def answered(self, raw: bytes, exchange: Exchange, answer: Answer) -> Reply:
        """`answer` to the body with the passages that its `rag` asks for; to the body as it is when it asks for none.

        The answer tells its sources too, as the API of the exchange can carry them. Raises InvalidJson,
        InvalidRequest, ContextLengthExceeded and what a search or `answer` raises.
        """
        ...

    async def consulted(
        self, asker: Asker, question: str, option: ChatOption, *, context_tokens: int, reserved_tokens: int
    ) -> Consulted:
        """Passages that fit a context (0: unknown) beside what is reserved. Raises as `answered`."""
        ...
