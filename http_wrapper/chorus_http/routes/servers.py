"""The local servers of the hub's PC: what `chorus server` does, for the web page (seed 000)."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.replies import json_reply
from chorus_http.servers_door import ServerList, ServersDoor
from chorus_proto.dialects.fields import Text, read_fields
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import NotFound


class StartRequest(msgspec.Struct):
    """`force`: start it whatever runs and whatever is free."""

    force: bool | None = None


class DefaultRequest(msgspec.Struct):
    name: Text


class StopAnswer(msgspec.Struct, frozen=True, kw_only=True):
    message: str


def server_routes(servers: ServersDoor | None) -> Blueprint:
    """`servers`: None where this process knows no local servers."""
    routes = Blueprint("servers", __name__)

    def door() -> ServersDoor:
        if servers is None:
            raise NotFound("There are no local servers here.")
        return servers

    async def listed() -> Response:
        return json_reply(ServerList(file="") if servers is None else await servers.listed())

    async def start(name: str) -> Response:
        asked = read_fields(load_object(await json_body() or b"{}"), StartRequest, refused={})
        return json_reply(await door().start(name, force=asked.force or False))

    async def stop(name: str) -> Response:
        return json_reply(StopAnswer(message=await door().stop(name)))

    async def switch() -> Response:
        asked = read_fields(load_object(await json_body()), DefaultRequest, refused={})
        return json_reply(await door().make_default(asked.name))

    routes.add_url_rule("/servers", "listed", listed, methods=["GET"])
    routes.add_url_rule("/servers/<name>/start", "start", start, methods=["POST"])
    routes.add_url_rule("/servers/<name>/stop", "stop", stop, methods=["POST"])
    routes.add_url_rule("/servers/default", "switch", switch, methods=["PUT"])
    return routes
