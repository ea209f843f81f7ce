"""Chat sessions: made, talked to, watched, searched, taken elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import msgspec
from quart import Blueprint, Response, request

from chorus_http.body import json_body
from chorus_http.chats.answering import Wish
from chorus_http.chats.conversations import Conversations
from chorus_http.chats.events import ChatEvent, ChatEventKind, LastEvent
from chorus_http.chats.export import (
    as_json,
    as_markdown,
    checked_name,
    checked_text,
    checked_title,
    file_name,
    imported,
)
from chorus_http.chats.shown import found_shown, session_shown, whole_shown
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.metrics import HttpMetrics
from chorus_http.replies import encoded, json_reply
from chorus_http.settings import HttpSettings
from chorus_http.sse import GRACE_S, EventStream, Source, event_stream_response, named_event
from chorus_proto.clock import Clock
from chorus_proto.dialects.fields import ModelText, Temperature, Text, TokenLimit, TopP, Unchecked, read_fields
from chorus_proto.dialects.strict_json import JsonObject, load_object
from chorus_proto.errors import DeadlineExceeded, InternalError, InvalidRequest, NotFound, Unsupported
from chorus_proto.generation import Generation

if TYPE_CHECKING:
    from chorus_http.rag.chat_option import ChatDocuments  # its packages may not be installed

LISTED_AT_ONCE = 100
MOST_LISTED = 1000

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class _New(msgspec.Struct):
    title: str | None = None
    model: ModelText | None = None
    system: str | None = None


class _Change(msgspec.Struct):
    """What is left out stays; a model of null leaves the choice open."""

    title: str | msgspec.UnsetType = msgspec.UNSET
    model: ModelText | msgspec.UnsetType | None = msgspec.UNSET
    system: str | msgspec.UnsetType | None = msgspec.UNSET


class _Title(msgspec.Struct):
    title: str


class _Head(msgspec.Struct):
    message_id: _Id


class _Making(msgspec.Struct, kw_only=True):
    """How an answer is to be made. `rag`: from the caller's documents, as in /v1/chat/completions."""

    stream: bool | None = None
    model: ModelText | None = None
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: int | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    rag: Unchecked = None


class _Message(_Making, kw_only=True):
    content: Text
    after: _Id | None = None
    edits: _Id | None = None


class _Naming(msgspec.Struct):
    model: ModelText | None = None


def chat_routes(
    chats: Conversations,
    settings: HttpSettings,
    metrics: HttpMetrics,
    clock: Clock,
    documents: ChatDocuments | None = None,
) -> Blueprint:
    """`documents`: None where they are not installed."""
    routes = Blueprint("chat", __name__)

    async def sessions() -> Response:
        limit, offset = _number("limit", LISTED_AT_ONCE, MOST_LISTED), _number("offset", 0, 10**9)
        found = await chats.store.sessions(current_exchange().user, limit=limit, offset=offset)
        return json_reply({"sessions": [session_shown(one) for one in found]})

    async def create() -> Response:
        fields = read_fields(await _body(), _New, refused={})
        session = await chats.create(
            current_exchange().user,
            title=checked_title(fields.title) if fields.title else None,
            model=checked_name(fields.model) if fields.model else None,
            system=checked_text(fields.system or "", "system"),
        )
        return json_reply({**session_shown(session), "messages": []}, status=201)

    async def show(session_id: str) -> Response:
        session, messages = await chats.store.whole(current_exchange().user, session_id)
        shown = whole_shown(session, messages, branches=_flag("branches"))
        return json_reply({**shown, "running": chats.running(session)})

    async def change(session_id: str) -> Response:
        fields = read_fields(await _body(), _Change, refused={})
        session = await chats.change(
            current_exchange().user,
            session_id,
            title=None if fields.title is msgspec.UNSET else checked_title(fields.title),
            model=None if fields.model is msgspec.UNSET else checked_name(fields.model or ""),
            system=None if fields.system is msgspec.UNSET else checked_text(fields.system or "", "system"),
        )
        return json_reply(session_shown(session))

    async def rename(session_id: str) -> Response:
        title = checked_title(read_fields(await _body(), _Title, refused={}).title)
        return json_reply(session_shown(await chats.change(current_exchange().user, session_id, title=title)))

    async def name(session_id: str) -> Response:
        fields = read_fields(await _body(), _Naming, refused={})
        exchange = current_exchange()
        wish = Wish(
            request_id=exchange.request_id,
            user=exchange.user,
            key_id=exchange.key_id,
            within_s=settings.request_within_s,
            model=checked_name(fields.model) if fields.model else None,
        )
        return json_reply(session_shown(await chats.name(exchange.user, session_id, wish)))

    async def show_branch(session_id: str) -> Response:
        head = read_fields(await _body(), _Head, refused={}).message_id
        user = current_exchange().user
        await chats.change(user, session_id, head=head)
        return json_reply(whole_shown(*await chats.store.whole(user, session_id), branches=False))

    async def delete(session_id: str) -> Response:
        await chats.delete(current_exchange().user, session_id)
        return json_reply({"id": session_id, "deleted": True})

    async def say(session_id: str) -> Response:
        fields = read_fields(await _body(), _Message, refused={})
        if fields.after is not None and fields.edits is not None:
            raise InvalidRequest("'after' and 'edits' name two places; send one of them.", param="edits")
        exchange = current_exchange()
        content = checked_text(fields.content, "content")
        wish = _wish(fields, exchange, settings, documents)
        said = chats.say(exchange.user, session_id, content, wish, after=fields.after, edits=fields.edits)
        return await _answered(said, wish, exchange, stream=bool(fields.stream))

    async def again(session_id: str, message_id: str) -> Response:
        fields = read_fields(await _body(), _Making, refused={})
        exchange = current_exchange()
        wish = _wish(fields, exchange, settings, documents)
        return await _answered(
            chats.again(exchange.user, session_id, message_id, wish), wish, exchange, stream=bool(fields.stream)
        )

    async def _answered(
        events: AsyncGenerator[ChatEvent, None], wish: Wish, exchange: Exchange, *, stream: bool
    ) -> Response:
        if not stream:
            return json_reply(await _last(events, wish.within_s))
        source = Source(events, _rendered, LastEvent, wish.within_s)
        streamed = EventStream(source, exchange, settings, metrics)
        await streamed.open()
        return event_stream_response(streamed.body(), {})

    async def stop(session_id: str) -> Response:
        return json_reply({"stopped": await chats.stop(current_exchange().user, session_id)})

    async def watch(session_id: str) -> Response:
        user = current_exchange().user
        return await _watched(chats.watch(user, session_id, within_s=settings.request_within_s))

    async def watch_all() -> Response:
        return await _watched(chats.watch_all(current_exchange().user, within_s=settings.request_within_s))

    async def _watched(events: AsyncGenerator[ChatEvent, None]) -> Response:
        source = Source(events, _rendered, LastEvent, settings.request_within_s)
        streamed = EventStream(source, current_exchange(), settings, metrics)
        await streamed.open()
        return event_stream_response(streamed.body(), {})

    async def search() -> Response:
        words, limit = request.args.get("q", ""), _number("limit", 20, 200)
        found = await chats.store.search(current_exchange().user, words[:1000], limit=limit)
        return json_reply({"results": [found_shown(one) for one in found]})

    async def export(session_id: str) -> Response:
        session, messages = await chats.store.whole(current_exchange().user, session_id)
        kind = request.args.get("format", "json")
        if kind == "markdown":
            response = Response(as_markdown(session, messages), content_type="text/markdown; charset=utf-8")
            name = file_name(session, "md")
        elif kind == "json":
            response, name = json_reply(as_json(session, messages)), file_name(session, "json")
        else:
            raise InvalidRequest("Invalid 'format': expected json or markdown.", param="format")
        response.headers["content-disposition"] = f'attachment; filename="{name}"'
        return response

    async def take_in() -> Response:
        exchange = current_exchange()
        document = imported(await json_body(), exchange.user, clock.unix_s())
        await chats.add(document.session, document.messages)
        return json_reply(whole_shown(document.session, document.messages, branches=False), status=201)

    one = "/chat/sessions/<session_id>"
    for path, method, view in (
        ("/chat/sessions", "GET", sessions),
        ("/chat/sessions", "POST", create),
        ("/chat/sessions/import", "POST", take_in),
        ("/chat/search", "GET", search),
        ("/chat/events", "GET", watch_all),
        (one, "GET", show),
        (one, "PATCH", change),
        (one, "DELETE", delete),
        (f"{one}/title", "PUT", rename),
        (f"{one}/title", "POST", name),
        (f"{one}/head", "PUT", show_branch),
        (f"{one}/messages", "POST", say),
        (f"{one}/messages/<message_id>/regenerate", "POST", again),
        (f"{one}/stop", "POST", stop),
        (f"{one}/events", "GET", watch),
        (f"{one}/export", "GET", export),
    ):
        routes.add_url_rule(path, view.__name__, view, methods=[method])
    return routes


async def _body() -> JsonObject:
    """The JSON object that was sent; an empty body asks for nothing in particular."""
    raw = await json_body()
    return load_object(raw, int64_names=("seed",)) if raw.strip() else {}


def _number(name: str, default: int, most: int) -> int:
    text = request.args.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12) or int(text) > most:
        raise InvalidRequest(f"Invalid '{name}': expected a number up to {most}.", param=name)
    return int(text)


def _flag(name: str) -> bool:
    return request.args.get(name, "").lower() in ("1", "true", "yes")


def _wish(fields: _Making, exchange: Exchange, settings: HttpSettings, documents: ChatDocuments | None) -> Wish:
    longest_s = settings.request_within_s
    if fields.rag and documents is None:
        raise Unsupported("Documents need further packages on the server's PC: pip install 'chorus-llm[rag]'.")
    return Wish(
        request_id=exchange.request_id,
        user=exchange.user,
        key_id=exchange.key_id,
        within_s=min(fields.timeout_s or longest_s, longest_s),
        model=checked_name(fields.model) if fields.model else None,
        sampling=Generation(
            max_tokens=fields.max_tokens, temperature=fields.temperature, top_p=fields.top_p, seed=fields.seed
        ),
        grounding=None if documents is None else documents.grounding(fields.rag, exchange),
    )


def _rendered(event: ChatEvent) -> bytes:
    return named_event(event.kind, encoded(event.body))


async def _last(events: AsyncGenerator[ChatEvent, None], within_s: float) -> dict[str, object]:
    """The answer as one body: the message, the question before it, and the session."""
    asked: object = None
    try:
        async with asyncio.timeout(within_s + GRACE_S), aclosing(events):
            async for event in events:
                if event.kind is ChatEventKind.MESSAGE:
                    asked = event.body["message"]
                if event.kind is ChatEventKind.DELETED:
                    raise NotFound("This chat session was deleted meanwhile.", param="id")
                if isinstance(event, LastEvent):
                    return {**event.body, **({} if asked is None else {"question": asked})}
    except TimeoutError:
        raise DeadlineExceeded("The request's time is up.", param="timeout_s") from None
    raise InternalError("The answer ended without its closing event.")
