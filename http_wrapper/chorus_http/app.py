"""Builds the HTTP face of one cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from quart import Quart, request
from quart_cors import cors  # pyright: ignore[reportUnknownVariableType]  # its patterns are typed in part only

from chorus_http.asgi import AsgiApp, Scope
from chorus_http.calls import Caller
from chorus_http.chats.asking import asking
from chorus_http.chats.conversations import Conversations
from chorus_http.chats.events import ChatEvents
from chorus_http.chats.others import OtherProcesses
from chorus_http.chats.store import ChatStore
from chorus_http.embedder import Embedder
from chorus_http.errors import install_error_handlers
from chorus_http.exchange import ExchangeMiddleware, current_exchange
from chorus_http.gate import Gate
from chorus_http.hot_routes import HotRoutes, HotTable
from chorus_http.joining import Joining
from chorus_http.kept_responses import KeptResponses
from chorus_http.listen import BEFORE_DRAIN
from chorus_http.live.composition import live_of
from chorus_http.live.front import LiveFront
from chorus_http.metrics import HttpMetrics
from chorus_http.model_control import ModelControl
from chorus_http.response_store import ResponseStore
from chorus_http.routes.anthropic import anthropic_routes
from chorus_http.routes.backends import backend_routes
from chorus_http.routes.chat import chat_routes
from chorus_http.routes.dashboard import dashboard_routes
from chorus_http.routes.documentation import documentation_routes
from chorus_http.routes.embeddings import embeddings_routes
from chorus_http.routes.events import event_routes
from chorus_http.routes.execute import execute_routes
from chorus_http.routes.fleet import fleet_routes
from chorus_http.routes.join import join_routes
from chorus_http.routes.keys import key_routes
from chorus_http.routes.llama_router import llama_router_routes
from chorus_http.routes.model import model_routes
from chorus_http.routes.no_rag import no_rag_routes
from chorus_http.routes.ollama import ollama_routes
from chorus_http.routes.ollama_embed import ollama_embed_routes
from chorus_http.routes.ollama_models import ollama_model_routes
from chorus_http.routes.openai import openai_routes
from chorus_http.routes.query import query_routes
from chorus_http.routes.queue import queue_routes
from chorus_http.routes.responses import responses_routes
from chorus_http.routes.servers import server_routes
from chorus_http.routes.status import status_routes
from chorus_http.servers_door import ServersDoor
from chorus_http.settings import HttpSettings
from chorus_http.state import StateReader
from chorus_http.upload_request import request_class
from chorus_proto.clock import Clock
from chorus_proto.cluster import Cluster

if TYPE_CHECKING:
    from chorus_http.rag.opening import LibraryDoor


def create_app(
    cluster: Cluster,
    settings: HttpSettings,
    clock: Clock,
    documents: LibraryDoor | None = None,
    *,
    chats: ChatStore | None = None,
    responses: ResponseStore | None = None,
    servers: ServersDoor | None = None,
    joining: Joining | None = None,
    ca_pem: bytes | None = None,
) -> Quart:
    """An ASGI app that owns nothing beyond its requests; `listen.serving` puts it on a port.

    `documents`: None where the packages of the extra `rag` are missing. Who opened `chats` and `responses`
    closes them; None: no chat sessions here, and responses are kept in memory. `servers`: the local servers of this
    PC; None: none are shown. `joining`: how PCs join. `ca_pem`: the hub's certificate authority, for callers to fetch;
    None: there is none.
    """
    app = Quart("chorus_http", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.body_limit_bytes
    app.config["BODY_TIMEOUT"] = settings.body_within_s
    app.config["RESPONSE_TIMEOUT"] = None
    app.request_class = request_class(settings)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # its redirects would be HTML

    gate = Gate(cluster, settings, clock)
    metrics = HttpMetrics()
    states = StateReader(cluster, within_s=settings.metadata_within_s)
    caller = Caller(cluster, settings, metrics)
    control = ModelControl(
        cluster, states, answer_within_s=settings.metadata_within_s, load_within_s=settings.request_within_s
    )
    hot = HotTable()
    chat_documents = None
    if documents is None:
        app.register_blueprint(no_rag_routes())
    else:
        from chorus_http.rag.composition import documents_of  # its packages are there: somebody made `documents`

        rag = documents_of(documents, cluster, states, settings, metrics)
        app.register_blueprint(rag.routes)
        chat_documents = rag.chat
    app.register_blueprint(openai_routes(hot, caller, states, clock, chat_documents))
    kept = KeptResponses(cluster, responses)
    app.after_serving(kept.aclose)
    app.register_blueprint(responses_routes(caller, kept, settings, metrics, clock))
    app.register_blueprint(anthropic_routes(hot, caller, chat_documents))
    embedder = Embedder(cluster, states, settings)
    app.register_blueprint(embeddings_routes(hot, embedder))
    app.register_blueprint(ollama_embed_routes(embedder, control))
    app.register_blueprint(ollama_routes(hot, caller, control, states, clock, chat_documents))
    app.register_blueprint(ollama_model_routes(cluster, control, settings, metrics))
    app.register_blueprint(model_routes(cluster, control, states, settings, metrics))
    app.register_blueprint(llama_router_routes(cluster, control, states, settings, metrics, clock))
    app.register_blueprint(execute_routes(cluster, states, settings, metrics))
    app.register_blueprint(backend_routes(cluster, answer_within_s=settings.metadata_within_s))
    app.register_blueprint(queue_routes(cluster, settings))
    app.register_blueprint(query_routes(cluster, settings, metrics))
    app.register_blueprint(status_routes(cluster, states, metrics))
    app.register_blueprint(documentation_routes())
    app.register_blueprint(join_routes(joining, ca_pem, answer_within_s=settings.metadata_within_s))
    app.register_blueprint(dashboard_routes(gate, settings))
    app.register_blueprint(fleet_routes(cluster, states, answer_within_s=settings.metadata_within_s))
    app.register_blueprint(key_routes(cluster, answer_within_s=settings.metadata_within_s))
    app.register_blueprint(server_routes(servers))
    conversations = None
    if chats is not None:
        events = ChatEvents()
        conversations = Conversations(chats, asking(cluster), states, clock, events=events, documents=chat_documents)
        others = OtherProcesses(chats, events, every_s=settings.chat_others_every_s)
        app.before_serving(others.start)
        app.after_serving(others.aclose)
        app.register_blueprint(chat_routes(conversations, settings, metrics, clock))
    live = live_of(cluster, gate, states, settings, clock, conversations)
    app.config[BEFORE_DRAIN] = live.drain
    app.after_serving(live.aclose)
    app.register_blueprint(event_routes(live.feed, settings, metrics))
    install_error_handlers(app)

    async def begin() -> None:
        exchange = current_exchange()
        rule = None if request.url_rule is None else request.url_rule.rule
        exchange.route = rule or exchange.route
        # Quart leaves this task running when the server cancels the one around it, at the end of the drain time.
        if (task := asyncio.current_task()) is not None:
            exchange.closing.callback(task.cancel)
        await gate.enter(exchange, cast("Scope", request.scope), rule)

    app.before_request(begin)
    if settings.cors_origins:
        app = cors(app, allow_origin=list(settings.cors_origins))
    # Only Quart's extension knows which pages may read an answer.
    hottest = HotRoutes(cast("AsgiApp", app.asgi_app), gate, {} if settings.cors_origins else hot.routes, settings)
    inner = LiveFront(hottest, live.sockets, gate, settings)
    around = ExchangeMiddleware(inner, metrics=metrics, clock=clock, log_requests=settings.log_requests)
    app.asgi_app = around  # pyright: ignore[reportAttributeAccessIssue]  # Quart types its own scopes, ours are ASGI's
    return app
