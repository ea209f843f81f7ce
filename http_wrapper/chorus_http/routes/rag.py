"""/rag: documents that the caller's questions are answered from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from quart import Blueprint, Response, request

from chorus_http.body import json_body
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.metrics import HttpMetrics
from chorus_http.rag.answer import DocumentAnswer
from chorus_http.rag.asking import answer_of, answer_tokens, model_for, passages_for, text_call
from chorus_http.rag.bodies import (
    AskBody,
    CollectionsReply,
    DocumentsReply,
    FolderBody,
    IngestReply,
    IngestsReply,
    NewText,
    SearchBody,
    SearchReply,
    Unanswered,
    read_metadata,
)
from chorus_http.rag.documents import Kind
from chorus_http.rag.finding import Finder
from chorus_http.rag.ingest import Submission
from chorus_http.rag.ingests import Ingest
from chorus_http.rag.library import DEFAULT_COLLECTION, Library
from chorus_http.rag.opening import LibraryDoor
from chorus_http.rag.parsers.outcome import storable
from chorus_http.rag.prompt import OR_SAY_SO, prompt_of
from chorus_http.rag.shown import (
    shown_added,
    shown_collection,
    shown_document,
    shown_ingest,
    shown_passage,
)
from chorus_http.rag.support import CALIBRATED_SIMILARITY, support_of
from chorus_http.rag.uploads import read_upload
from chorus_http.replies import encoded, json_reply
from chorus_http.routes.rag_rules import RAG_RULES
from chorus_http.settings import HttpSettings
from chorus_http.sse import EventStream, Source, event_stream_response, named_event
from chorus_http.state import StateReader
from chorus_proto.cluster import CallFinished, Cluster
from chorus_proto.dialects.fields import read_fields
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import InvalidRequest

_PAGE = 100
_LARGEST_PAGE = 1000
_TYPED_KINDS = frozenset({Kind.TEXT, Kind.MARKDOWN, Kind.HTML, Kind.CSV, Kind.CODE})


def owner_of(exchange: Exchange) -> str:
    """On whose behalf: documents are seen by whoever added them and nobody else."""
    return exchange.user


def rag_routes(
    door: LibraryDoor,
    finder: Finder,
    cluster: Cluster,
    states: StateReader,
    settings: HttpSettings,
    metrics: HttpMetrics,
) -> Blueprint:
    routes = Blueprint("rag", __name__)

    async def add() -> Response:
        if request.mimetype == "multipart/form-data":
            upload = await read_upload()
            submissions, collection, wait = upload.submissions, upload.collection, upload.wait
        else:
            body = read_fields(load_object(await json_body()), NewText, refused={})
            submissions, collection, wait = [_submission(body)], body.collection, body.wait is not False
        library = await door.library()
        ingest = library.add(owner_of(current_exchange()), collection or DEFAULT_COLLECTION, submissions)
        return await _told(library, ingest, wait=wait, within_s=settings.request_within_s, single=len(submissions) == 1)

    async def add_folder() -> Response:
        body = read_fields(load_object(await json_body()), FolderBody, refused={})
        library = await door.library()
        owner = owner_of(current_exchange())
        ingest = await library.add_folder(owner, body.collection or DEFAULT_COLLECTION, body.path)
        within_s = settings.request_within_s
        return await _told(library, ingest, wait=body.wait is True, within_s=within_s, single=False)

    async def documents() -> Response:
        limit = _whole_number("limit", _PAGE, most=_LARGEST_PAGE)
        library = await door.library()
        found = await library.documents(
            owner_of(current_exchange()),
            request.args.get("collection"),
            limit=limit,
            after=request.args.get("after"),
        )
        more = found[-1].id if len(found) == limit else None
        return json_reply(DocumentsReply(documents=tuple(shown_document(each) for each in found), next=more))

    async def document(document_id: str) -> Response:
        library = await door.library()
        return json_reply(shown_document(await library.document(owner_of(current_exchange()), document_id)))

    async def delete_document(document_id: str) -> Response:
        library = await door.library()
        await library.delete_document(owner_of(current_exchange()), document_id)
        return Response(b"", status=204)

    async def collections() -> Response:
        library = await door.library()
        found = await library.collections(owner_of(current_exchange()))
        shown = [shown_collection(each, await library.index_state(each)) for each in found]
        return json_reply(CollectionsReply(collections=tuple(shown)))

    async def delete_collection(name: str) -> Response:
        library = await door.library()
        await library.drop_collection(owner_of(current_exchange()), name)
        return Response(b"", status=204)

    async def ingests() -> Response:
        library = await door.library()
        found = library.ingests.of(owner_of(current_exchange()))
        return json_reply(IngestsReply(ingests=tuple(shown_ingest(each) for each in found)))

    async def ingest(ingest_id: str) -> Response:
        library = await door.library()
        return json_reply(shown_ingest(library.ingests.get(owner_of(current_exchange()), ingest_id)))

    async def ingest_events(ingest_id: str) -> Response:
        exchange = current_exchange()
        library = await door.library()
        found = library.ingests.get(owner_of(exchange), ingest_id)
        source = Source(_progress(library, found, settings.request_within_s), _event, _Ended, settings.request_within_s)
        stream = EventStream(source, exchange, settings, metrics)
        await stream.open()
        return event_stream_response(stream.body(), {})

    async def cancel_ingest(ingest_id: str) -> Response:
        library = await door.library()
        found = library.ingests.get(owner_of(current_exchange()), ingest_id)
        await library.ingests.cancel(found)
        return json_reply(shown_ingest(found))

    async def search() -> Response:
        exchange = current_exchange()
        body = read_fields(load_object(await json_body()), SearchBody, refused={})
        found = await finder.find(owner_of(exchange), body.query, body, exchange)
        return json_reply(
            SearchReply(
                results=tuple(shown_passage(passage) for passage in found.passages),
                collection=found.collection,
                mode=found.mode,
                reranked=found.reranked,
            )
        )

    async def ask() -> Response:
        exchange = current_exchange()
        body = read_fields(load_object(await json_body()), AskBody, refused={})
        question = body.question or body.query
        if not question:
            raise InvalidRequest("Missing required parameter: 'question'.", param="question")
        found = await finder.find(owner_of(exchange), question, body, exchange)
        answer = DocumentAnswer(exchange, question, reranked=found.reranked)
        because = None if found.passages else Unanswered.NOTHING_FOUND
        if found.passages:
            support = support_of(question, found.passages)
            answer.similarity = support.similarity
            least = body.least_similarity if body.least_similarity is not None else least_similarity(settings)
            if not support.reaches(least):
                because, answer.passages = Unanswered.TOO_FAR, found.passages
        if because is not None:
            if body.stream:
                return event_stream_response(answer.streamed_without(because), {})
            return json_reply(answer.without(because))
        model = model_for(await states.state(), body.model)
        max_tokens = answer_tokens(model, body.max_tokens)
        answer.passages = passages_for(
            found.passages, question, context_tokens=model.context_tokens, reserved_tokens=max_tokens
        )
        call = text_call(
            model.name,
            prompt_of(question, answer.passages, more=OR_SAY_SO),
            asker=exchange,
            max_tokens=max_tokens,
            temperature=body.temperature,
            within_s=min(body.timeout_s or settings.request_within_s, settings.request_within_s),
            stream=body.stream is True,
        )
        if body.stream:
            source = Source(cluster.submit(call), answer.render, CallFinished, call.within_s)
            stream = EventStream(source, exchange, settings, metrics)
            await stream.open()
            return event_stream_response(stream.body(), {})
        return json_reply(answer.whole(await answer_of(cluster, call)))

    views: dict[str, Callable[..., Awaitable[Response]]] = {
        "add": add,
        "documents": documents,
        "document": document,
        "delete_document": delete_document,
        "add_folder": add_folder,
        "collections": collections,
        "delete_collection": delete_collection,
        "ingests": ingests,
        "ingest": ingest,
        "ingest_events": ingest_events,
        "cancel_ingest": cancel_ingest,
        "search": search,
        "ask": ask,
    }
    for name, method, rule in RAG_RULES:
        routes.add_url_rule(rule, name, views[name], methods=[method])
    return routes


@dataclass(frozen=True, slots=True)
class _Progress:
    """`shown` holds the documents that are worked on or have ended since the last; the last one all."""

    shown: IngestReply


class _Ended(_Progress):
    __slots__ = ()


async def _progress(library: Library, ingest: Ingest, within_s: float) -> AsyncGenerator[_Progress, None]:
    over: set[int] = set()
    async with aclosing(library.ingests.follow(ingest, within_s=within_s)) as steps:
        async for step in steps:
            if step.ended_unix_s is not None:
                break
            whole = shown_ingest(step)
            new = tuple(
                one
                for number, one in enumerate(whole.documents)
                if number not in over and (one.chunks is not None or step.items[number].over)
            )
            over = {number for number, item in enumerate(step.items) if item.over}
            yield _Progress(msgspec.structs.replace(whole, documents=new))
    yield _Ended(shown_ingest(ingest))


def _event(progress: _Progress) -> bytes:
    """`finished` is also the last when the time of the request is up; its `state` tells."""
    return named_event("finished" if isinstance(progress, _Ended) else "progress", encoded(progress.shown))


def _submission(body: NewText) -> Submission:
    kind = body.kind or Kind.MARKDOWN  # plain text is Markdown too
    if kind not in _TYPED_KINDS:
        raise InvalidRequest("Invalid 'kind': send a pdf or docx as a file, by multipart/form-data.", param="kind")
    return Submission(
        raw=body.text.encode(),
        title=body.title or "",
        kind=kind,
        source=storable(body.source) if body.source else None,
        metadata=read_metadata(body.metadata),
    )


async def _told(library: Library, ingest: Ingest, *, wait: bool, within_s: float, single: bool) -> Response:
    """What came of it; 202 where it goes on. One document is answered by itself, and its refusal is the answer's."""
    if wait:
        try:
            async with asyncio.timeout(within_s):
                await library.ingests.wait(ingest)
        except TimeoutError:
            wait = False
    if not wait:
        return json_reply(shown_ingest(ingest), status=202)
    errors = [item.error for item in ingest.items if item.error is not None]
    if errors and len(errors) == len(ingest.items):
        raise errors[0]
    result = ingest.items[0].result if single else None
    return json_reply(shown_ingest(ingest) if result is None else shown_added(ingest.id, result))


def _whole_number(name: str, default: int, *, most: int) -> int:
    """A parameter of the address. Raises InvalidRequest."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"Invalid '{name}': expected a whole number from 1 to {most}.", param=name)
    return int(text)


def least_similarity(settings: HttpSettings) -> float:
    """The setting, or where it is not given what was measured with the embedding model that is used."""
    if settings.rag_least_similarity is not None:
        return settings.rag_least_similarity
    return 0.0 if settings.rag_embedding_model else CALIBRATED_SIMILARITY
