"""Builds the HTTP face of one cluster."""

from __future__ import annotations

import asyncio
from typing import cast

from quart import Quart, request
from quart_cors import cors  # pyright: ignore[reportUnknownVariableType]  # its patterns are typed in part only

from chorus_http.asgi import AsgiApp
from chorus_http.calls import Caller
from chorus_http.errors import install_error_handlers
from chorus_http.exchange import ExchangeMiddleware, current_exchange
from chorus_http.metrics import HttpMetrics
from chorus_http.routes.openai import openai_routes
from chorus_http.routes.query import query_routes
from chorus_http.routes.status import status_routes
from chorus_http.settings import HttpSettings
from chorus_http.state import StateReader
from chorus_proto.clock import Clock
from chorus_proto.cluster import Cluster


def create_app(cluster: Cluster, settings: HttpSettings, clock: Clock) -> Quart:
    """An ASGI app that owns nothing beyond its requests; `listen.serving` puts it on a port."""
    app = Quart("chorus_http", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.body_limit_bytes
    app.config["BODY_TIMEOUT"] = settings.body_within_s
    app.config["RESPONSE_TIMEOUT"] = None
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # its redirects would be HTML

    metrics = HttpMetrics()
    states = StateReader(cluster, within_s=settings.metadata_within_s)
    app.register_blueprint(openai_routes(Caller(cluster, settings, metrics), states, clock))
    app.register_blueprint(query_routes(cluster, settings, metrics))
    app.register_blueprint(status_routes(cluster, states, metrics))
    install_error_handlers(app)

    async def begin() -> None:
        exchange = current_exchange()
        if request.url_rule is not None:
            exchange.route = request.url_rule.rule
        # Quart leaves this task running when the server cancels the one around it, at the end of the drain time.
        if (task := asyncio.current_task()) is not None:
            exchange.closing.callback(task.cancel)

    app.before_request(begin)
    if settings.cors_origins:
        app = cors(app, allow_origin=list(settings.cors_origins))
    inner = cast("AsgiApp", app.asgi_app)
    around = ExchangeMiddleware(inner, metrics=metrics, clock=clock, log_requests=settings.log_requests)
    app.asgi_app = around  # pyright: ignore[reportAttributeAccessIssue]  # Quart types its own scopes, ours are ASGI's
    return app
