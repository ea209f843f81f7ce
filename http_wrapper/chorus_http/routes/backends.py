"""Backends at run time: servers that speak OpenAI's API, as nodes without an agent."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.replies import json_reply
from chorus_proto.backends import Backend, BackendState, NewBackend
from chorus_proto.cluster import Cluster
from chorus_proto.dialects.fields import ModelText, Text, read_fields
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import CoordinatorUnavailable
from chorus_proto.ids import ModelName

_CHANGE_WITHIN_S = 60.0
"""A name may be slow to resolve, and a backend may have something to finish."""


class RegisterRequest(msgspec.Struct):
    name: Text
    url: Text
    models: list[ModelText] | None = None
    model_type: str | None = None
    slots: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    api_key: str | None = None
    weight: Annotated[float, msgspec.Meta(ge=0.01, le=100)] | None = None


class UnregisterRequest(msgspec.Struct):
    name: Text


def backend_routes(cluster: Cluster, *, answer_within_s: float) -> Blueprint:
    routes = Blueprint("backends", __name__)

    async def register() -> Response:
        asked = read_fields(load_object(await json_body()), RegisterRequest, refused={})
        wish = NewBackend(
            name=asked.name,
            url=asked.url,
            models=tuple(ModelName(model) for model in asked.models or ()),
            model_type=asked.model_type or "",
            slots=asked.slots,
            api_key=asked.api_key or "",
            weight=asked.weight,
        )
        try:
            async with asyncio.timeout(_CHANGE_WITHIN_S):
                backend = await cluster.register_backend(wish)
        except TimeoutError:
            raise _late() from None
        message = f"Backend {backend.name} registered."
        return json_reply({"success": True, "message": message, "backend": _shown(backend)})

    async def unregister() -> Response:
        asked = read_fields(load_object(await json_body()), UnregisterRequest, refused={})
        try:
            async with asyncio.timeout(_CHANGE_WITHIN_S):
                backend = await cluster.unregister_backend(asked.name)
        except TimeoutError:
            raise _late() from None
        return json_reply({"success": True, "message": f"Backend {backend.name} forgotten."})

    async def backends() -> Response:
        try:
            async with asyncio.timeout(answer_within_s):
                found = await cluster.backends()
        except TimeoutError:
            raise _late() from None
        healthy = sum(backend.health.state is BackendState.HEALTHY for backend in found)
        return json_reply({"total": len(found), "healthy": healthy, "backends": [_shown(one) for one in found]})

    routes.add_url_rule("/backends", "backends", backends, methods=["GET"])
    routes.add_url_rule("/backends/register", "register", register, methods=["POST"])
    routes.add_url_rule("/backends/unregister", "unregister", unregister, methods=["POST"])
    return routes


def _late() -> CoordinatorUnavailable:
    return CoordinatorUnavailable("The coordinator did not answer in time.")


def _shown(backend: Backend) -> dict[str, object]:
    health = backend.health
    return {
        "name": backend.name,
        "url": backend.url,
        "node_id": backend.node_id,
        "model_type": backend.model_type,
        "slots": backend.slots,
        "weight": backend.weight,
        "created": int(backend.created_unix_s),
        "healthy": health.state is BackendState.HEALTHY,
        "state": health.state,
        "detail": health.detail,
        "models": health.models,
        "probe_age_s": health.probe_age_s,
    }
