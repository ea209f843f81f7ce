"""A model loaded, watched, asked and freed by name (seed 003): a load answers at once and goes on by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from quart import Blueprint, Response, request

from chorus_http.body import json_body
from chorus_http.exchange import current_exchange
from chorus_http.metrics import HttpMetrics
from chorus_http.model_control import ModelControl
from chorus_http.model_status import LoadState, ModelStatus, statuses
from chorus_http.replies import encoded, json_reply
from chorus_http.routes.execute import answered_task, parsed_task
from chorus_http.settings import HttpSettings
from chorus_http.sse import EventStream, Source, event_stream_response, named_event
from chorus_http.state import StateReader
from chorus_proto.cluster import Cluster
from chorus_proto.dialects.fields import ModelText, Unchecked, read_fields
from chorus_proto.dialects.ollama_request import read_keep_alive
from chorus_proto.dialects.parsed import check_model_name
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import InvalidRequest
from chorus_proto.values import ModelOrder

_TRUE = frozenset({"1", "true", "yes"})
_FALSE = frozenset({"", "0", "false", "no"})


class LoadRequest(msgspec.Struct):
    """`keep_alive`: seconds without a use after which it may go, or a text such as `5m`; -1 keeps it."""

    model: ModelText
    node: ModelText | None = None
    keep_alive: Unchecked = None
    stream: bool | None = None


class UnloadRequest(msgspec.Struct):
    """Without `model`: the one that is loaded, when it is the only one."""

    model: ModelText | None = None
    node: ModelText | None = None


class OrderReply(msgspec.Struct, frozen=True, kw_only=True):
    """What was set going; `status` is how it was at that moment."""

    success: bool
    message: str
    model: str
    nodes: tuple[str, ...]
    status: ModelStatus


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """`current` is the loaded model when there is exactly one."""

    current: str | None
    loaded: tuple[str, ...]
    models: tuple[ModelStatus, ...]


def model_routes(
    cluster: Cluster, control: ModelControl, states: StateReader, settings: HttpSettings, metrics: HttpMetrics
) -> Blueprint:
    routes = Blueprint("model", __name__)

    async def load() -> Response:
        asked = read_fields(load_object(await json_body()), LoadRequest, refused={})
        order = await control.load(
            check_model_name(asked.model), node=asked.node, keep_alive_s=read_keep_alive(asked.keep_alive)
        )
        if asked.stream:
            return await _streamed(control.watch(order))
        names = ", ".join(one.node_name for one in order.nodes)
        status = await control.status(order.model)
        words = f"{order.model} is loaded." if status.state is LoadState.LOADED else f"{names} was told to load it."
        return json_reply(_reply(order, status, words), status=202)

    async def status() -> Response:
        model, stream = request.args.get("model"), _flag("stream")
        if model is None:
            if stream:
                raise InvalidRequest("'stream' needs 'model': which one to watch.", param="model")
            return json_reply(await _list())
        check_model_name(model)
        if not stream:
            return json_reply(await control.status(model))
        return await _streamed(control.progress(model))

    async def generate() -> Response:
        parsed = await parsed_task(await json_body(), states)
        return await answered_task(parsed, current_exchange(), cluster, settings, metrics)

    async def unload() -> Response:
        asked = read_fields(load_object(await json_body() or b"{}"), UnloadRequest, refused={})
        model = asked.model or await _only_loaded()
        order = await control.unload(check_model_name(model), node=asked.node)
        names = ", ".join(one.node_name for one in order.nodes)
        words = f"{names} was told to free it." if names else f"{order.model} is not loaded."
        return json_reply(_reply(order, await control.status(order.model), words), status=202)

    async def _list() -> ModelList:
        found = statuses(await states.state())
        loaded = tuple(one.model for one in found if one.state is LoadState.LOADED)
        return ModelList(current=loaded[0] if len(loaded) == 1 else None, loaded=loaded, models=tuple(found))

    async def _only_loaded() -> str:
        listed = await _list()
        if listed.current is None:
            told = f"several are: {', '.join(listed.loaded)}" if listed.loaded else "none is"
            raise InvalidRequest(f"Name the 'model': of those that are loaded, {told}.", param="model")
        return listed.current

    async def _streamed(found: AsyncGenerator[ModelStatus, None]) -> Response:
        source = Source(_until_settled(found), _event, _Settled, settings.request_within_s)
        stream = EventStream(source, current_exchange(), settings, metrics)
        await stream.open()
        return event_stream_response(stream.body(), {})

    for name, view in (("load", load), ("generate", generate), ("unload", unload)):
        routes.add_url_rule(f"/api/model/{name}", name, view, methods=["POST"])
    routes.add_url_rule("/api/model/status", "status", status, methods=["GET"])
    return routes


class _Settled:
    """After the last status."""


async def _until_settled(found: AsyncGenerator[ModelStatus, None]) -> AsyncGenerator[ModelStatus | _Settled, None]:
    async for one in found:
        yield one
    yield _Settled()


def _event(one: ModelStatus | _Settled) -> bytes:
    if isinstance(one, _Settled):
        return b"data: [DONE]\n\n"
    return named_event(one.state if one.is_settled else "progress", encoded(one))


def _reply(order: ModelOrder, status: ModelStatus, message: str) -> OrderReply:
    return OrderReply(
        success=True,
        message=message,
        model=order.model,
        nodes=tuple(one.node_name for one in order.nodes),
        status=status,
    )


def _flag(name: str) -> bool:
    """Raises InvalidRequest."""
    told = request.args.get(name, "").lower()
    if told not in _TRUE | _FALSE:
        raise InvalidRequest(f"Invalid '{name}': expected true or false.", param=name)
    return told in _TRUE
