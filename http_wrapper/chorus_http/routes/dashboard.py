"""The web page: its files, and the browser's session. The page itself is what a browser gets at `/`."""

from __future__ import annotations

from typing import cast

import msgspec
from quart import Blueprint, Response, request

import chorus_proto
from chorus_http.dashboard_files import PREFIX, Asset, dashboard
from chorus_http.exchange import current_exchange
from chorus_http.gate import Gate
from chorus_http.replies import json_reply
from chorus_http.sessions import SESSION_S, cookie_name, token_in
from chorus_http.settings import HttpSettings
from chorus_proto.errors import NotFound
from chorus_proto.exposure import is_loopback

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What a browser may load and run for the page: its own files, and no text that was made into markup or code."""

_FOR_EVER = "public, max-age=31536000, immutable"


class SessionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Who this browser is to the server. `scopes` is empty where no key was shown."""

    keys_required: bool
    signed_in: bool
    name: str = ""
    owner: str = ""
    scopes: tuple[str, ...] = ()
    version: str = chorus_proto.__version__
    exposed: bool = False
    """Others on the network reach this server although it asks for no key."""


def dashboard_routes(gate: Gate, settings: HttpSettings) -> Blueprint:
    routes = Blueprint("dashboard", __name__)

    async def asset(build: str, name: str) -> Response:
        files = dashboard()
        found = files.assets.get(name) if build == files.build else None
        if found is None:
            raise NotFound("There is no such file; the page may be of another version: load it again.")
        return _sent(found, _FOR_EVER)

    async def who() -> Response:
        return json_reply(_session(gate, settings))

    async def sign_in() -> Response:
        claim = current_exchange().claim
        response = json_reply(_session(gate, settings))
        if claim is not None:
            gate.sessions.end(token_in(_cookies(), _port()))
            response.set_cookie(
                cookie_name(_port()),
                gate.sessions.begin(claim),
                max_age=int(SESSION_S),
                httponly=True,
                samesite="Strict",
                secure=request.scheme == "https",
            )
        return response

    async def sign_out() -> Response:
        gate.sessions.end(token_in(_cookies(), _port()))
        response = Response(b"", status=204)
        response.delete_cookie(cookie_name(_port()), httponly=True, samesite="Strict")
        return response

    routes.add_url_rule(f"{PREFIX}/<build>/<path:name>", "asset", asset, methods=["GET"])
    for method, view in (("GET", who), ("POST", sign_in), ("DELETE", sign_out)):
        routes.add_url_rule("/session", view.__name__, view, methods=[method])
    return routes


def dashboard_page() -> Response:
    """The page. It is looked at anew each time, and names its other files by their content."""
    response = _sent(dashboard().page, "no-cache")
    response.headers["content-security-policy"] = POLICY
    response.headers["referrer-policy"] = "no-referrer"
    response.headers["cross-origin-opener-policy"] = "same-origin"
    return response


def _sent(asset: Asset, caching: str) -> Response:
    headers = {"etag": f'"{asset.etag}"', "cache-control": caching, "vary": "accept, accept-encoding"}
    if request.if_none_match.contains(asset.etag):
        return Response(b"", status=304, headers=headers)
    if asset.packed is not None and request.accept_encodings["gzip"]:
        headers["content-encoding"] = "gzip"
        return Response(asset.packed, content_type=asset.content_type, headers=headers)
    return Response(asset.body, content_type=asset.content_type, headers=headers)


def _session(gate: Gate, settings: HttpSettings) -> SessionAnswer:
    key = current_exchange().key
    exposed = not gate.keys_required and not is_loopback(settings.host)
    if key is None:
        return SessionAnswer(keys_required=gate.keys_required, signed_in=False, exposed=exposed)
    return SessionAnswer(
        keys_required=gate.keys_required,
        signed_in=True,
        name=key.name,
        owner=key.owner,
        scopes=tuple(key.scopes),
        exposed=exposed,
    )


def _port() -> int:
    return cast("dict[str, tuple[str, int]]", request.scope)["server"][1]


def _cookies() -> list[bytes]:
    return [value.encode("latin-1") for value in request.headers.getlist("cookie")]
