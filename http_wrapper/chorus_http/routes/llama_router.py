"""The verbs of llama.cpp's router (tools/server, `server-models.cpp`), for programs that manage models through them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Literal

import msgspec
from quart import Blueprint, Response, request

import chorus_proto
from chorus_http.body import json_body
from chorus_http.exchange import current_exchange
from chorus_http.metrics import HttpMetrics
from chorus_http.model_control import ModelControl
from chorus_http.model_status import LoadState, ModelStatus, statuses
from chorus_http.replies import encoded, json_reply
from chorus_http.settings import HttpSettings
from chorus_http.sse import EventStream, Source, event_stream_response
from chorus_http.state import StateReader
from chorus_proto.clock import Clock
from chorus_proto.cluster import Cluster
from chorus_proto.dialects.fields import ModelText, read_fields
from chorus_proto.dialects.parsed import check_model_name
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import ClusterError, CoordinatorUnavailable, InvalidRequest
from chorus_proto.transfers import Transfer, TransferState
from chorus_proto.values import ClusterState, ModelSummary

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25
_EVENTS_WITHIN_S = 24 * 3600.0
"""A program that listens for longer dials again."""

_VALUES: dict[LoadState, Literal["loaded", "loading", "unloaded"]] = {
    LoadState.LOADED: "loaded",
    LoadState.LOADING: "loading",
    LoadState.UNLOADING: "unloaded",
    LoadState.FAILED: "unloaded",
    LoadState.UNLOADED: "unloaded",
}


class RouterRequest(msgspec.Struct):
    model: ModelText


class Done(msgspec.Struct, frozen=True, kw_only=True):
    success: bool


class RouterModelState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    value: Literal["loaded", "loading", "unloaded"]
    args: tuple[str, ...] = ()
    failed: bool = False
    exit_code: int = 0


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)


class RouterMeta(msgspec.Struct, frozen=True, kw_only=True):
    n_ctx: int | None
    n_params: int | None
    size: int


class RouterModel(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    object: str
    created: int
    owned_by: str
    in_cache: bool
    path: str
    source: str
    can_remove: bool
    status: RouterModelState
    architecture: Architecture
    meta: RouterMeta


class RouterModels(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET /models."""

    object: str
    data: tuple[RouterModel, ...]


def llama_router_routes(
    cluster: Cluster,
    control: ModelControl,
    states: StateReader,
    settings: HttpSettings,
    metrics: HttpMetrics,
    clock: Clock,
) -> Blueprint:
    routes = Blueprint("llama_router", __name__)
    created_unix_s = int(clock.unix_s())

    async def listed() -> Response:
        return json_reply(_models(await states.state(), created_unix_s))

    async def load() -> Response:
        model = (await _asked()).model
        if (await control.status(model)).state is LoadState.LOADED:
            raise InvalidRequest("model is already loaded", param="model")
        await control.load(model)
        return json_reply(Done(success=True))

    async def unload() -> Response:
        model = (await _asked()).model
        if (await control.status(model)).state not in (LoadState.LOADED, LoadState.LOADING):
            raise InvalidRequest("model is not running", param="model")
        await control.unload(model)
        return json_reply(Done(success=True))

    async def download() -> Response:
        model = (await _asked()).model
        try:
            async with asyncio.timeout(settings.metadata_within_s):
                await cluster.pull_model(model)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None
        return json_reply(Done(success=True))

    async def delete() -> Response:
        model = request.args.get("model")
        if not model:
            raise InvalidRequest("Missing required parameter: 'model'.", param="model")
        await control.delete(check_model_name(model))
        return json_reply(Done(success=True))

    async def events() -> Response:
        changes = _Changes(cluster, states, within_s=settings.metadata_within_s, created_unix_s=created_unix_s)
        source = Source(changes.events(), _framed, _LastEvent, _EVENTS_WITHIN_S + 60)
        stream = EventStream(source, current_exchange(), settings, metrics)
        await stream.open()
        return event_stream_response(stream.body(), {})

    async def props() -> Response:
        return json_reply(
            {
                "role": "router",
                "models_autoload": True,
                "max_instances": 0,
                "build_info": f"chorus {chorus_proto.__version__}",
            }
        )

    routes.add_url_rule("/models", "models", listed, methods=["GET"])
    routes.add_url_rule("/models", "download", download, methods=["POST"])
    routes.add_url_rule("/models", "delete", delete, methods=["DELETE"])
    routes.add_url_rule("/models/load", "load", load, methods=["POST"])
    routes.add_url_rule("/models/unload", "unload", unload, methods=["POST"])
    routes.add_url_rule("/models/sse", "events", events, methods=["GET"])
    routes.add_url_rule("/props", "props", props, methods=["GET"])
    return routes


async def _asked() -> RouterRequest:
    asked = read_fields(load_object(await json_body()), RouterRequest, refused={})
    check_model_name(asked.model)
    return asked


def _models(state: ClusterState, created_unix_s: int) -> RouterModels:
    known = {str(model.name): model for model in state.models}
    shown = (_model(one, known[one.model], created_unix_s) for one in statuses(state))
    return RouterModels(object="list", data=tuple(shown))


def _model(status: ModelStatus, summary: ModelSummary, created_unix_s: int) -> RouterModel:
    failed = status.state is LoadState.FAILED
    return RouterModel(
        id=status.model,
        name=status.model,
        object="model",
        created=created_unix_s,
        owned_by="chorus",
        in_cache=bool(status.on_disk_at),
        path="",
        source="models_dir",
        can_remove=False,
        status=RouterModelState(value=_VALUES[status.state], failed=failed, exit_code=1 if failed else 0),
        architecture=Architecture(),
        meta=RouterMeta(
            n_ctx=summary.context_tokens or None, n_params=summary.parameters or None, size=summary.file_bytes
        ),
    )


class _Event:
    """One change, for one model."""

    def __init__(self, model: str, event: str, told: object) -> None:
        self._body = {"model": model, "event": event, "data": told}

    def frame(self) -> bytes:
        return b"data: %b\n\n" % encoded(self._body)


def _framed(event: _Event) -> bytes:
    return event.frame()


class _Opened(_Event):
    """Nothing yet: a comment, so that the answer begins at once."""

    def __init__(self) -> None:
        super().__init__("", "", None)

    def frame(self) -> bytes:
        return b": listening\n\n"


class _LastEvent(_Opened):
    """Nobody listens for so long."""


class _Changes:
    """What changes from one look at the cluster to the next. One that comes and goes between two looks is not told."""

    def __init__(self, cluster: Cluster, states: StateReader, *, within_s: float, created_unix_s: int) -> None:
        self._cluster = cluster
        self._states = states
        self._within_s = within_s
        self._created_unix_s = created_unix_s
        self._models: dict[str, ModelStatus] | None = None
        self._transfers: dict[str, Transfer] | None = None

    async def events(self) -> AsyncGenerator[_Event, None]:
        yield _Opened()
        began_s = time.monotonic()
        while time.monotonic() - began_s < _EVENTS_WITHIN_S:
            try:
                async with asyncio.timeout(self._within_s):
                    state, transfers = await self._states.state(), await self._cluster.transfers()
            except (ClusterError, TimeoutError) as error:
                # It comes back, or this caller leaves.
                log.debug("no look at the models: %r", error)
            else:
                for event in (*self._of_models(state), *self._of_transfers(transfers)):
                    yield event
            await asyncio.sleep(_LOOK_EVERY_S)
        yield _LastEvent()

    def _of_models(self, state: ClusterState) -> Iterator[_Event]:
        now = {one.model: one for one in statuses(state)}
        before, self._models = self._models, now
        if before is None:
            return
        known = {str(model.name): model for model in state.models}
        for name, status in now.items():
            if name not in before or (status.state, status.progress) != (before[name].state, before[name].progress):
                yield _Event(name, "status_change", self._told(status, known[name]))
        for name in before.keys() - now.keys():
            yield _Event(name, "model_remove", None)

    def _told(self, status: ModelStatus, summary: ModelSummary) -> dict[str, object]:
        told: dict[str, object] = {"status": _VALUES[status.state]}
        match status.state:
            case LoadState.LOADING:
                stage = "text_model"
                return told | {"progress": {"stages": [stage], "current": stage, "value": status.progress or 0.0}}
            case LoadState.LOADED:
                return told | {"info": _model(status, summary, self._created_unix_s)}
            case LoadState.FAILED:
                return told | {"exit_code": 1}
            case LoadState.UNLOADING | LoadState.UNLOADED:
                return told

    def _of_transfers(self, transfers: Sequence[Transfer]) -> Iterator[_Event]:
        now = {one.transfer_id: one for one in transfers}
        before, self._transfers = self._transfers, now
        for transfer_id, one in now.items():
            old = None if before is None else before.get(transfer_id)
            if before is None or one == old:
                continue
            if not one.state.is_over:
                moved = {"done": one.done_bytes, "total": one.total_bytes or 0}
                yield _Event(one.model, "download_progress", {one.source or one.model: moved})
            elif old is None or not old.state.is_over:
                finished = one.state is TransferState.DONE
                why = None if one.error is None else {"error": one.error.message}
                yield _Event(one.model, "download_finished" if finished else "download_failed", why)
