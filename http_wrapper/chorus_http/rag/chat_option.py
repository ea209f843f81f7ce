"""`rag` as an option of a chat: the last question is put to the model together with passages of the caller's documents.

Of /v1/chat/completions and of chat sessions. Streams of the former tell the passages in one chunk before the first,
without choices; whole answers in a member `rag`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeAlias, cast

import msgspec
from quart import Response
from quart.wrappers.response import ResponseBody

from chorus_http.chats.grounding import Grounded, Grounding
from chorus_http.chats.records import SourceShown
from chorus_http.exchange import Exchange
from chorus_http.rag.asking import answer_tokens as answer_tokens_of
from chorus_http.rag.asking import passages_for
from chorus_http.rag.bodies import ChatOption, SourceReply
from chorus_http.rag.documents import Passage
from chorus_http.rag.finding import Finder
from chorus_http.rag.prompt import BYTES_PER_TOKEN, citations_of, prompt_of
from chorus_http.rag.shown import shown_sources
from chorus_http.state import StateReader
from chorus_proto.dialects.fields import as_object, read_fields
from chorus_proto.dialects.strict_json import JsonObject, JsonValue, load_object
from chorus_proto.errors import InvalidRequest
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelSummary

Answer: TypeAlias = Callable[[bytes], Awaitable[Response]]

_NAMED = b'"rag"'
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ChatSources:
    """The passages that the model was given, in their order."""

    passages: list[Passage]
    stream: bool


class ChatDocuments:
    """Looks the passages up and puts them into the body."""

    def __init__(self, finder: Finder, states: StateReader) -> None:
        self._finder = finder
        self._states = states

    async def answered(
        self, raw: bytes, exchange: Exchange, answer: Callable[[bytes], Awaitable[Response]]
    ) -> Response:
        """`answer` to the body with the passages that it asks for; to the body as it is when it asks for none.

        Raises InvalidJson, InvalidRequest, ContextLengthExceeded and what a search or `answer` raises.
        """
        if _NAMED not in raw:
            return await answer(raw)
        body, sources = await self._prepared(raw, exchange)
        response = await answer(body)
        return response if sources is None else await _with_sources(response, sources)

    def grounding(self, option: JsonValue, exchange: Exchange) -> Grounding | None:
        """For a chat session; None where `option` asks for no documents. Raises InvalidRequest, UnknownParameter."""
        if option is None or option is False:
            return None
        wanted = _wanted(option)

        async def ground(
            question: str, *, model: ModelName, context_tokens: int, answer_tokens: int | None
        ) -> Grounded:
            found = await self._finder.find(exchange.user, question, wanted, exchange)
            reserved = answer_tokens_of(ModelSummary(name=model, context_tokens=context_tokens), answer_tokens)
            fit: list[Passage] = []
            if found.passages:
                fit = passages_for(found.passages, question, context_tokens=context_tokens, reserved_tokens=reserved)
            return Grounded(
                prompt=prompt_of(question, fit) if fit else question,
                sources=tuple(_source(source) for source in shown_sources(fit, set())),
                cited=lambda answer: {citation.number for citation in citations_of(answer, fit)[0]},
            )

        return ground

    async def _prepared(self, raw: bytes, exchange: Exchange) -> tuple[bytes, ChatSources | None]:
        """The body without `rag`, its last question with the passages found; None where `rag` is not asked for."""
        body = load_object(raw, int64_names=("seed",))
        option = body.pop("rag", None)
        if option is None or option is False:
            return _encode(body), None
        wanted = _wanted(option)
        question = _last_question(body)
        found = await self._finder.find(exchange.user, question.text, wanted, exchange)
        if found.passages:
            model = await self._model(body.get("model"))
            limit = body.get("max_completion_tokens") or body.get("max_tokens")
            reserved = answer_tokens_of(model, limit if isinstance(limit, int) else None)
            # The rest of the conversation stays as it is.
            reserved += max(0, len(_encode(body.get("messages"))) - len(question.text.encode())) // BYTES_PER_TOKEN
            fit = passages_for(
                found.passages, question.text, context_tokens=model.context_tokens, reserved_tokens=reserved
            )
            question.replace(prompt_of(question.text, fit))
        else:
            fit = []
        return _encode(body), ChatSources(fit, stream=body.get("stream") is True)

    async def _model(self, name: JsonValue) -> ModelSummary:
        """Of a name that is no model's the chat itself will complain, or know better what it stands for."""
        state = await self._states.state()
        known = [model for model in state.models if model.name == name]
        return known[0] if known else ModelSummary(name=ModelName(str(name)))


def _wanted(option: JsonValue) -> ChatOption:
    """Raises InvalidRequest, UnknownParameter."""
    if option is True:
        return ChatOption()
    return read_fields(as_object(option, "rag"), ChatOption, refused={}, at="rag")


def _source(source: SourceReply) -> SourceShown:
    return SourceShown(
        number=source.number,
        document_id=source.document_id,
        chunk_id=source.chunk_id,
        title=source.title,
        text=source.text,
        headings=source.headings,
        page=source.page,
        source=source.source,
        score=source.score,
    )


async def _with_sources(response: Response, sources: ChatSources) -> Response:
    """The chat's answer, telling its sources too."""
    if sources.stream:
        rag = {"sources": shown_sources(sources.passages, set())}
        event: dict[str, object] = {"object": "chat.completion.chunk", "choices": (), "rag": rag}
        told = Response(_after(b"data: %b\n\n" % _encode(event), response.response))
        told.timeout = None
    else:
        whole = await response.get_data(as_text=False)
        told = Response(_joined(whole, sources))
    told.status_code = response.status_code
    told.headers.update({name: value for name, value in response.headers if name.lower() != "content-length"})
    return told


async def _after(first: bytes, body: ResponseBody) -> AsyncGenerator[bytes, None]:
    yield first
    async with cast("AbstractAsyncContextManager[AsyncIterable[bytes]]", body) as parts:
        async for part in parts:
            yield part


def _joined(whole: bytes, sources: ChatSources) -> bytes:
    answer = msgspec.json.decode(whole, type=_Answer)
    text = "\n".join(choice.message.content or "" for choice in answer.choices)
    cited, wrong = citations_of(text, sources.passages)
    rag = {
        "sources": shown_sources(sources.passages, {citation.number for citation in cited}),
        "wrong_citations": wrong,
    }
    return b'%b,"rag":%b}' % (whole.rstrip().removesuffix(b"}"), _encode(rag))


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)


class _Answer(msgspec.Struct):
    choices: tuple[_Choice, ...] = ()


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
