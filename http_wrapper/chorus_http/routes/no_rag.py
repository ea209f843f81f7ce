"""/rag where the packages for documents are not installed: every route says so."""

from __future__ import annotations

from quart import Blueprint, Response

from chorus_http.routes.rag_rules import RAG_RULES
from chorus_proto.errors import Unsupported


def no_rag_routes() -> Blueprint:
    routes = Blueprint("no_rag", __name__)

    async def missing(**_parts: str) -> Response:
        raise Unsupported("Documents need further packages on the server's PC: pip install 'chorus-llm[rag]'.")

    for name, method, rule in RAG_RULES:
        routes.add_url_rule(rule, name, missing, methods=[method])
    return routes
