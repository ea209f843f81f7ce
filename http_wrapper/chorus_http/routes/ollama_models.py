"""The part of Ollama's API that changes which models there are (docs/api.md)."""

from __future__ import annotations

from contextlib import aclosing
from typing import NoReturn

import msgspec
from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.exchange import current_exchange
from chorus_http.framing import json_lines
from chorus_http.metrics import HttpMetrics
from chorus_http.model_control import ModelControl
from chorus_http.pulls import LastLine, Pulls, pull_line
from chorus_http.replies import encoded, json_reply
from chorus_http.settings import HttpSettings
from chorus_http.sse import EventStream, Source, event_stream_response
from chorus_proto.cluster import Cluster
from chorus_proto.dialects.fields import ModelText, Refused, read_fields
from chorus_proto.dialects.parsed import check_model_name
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import InvalidRequest, NotFound, UnsupportedParameter

_PULL_WITHIN_S = 24 * 3600.0
"""A stalled pull ends by itself long before; this only bounds the answer."""

_REFUSED_PULL = {
    "username": Refused(harmless=(None, "")),
    "password": Refused(harmless=(None, "")),
}


class PullRequest(msgspec.Struct):
    """`name` is what older clients call `model`."""

    model: ModelText | None = None
    name: ModelText | None = None
    insecure: bool | None = None
    stream: bool | None = None


class CopyRequest(msgspec.Struct):
    """Here a copy is a further name: the file is there once."""

    source: ModelText
    destination: ModelText


class NamedRequest(msgspec.Struct):
    """`name` is what older clients call `model`."""

    model: ModelText | None = None
    name: ModelText | None = None


def ollama_model_routes(
    cluster: Cluster, control: ModelControl, settings: HttpSettings, metrics: HttpMetrics
) -> Blueprint:
    routes = Blueprint("ollama_models", __name__)
    pulls = Pulls(cluster, answer_within_s=settings.metadata_within_s)

    async def pull() -> Response:
        asked = read_fields(load_object(await json_body(from_curl=True)), PullRequest, refused=_REFUSED_PULL)
        if asked.insecure:
            raise UnsupportedParameter(
                "'insecure' is not supported here: a PC checks where it pulls from.", param="insecure"
            )
        source = named(asked.model, asked.name)
        if asked.stream is False:
            async with aclosing(pulls.lines(source)) as lines:
                async for line in lines:
                    if isinstance(line, LastLine):
                        return json_reply(line.shown)
            raise AssertionError("a pull ends with its last line or raises")
        framing = json_lines(encoded({"status": "pulling manifest"}) + b"\n")
        stream = EventStream(
            Source(pulls.lines(source), pull_line, LastLine, _PULL_WITHIN_S),
            current_exchange(),
            settings,
            metrics,
            framing,
        )
        await stream.open()
        return event_stream_response(stream.body(), {}, framing)

    async def delete() -> Response:
        asked = read_fields(load_object(await json_body(from_curl=True)), NamedRequest, refused={})
        await control.delete(named(asked.model, asked.name))
        return Response(b"", status=200)

    async def copy() -> Response:
        asked = read_fields(load_object(await json_body(from_curl=True)), CopyRequest, refused={})
        await control.alias(check_model_name(asked.destination), check_model_name(asked.source))
        return Response(b"", status=200)

    async def blob(digest: str) -> NoReturn:
        raise NotFound(f"There is no blob {digest[:80]} here; models come by /api/pull or lie in a PC's models folder.")

    async def create() -> NoReturn:
        raise InvalidRequest("Models are made elsewhere; pull one, or put a GGUF file into a models folder of a PC.")

    async def push() -> NoReturn:
        raise InvalidRequest("No model leaves this cluster.")

    routes.add_url_rule("/api/pull", "pull", pull, methods=["POST"])
    routes.add_url_rule("/api/delete", "delete", delete, methods=["DELETE"])
    routes.add_url_rule("/api/copy", "copy", copy, methods=["POST"])
    routes.add_url_rule("/api/create", "create", create, methods=["POST"])
    routes.add_url_rule("/api/push", "push", push, methods=["POST"])
    routes.add_url_rule("/api/blobs/<digest>", "blob", blob, methods=["HEAD", "GET", "POST"])
    return routes


def named(model: str | None, name: str | None) -> str:
    """The model that a request names by either field. Raises InvalidRequest."""
    found = model or name
    if not found:
        raise InvalidRequest("Missing required parameter: 'model'.", param="model")
    return check_model_name(found)
