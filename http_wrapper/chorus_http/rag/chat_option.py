"""`rag` as an option of a chat: the last question is put to the model together with passages of the caller's documents.

Streams tell the passages before their first word, whole answers in a member `rag`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import cast

import msgspec

from chorus_http.asker import Asker
from chorus_http.chat_documents import Answer, Consulted
from chorus_http.exchange import Exchange
from chorus_http.rag.answer_shapes import SHAPES, AnswerShape
from chorus_http.rag.asking import answer_tokens, passages_for
from chorus_http.rag.bodies import ChatOption, SourceReply, read_option
from chorus_http.rag.finding import Finder
from chorus_http.rag.prompt import BYTES_PER_TOKEN, numbers_in, prompt_of
from chorus_http.rag.shown import shown_sources
from chorus_http.replies import Reply
from chorus_http.state import StateReader, find_model
from chorus_proto.dialects.strict_json import JsonObject, JsonValue, load_object
from chorus_proto.errors import InvalidRequest, ModelNotFound
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelSummary

_NAMED = b'"rag"'
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A body without its `rag`, and the sources that were put into it."""

    body: bytes
    model: str
    stream: bool
    sources: tuple[SourceReply, ...]


class Documents:
    """See `chat_documents.ChatDocuments`."""

    def __init__(self, finder: Finder, states: StateReader) -> None:
        self._finder = finder
        self._states = states

    async def answered(self, raw: bytes, exchange: Exchange, answer: Answer) -> Reply:
        if _NAMED not in raw:
            return await answer(raw)
        shape = SHAPES[exchange.api]
        body = load_object(raw, int64_names=("seed",))
        option = read_option(body.pop("rag", None))
        if option is None:
            return await answer(_encode(body))
        prepared = await self._prepared(body, option, shape, exchange)
        return _with_sources(await answer(prepared.body), prepared, shape)

    async def consulted(
        self, asker: Asker, question: str, option: ChatOption, *, context_tokens: int, reserved_tokens: int
    ) -> Consulted:
        found = await self._finder.find(asker.user, question, option, asker)
        if not found.passages:
            return Consulted(prompt=question, sources=())
        fit = passages_for(found.passages, question, context_tokens=context_tokens, reserved_tokens=reserved_tokens)
        return Consulted(prompt=prompt_of(question, fit), sources=shown_sources(fit, set()))

    async def _prepared(
        self, body: JsonObject, option: ChatOption, shape: AnswerShape, exchange: Exchange
    ) -> _Prepared:
        question = _last_question(body)
        model = await self._model(body.get("model"))
        limit = shape.limit(body)
        reserved = answer_tokens(model, limit if isinstance(limit, int) and limit > 0 else None)
        # The rest of the conversation stays as it is.
        rest = len(_encode((body.get("system"), body.get("messages")))) - len(question.text.encode())
        consulted = await self.consulted(
            exchange,
            question.text,
            option,
            context_tokens=model.context_tokens,
            reserved_tokens=reserved + max(0, rest) // BYTES_PER_TOKEN,
        )
        question.replace(consulted.prompt)
        return _Prepared(
            body=_encode(body), model=str(model.name), stream=shape.streams(body), sources=consulted.sources
        )

    async def _model(self, name: JsonValue) -> ModelSummary:
        """Of a name that is no model's the chat itself will complain, or know better what it stands for."""
        state = await self._states.state()
        try:
            return find_model(state, str(name))
        except ModelNotFound:
            return ModelSummary(name=ModelName(str(name)))


def _with_sources(reply: Reply, prepared: _Prepared, shape: AnswerShape) -> Reply:
    """The chat's answer, telling its sources too."""
    if isinstance(reply.body, bytes):
        return replace(reply, body=_joined(reply.body, prepared.sources, shape))
    return replace(reply, body=_after(shape.ahead({"sources": prepared.sources}, prepared.model), reply.body))


async def _after(first: bytes, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(body) as parts:
        yield first
        async for part in parts:
            yield part


def _joined(whole: bytes, sources: tuple[SourceReply, ...], shape: AnswerShape) -> bytes:
    right, wrong = numbers_in(shape.text(whole), len(sources))
    cited = [msgspec.structs.replace(source, cited=source.number in right) for source in sources]
    return b'%b,"rag":%b}' % (
        whole.rstrip().removesuffix(b"}"),
        _encode({"sources": cited, "wrong_citations": wrong}),
    )


class _LastQuestion:
    """The text of the last user's turn, wherever it stands in the body."""

    def __init__(self, text: str, place: JsonObject, name: str) -> None:
        self.text = text
        self._place = place
        self._name = name

    def replace(self, text: str) -> None:
        self._place[self._name] = text


def _last_question(body: JsonObject) -> _LastQuestion:
    """Raises InvalidRequest."""
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, str) and content.strip():
            return _LastQuestion(content, message, "content")
        for part in reversed(content if isinstance(content, list) else []):
            if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                return _LastQuestion(cast("str", part["text"]), part, "text")
        break
    raise InvalidRequest("'rag' needs a user's message with text to look for.", param="messages")
