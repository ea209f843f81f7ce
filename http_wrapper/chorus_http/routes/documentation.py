"""GET /openapi.json, and GET /docs to read it: one page of our own, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from quart import Blueprint, Response

from chorus_http.openapi.document import openapi_document
from chorus_http.replies import encoded

_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def documentation_routes() -> Blueprint:
    routes = Blueprint("documentation", __name__)

    async def document() -> Response:
        return Response(_document(), content_type="application/json")

    async def page() -> Response:
        html, policy = _page()
        response = Response(html, content_type="text/html; charset=utf-8")
        response.headers["content-security-policy"] = policy
        response.headers["referrer-policy"] = "no-referrer"
        return response

    routes.add_url_rule("/openapi.json", "document", document, methods=["GET"])
    routes.add_url_rule("/docs", "page", page, methods=["GET"])
    return routes


@cache
def _document() -> bytes:
    return encoded(openapi_document())


@cache
def _page() -> tuple[bytes, str]:
    """The page, and the policy that lets a browser run this one script and nothing else (CSP level 2)."""
    html = resources.files("chorus_http").joinpath("pages", "docs.html").read_bytes()
    hashes = {
        kind.decode(): base64.b64encode(hashlib.sha256(text).digest()).decode() for kind, text in _INLINE.findall(html)
    }
    allowed = [f"{kind}-src 'sha256-{digest}'" for kind, digest in hashes.items()]
    own = "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return html, "; ".join(["default-src 'none'", *allowed, own])
