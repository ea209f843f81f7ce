"""GET /queue/status and POST /route/explain: who waits, who runs, and where a request would go."""

from __future__ import annotations

import asyncio

from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.calls import call_of
from chorus_http.exchange import current_exchange
from chorus_http.replies import json_reply
from chorus_http.settings import HttpSettings
from chorus_proto.cluster import Cluster
from chorus_proto.dialects.openai_request import parse_chat, parse_completion
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import CoordinatorUnavailable
from chorus_proto.explained import Explanation
from chorus_proto.queue_state import QueueState, Running, Standing, Waiting


def queue_routes(cluster: Cluster, settings: HttpSettings) -> Blueprint:
    routes = Blueprint("queue", __name__)

    async def status() -> Response:
        try:
            async with asyncio.timeout(settings.metadata_within_s):
                found = await cluster.queue_state()
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None
        return json_reply(_queue(found))

    async def explain() -> Response:
        raw = await json_body()
        # The body of the request that is asked about: a chat's, or a completion's with a prompt.
        parse = parse_chat if "messages" in load_object(raw, int64_names=("seed",)) else parse_completion
        call = call_of(parse(raw), current_exchange(), longest_s=settings.request_within_s)
        try:
            async with asyncio.timeout(settings.metadata_within_s):
                found = await cluster.explain(call)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None
        return json_reply(_explanation(found))

    routes.add_url_rule("/queue/status", "status", status, methods=["GET"])
    routes.add_url_rule("/route/explain", "explain", explain, methods=["POST"])
    return routes


def _queue(found: QueueState) -> dict[str, object]:
    return {
        "waiting": found.waiting_total,
        "running": found.running_total,
        "limit": found.limit,
        "models": found.models,
        "waiting_requests": [_waiting(one) for one in found.waiting],
        "running_requests": [_running(one) for one in found.running],
    }


def _waiting(one: Waiting) -> dict[str, object]:
    return {
        "request_id": one.request_id,
        "user": one.user,
        "model": one.model,
        "priority": one.priority,
        "waited_s": one.waited_s,
        "late": one.late,
        **_standing(one.standing),
    }


def _standing(standing: Standing) -> dict[str, object]:
    return {
        "position": standing.position,
        "of": standing.of,
        "expected_wait_s": standing.expected_wait_s,
        "going_on": standing.going_on,
        "load_left_s": standing.load_left_s,
    }


def _running(one: Running) -> dict[str, object]:
    return {
        "request_id": one.request_id,
        "user": one.user,
        "model": one.model,
        "priority": one.priority,
        "node_id": one.node_id,
        "node": one.node_name,
        "running_s": one.running_s,
    }


def _explanation(found: Explanation) -> dict[str, object]:
    return {
        "model": found.model,
        "model_digest": found.model_digest or None,
        "strategy": found.strategy,
        "priority": found.priority,
        "verdict": found.verdict,
        "chosen": found.chosen,
        "prompt_tokens": found.prompt_tokens,
        "expected_tokens": found.expected_tokens,
        "waiting": found.waiting,
        "expected_wait_s": found.expected_wait_s,
        "ranking": found.ranking,
        "refused": found.refused,
    }
