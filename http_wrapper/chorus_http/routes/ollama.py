"""Ollama's API (its docs/api.md), for the clients that people already have."""

from __future__ import annotations

import time

import msgspec
from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.calls import Caller
from chorus_http.chat_documents import ChatDocuments
from chorus_http.exchange import Exchange
from chorus_http.hot_routes import HotTable
from chorus_http.model_control import ModelControl
from chorus_http.ollama_shapes import running, show, tags
from chorus_http.replies import Reply, encoded, json_reply
from chorus_http.routes.ollama_models import named
from chorus_http.state import StateReader
from chorus_proto.clock import Clock
from chorus_proto.dialects.fields import ModelText, Refused, read_fields
from chorus_proto.dialects.ollama_answer import instant, tagged
from chorus_proto.dialects.ollama_request import OllamaRequest, parse_chat, parse_generate
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.ids import is_council
from chorus_proto.values import Dialect

COMPATIBLE_VERSION = "0.35.0"
"""Of Ollama, which clients compare; a plain triple, because Open WebUI takes each part for a number."""


class ShowRequest(msgspec.Struct):
    """`name` is what older clients call `model`."""

    model: ModelText | None = None
    name: ModelText | None = None
    verbose: bool | None = None


def ollama_routes(
    hot: HotTable,
    caller: Caller,
    control: ModelControl,
    states: StateReader,
    clock: Clock,
    documents: ChatDocuments | None = None,
) -> Blueprint:
    routes = Blueprint("ollama", __name__)
    # Ollama tells when a model's file was written; a cluster only knows since when it could have served it.
    modified_unix_s = clock.unix_s()

    async def answered(asked: OllamaRequest, exchange: Exchange) -> Reply:
        if asked.generation is None:
            return await _loaded_or_freed(asked, control)
        return await caller.answer(asked.generation, exchange, keep_alive_s=asked.keep_alive_s)

    async def chat(raw: bytes, exchange: Exchange) -> Reply:
        async def answer(body: bytes) -> Reply:
            return await answered(parse_chat(body), exchange)

        return await (answer(raw) if documents is None else documents.answered(raw, exchange, answer))

    async def generate(raw: bytes, exchange: Exchange) -> Reply:
        return await answered(parse_generate(raw), exchange)

    async def listed() -> Response:
        return json_reply({"models": tags(await states.state(), modified_unix_s)})

    async def processes() -> Response:
        return json_reply({"models": running(await states.state(), clock.unix_s())})

    async def shown() -> Response:
        refused = {name: Refused(harmless=(None, "", {})) for name in ("system", "template", "options")}
        asked = read_fields(load_object(await json_body(from_curl=True)), ShowRequest, refused=refused)
        return json_reply(show(await states.state(), named(asked.model, asked.name), modified_unix_s))

    async def version() -> Response:
        return json_reply({"version": COMPATIBLE_VERSION})

    hot.post(routes, "/api/chat", "chat", chat, from_curl=True)
    hot.post(routes, "/api/generate", "generate", generate, from_curl=True)
    routes.add_url_rule("/api/show", "show", shown, methods=["POST"])
    for path, view in (("tags", listed), ("ps", processes), ("version", version)):
        routes.add_url_rule(f"/api/{path}", path, view, methods=["GET"])
    return routes


async def _loaded_or_freed(asked: OllamaRequest, control: ModelControl) -> Reply:
    """A request without a prompt. Ollama answers when the model is loaded, so this does."""
    began_s = time.monotonic()
    reason = "unload" if asked.keep_alive_s == 0 else "load"
    if is_council(asked.model):
        pass  # who belongs to it comes and goes as a model of its own
    elif reason == "unload":
        await control.unload(asked.model)
    else:
        await control.until_loaded(await control.load(asked.model, keep_alive_s=asked.keep_alive_s))
    body: dict[str, object] = {"model": tagged(asked.model), "created_at": instant(time.time())}
    if asked.dialect is Dialect.OLLAMA_CHAT:
        body["message"] = {"role": "assistant", "content": ""}
    else:
        body["response"] = ""
    body |= {"done": True, "done_reason": reason}
    if reason == "load":
        body["load_duration"] = round((time.monotonic() - began_s) * 1e9)
    told = encoded(body)
    if asked.stream:
        return Reply(body=told + b"\n", content_type="application/x-ndjson", headers={})
    return Reply(body=told, headers={})
