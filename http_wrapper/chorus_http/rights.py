"""Who may use which route: the one table. A route that is not in it is refused to everybody."""

from __future__ import annotations

from collections.abc import Mapping

from chorus_proto.keys import Scope

Right = frozenset[Scope]
"""Scopes of which a key needs one. Scope.ADMIN holds them all."""

PUBLIC: Right | None = None
"""No key is asked for."""
ANY_KEY: Right = frozenset(Scope)
ASK: Right = frozenset({Scope.INFER})
TALK: Right = frozenset({Scope.CHAT})
LOOK: Right = frozenset({Scope.INFER, Scope.CHAT, Scope.RAG})
DOCUMENTS: Right = frozenset({Scope.RAG})
WATCH: Right = frozenset({Scope.METRICS})
RULE: Right = frozenset({Scope.ADMIN})

RIGHTS: Mapping[str, Right | None] = {
    "GET /": PUBLIC,
    "GET /ui/<build>/<path:name>": PUBLIC,
    "GET /session": ANY_KEY,
    "POST /session": ANY_KEY,
    "DELETE /session": ANY_KEY,
    "GET /health": PUBLIC,
    "GET /readyz": PUBLIC,
    "GET /join/ca": PUBLIC,
    "GET /status": WATCH,
    "GET /metrics": WATCH,
    "POST /reassign": RULE,
    "GET /backends": RULE,
    "POST /backends/register": RULE,
    "POST /backends/unregister": RULE,
    "GET /queue/status": WATCH,
    "POST /route/explain": ASK,
    "GET /events": WATCH,
    "POST /query": ASK,
    "POST /v1/chat/completions": ASK,
    "POST /v1/completions": ASK,
    "POST /v1/embeddings": ASK,
    "POST /v1/rerank": ASK,
    "POST /v1/responses": ASK,
    "GET /v1/responses/<response_id>": ASK,
    "DELETE /v1/responses/<response_id>": ASK,
    "POST /v1/responses/<response_id>/cancel": ASK,
    "POST /v1/messages": ASK,
    "POST /v1/messages/count_tokens": ASK,
    "GET /v1/models": LOOK,
    "GET /v1/models/<path:name>": LOOK,
    "POST /api/chat": ASK,
    "POST /api/generate": ASK,
    "POST /api/embed": ASK,
    "POST /api/embeddings": ASK,
    "POST /api/show": LOOK,
    "GET /api/tags": LOOK,
    "GET /api/ps": LOOK,
    "GET /api/version": LOOK,
    "POST /api/pull": RULE,
    "DELETE /api/delete": RULE,
    "POST /api/copy": RULE,
    "POST /api/push": RULE,
    "POST /api/create": RULE,
    "GET /api/blobs/<digest>": RULE,
    "POST /api/blobs/<digest>": RULE,
    "POST /api/model/load": ASK,
    "GET /api/model/status": LOOK,
    "POST /api/model/generate": ASK,
    "POST /api/model/unload": ASK,
    "GET /models/fit": LOOK,
    "GET /transfers": LOOK,
    "POST /transfers": RULE,
    "DELETE /transfers/<transfer_id>": RULE,
    "POST /nodes/<node>/wake": RULE,
    "GET /join": RULE,
    "POST /join/tokens": RULE,
    "GET /keys": RULE,
    "POST /keys": RULE,
    "DELETE /keys/<key>": RULE,
    "GET /servers": RULE,
    "POST /servers/<name>/start": RULE,
    "POST /servers/<name>/stop": RULE,
    "PUT /servers/default": RULE,
    "GET /models": LOOK,
    "POST /models": RULE,
    "DELETE /models": RULE,
    "POST /models/load": ASK,
    "POST /models/unload": ASK,
    "GET /models/sse": LOOK,
    "GET /props": LOOK,
    "POST /v1/execute": ASK,
    "GET /v1/status": WATCH,
    "POST /rag/documents": DOCUMENTS,
    "GET /rag/documents": DOCUMENTS,
    "GET /rag/documents/<document_id>": DOCUMENTS,
    "DELETE /rag/documents/<document_id>": DOCUMENTS,
    "POST /rag/folders": RULE,
    "GET /rag/collections": DOCUMENTS,
    "DELETE /rag/collections/<name>": DOCUMENTS,
    "GET /rag/ingests": DOCUMENTS,
    "GET /rag/ingests/<ingest_id>": DOCUMENTS,
    "GET /rag/ingests/<ingest_id>/events": DOCUMENTS,
    "DELETE /rag/ingests/<ingest_id>": DOCUMENTS,
    "POST /rag/search": DOCUMENTS,
    "POST /rag/ask": DOCUMENTS,
    "GET /openapi.json": LOOK,
    "GET /docs": PUBLIC,
    "GET /chat/sessions": TALK,
    "POST /chat/sessions": TALK,
    "POST /chat/sessions/import": TALK,
    "GET /chat/search": TALK,
    "GET /chat/events": TALK,
    "GET /chat/sessions/<session_id>": TALK,
    "PATCH /chat/sessions/<session_id>": TALK,
    "DELETE /chat/sessions/<session_id>": TALK,
    "PUT /chat/sessions/<session_id>/title": TALK,
    "POST /chat/sessions/<session_id>/title": TALK,
    "PUT /chat/sessions/<session_id>/head": TALK,
    "POST /chat/sessions/<session_id>/messages": TALK,
    "POST /chat/sessions/<session_id>/messages/<message_id>/regenerate": TALK,
    "POST /chat/sessions/<session_id>/stop": TALK,
    "GET /chat/sessions/<session_id>/events": TALK,
    "GET /chat/sessions/<session_id>/export": TALK,
}
"""`METHOD rule`, the rule as the route is registered. HEAD goes with GET; OPTIONS needs any key."""


def right_of(method: str, rule: str) -> Right | None:
    """Raises KeyError for a route without an entry."""
    if method == "OPTIONS":
        return ANY_KEY
    return RIGHTS[f"{'GET' if method == 'HEAD' else method} {rule}"]


SOCKET_RIGHTS: Mapping[str, Right | None] = {
    "connect": ANY_KEY,
    "disconnect": PUBLIC,
    "watch_cluster": WATCH,
    "watch_chat": TALK,
    "watch_chats": TALK,
    "watch_stream": ASK,
    "unwatch": ANY_KEY,
    "generate": ASK,
    "cancel": ASK,
}
"""Events of Socket.IO, as clients send them."""
