"""How the cluster is, for people, dashboards and probes; POST /reassign. Nothing here waits in a queue."""

from __future__ import annotations

import asyncio
from typing import cast

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Blueprint, Response, current_app, request

import chorus_proto
from chorus_http.listen import OLLAMA_PORT
from chorus_http.metrics import HttpMetrics
from chorus_http.nodes_shown import node_shown
from chorus_http.replies import json_reply
from chorus_http.routes.dashboard import dashboard_page
from chorus_http.state import StateReader, alive_nodes, ready_models
from chorus_proto.cluster import Cluster
from chorus_proto.errors import ClusterError, CoordinatorUnavailable
from chorus_proto.values import Assignment

_REASSIGN_WITHIN_S = 30.0
_METRICS_WITHIN_S = 2.0

OLLAMA_IS_RUNNING = "Ollama is running"
"""What Ollama says at `/`, and what its clients look for in the answer."""

_ENDPOINTS = {
    "GET /": "this description; for a browser the web page",
    "GET /health": "is this process alive, and how many PCs and models serve",
    "GET /status": "every PC with its score, its model and its load",
    "GET /readyz": "200 once a model can answer, else 503 with the reason",
    "GET /metrics": "Prometheus metrics",
    "POST /query": 'ask several PCs at once: {"prompt": ..., "strategy": "first|concat|longest|vote"}',
    "GET /queue/status": "who waits for a slot, in which place and for how long, and who runs",
    "POST /route/explain": "where the request in the body would run and why; nothing is run",
    "GET /chat/sessions": "your chat sessions; POST makes one, POST .../ID/messages talks in it",
    "GET /chat/search": "find words in all that was said: ?q=...",
    "POST /reassign": "place the models anew",
    "POST /v1/chat/completions": "OpenAI chat, also streamed",
    "POST /v1/completions": "OpenAI completions, also streamed",
    "GET /v1/models": "the models that can answer now",
    "POST /api/chat": "Ollama's API: also generate, tags, show, ps, pull, version",
}


def status_routes(cluster: Cluster, states: StateReader, metrics: HttpMetrics) -> Blueprint:
    routes = Blueprint("status", __name__)

    async def describe() -> Response:
        _, port = cast("dict[str, tuple[str, int]]", request.scope)["server"]
        if port == cast("dict[str, object]", current_app.config).get(OLLAMA_PORT):
            return Response(OLLAMA_IS_RUNNING, content_type="text/plain; charset=utf-8")
        if request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html":
            return dashboard_page()
        return json_reply(
            {
                "name": "Chorus",
                "ollama": OLLAMA_IS_RUNNING,
                "description": "Several PCs as one local-LLM service",
                "version": chorus_proto.__version__,
                "status": "running",
                "endpoints": _ENDPOINTS,
            }
        )

    async def health() -> Response:
        # A live process without a coordinator is alive: 200 with `healthy: false`. /readyz is the probe that fails.
        try:
            state = await states.state()
        except ClusterError as error:
            return json_reply({"healthy": False, "connected_clients": 0, "active_models": 0, "message": error.message})
        clients, models = len(alive_nodes(state)), len(ready_models(state))
        return json_reply(
            {
                "healthy": True,
                "connected_clients": clients,
                "active_models": models,
                "message": f"Server healthy. {clients} clients, {models} active models.",
                "version": state.version,
                "uptime_s": state.uptime_s,
                "draining": state.draining,
            }
        )

    async def status() -> Response:
        state = await states.state()
        return json_reply(
            {
                "total_clients": len(state.nodes),
                "active_clients": len(alive_nodes(state)),
                "available_models": [model.name for model in ready_models(state)],
                "healthy": not state.draining,
                "version": state.version,
                "epoch": state.epoch,
                "uptime_s": state.uptime_s,
                "draining": state.draining,
                "routing_strategy": state.routing_strategy,
                "requests": {
                    "waiting": state.waiting,
                    "running": state.running,
                    "finished_total": state.finished_total,
                    "failed_total": state.failed_total,
                    "cancelled_total": state.cancelled_total,
                },
                "clients": [node_shown(node) for node in state.nodes],
            }
        )

    async def readyz() -> Response:
        try:
            state = await states.state()
        except ClusterError as error:
            return json_reply({"ready": False, "reason": error.message}, status=503)
        reason = None
        if state.draining:
            reason = "The coordinator is shutting down."
        elif not any(node.state.is_here for node in state.nodes):
            reason = "No PC is connected."
        elif not ready_models(state):
            reason = "No model is loaded yet."
        return json_reply({"ready": reason is None, "reason": reason}, status=200 if reason is None else 503)

    async def reassign() -> Response:
        try:
            async with asyncio.timeout(_REASSIGN_WITHIN_S):
                reassignment = await cluster.reassign()
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None
        placed = reassignment.assignments
        return json_reply(
            {
                "success": True,
                "message": f"Models placed anew on {len(placed)} clients.",
                "assignments": [_assignment(one) for one in placed],
            }
        )

    async def scrape() -> Response:
        # Scrapers want this page most when the coordinator is away.
        try:
            async with asyncio.timeout(_METRICS_WITHIN_S):
                theirs = await cluster.metrics()
            metrics.coordinator_up.set(1)
        except (ClusterError, TimeoutError):
            theirs = b""
            metrics.coordinator_up.set(0)
        return Response(metrics.text() + theirs, content_type=CONTENT_TYPE_LATEST)

    for path, view in (("/", describe), ("/health", health), ("/status", status), ("/readyz", readyz)):
        routes.add_url_rule(path, view.__name__, view, methods=["GET"])
    routes.add_url_rule("/metrics", "metrics", scrape, methods=["GET"])
    routes.add_url_rule("/reassign", "reassign", reassign, methods=["POST"])
    return routes


def _assignment(assignment: Assignment) -> dict[str, object]:
    return {
        "node_id": assignment.node_id,
        "node": assignment.node_name,
        "model": assignment.model,
        "previous_model": assignment.previous_model,
        "reason": assignment.reason,
    }
