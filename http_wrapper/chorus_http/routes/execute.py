"""POST /v1/execute: one task, on whichever model and PC; GET /v1/status: how it all is (seed 001, 7.4)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.calls import call_of
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.metrics import HttpMetrics
from chorus_http.model_status import ModelStatus, loaded_models, statuses
from chorus_http.replies import json_reply
from chorus_http.settings import HttpSettings
from chorus_http.sse import EventStream, Source, event_stream_response
from chorus_http.state import StateReader, alive_nodes
from chorus_http.tasks import TaskRun, finished_task
from chorus_proto.cluster import CallFinished, Cluster
from chorus_proto.dialects.parsed import ParsedRequest
from chorus_proto.dialects.task_request import parse_task, read_task
from chorus_proto.errors import CoordinatorUnavailable, NoReplica
from chorus_proto.ids import ModelName
from chorus_proto.queue_state import QueueState
from chorus_proto.values import ClusterState, Node, NodeState, RoutingStrategy


class Health(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    """`ok`, `degraded` (a model or a PC is not well), `no_model`, `no_nodes` or `draining`."""
    reasons: tuple[str, ...]


class ModelDepth(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    waiting: int
    running: int
    slots: int
    expected_wait_s: float | None


class QueueDepths(msgspec.Struct, frozen=True, kw_only=True):
    waiting: int
    running: int
    limit: int
    models: tuple[ModelDepth, ...]


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    finished_total: int
    failed_total: int
    cancelled_total: int
    tokens_total: int
    decode_tokens_per_s: float
    """Of all loaded copies together, as last measured of each."""


class NodeHealth(msgspec.Struct, frozen=True, kw_only=True):
    node_id: str
    node: str
    state: str
    score: float
    running: int
    assigned_model: str | None
    ram_available_bytes: int | None
    cpu_percent: float | None
    courtesy: str
    """What it leaves to its owner for now, and why; empty when nothing."""


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET /v1/status."""

    version: str
    epoch: int
    uptime_s: float
    health: Health
    routing_strategy: RoutingStrategy
    models: tuple[ModelStatus, ...]
    queue: QueueDepths
    metrics: Totals
    nodes: tuple[NodeHealth, ...]


def execute_routes(cluster: Cluster, states: StateReader, settings: HttpSettings, metrics: HttpMetrics) -> Blueprint:
    routes = Blueprint("execute", __name__)

    async def execute() -> Response:
        parsed = await parsed_task(await json_body(), states)
        return await answered_task(parsed, current_exchange(), cluster, settings, metrics)

    async def status() -> Response:
        try:
            async with asyncio.timeout(settings.metadata_within_s):
                state, queue = await states.state(), await cluster.queue_state()
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None
        return json_reply(cluster_status(state, queue))

    routes.add_url_rule("/v1/execute", "execute", execute, methods=["POST"])
    routes.add_url_rule("/v1/status", "status", status, methods=["GET"])
    return routes


async def parsed_task(raw: bytes, states: StateReader) -> ParsedRequest:
    """With the largest loaded chat model when the caller names none. Raises NoReplica when there is none either."""
    asked = read_task(raw)
    return parse_task(asked, _largest(await states.state()) if asked.model is None else ModelName(asked.model))


async def answered_task(
    parsed: ParsedRequest, exchange: Exchange, cluster: Cluster, settings: HttpSettings, metrics: HttpMetrics
) -> Response:
    call = call_of(parsed, exchange, longest_s=settings.request_within_s)
    if not call.stream:
        return json_reply(await finished_task(cluster, call))
    run = TaskRun(call)
    events = cluster.submit(replace(call, standing_every_s=settings.ping_every_s))
    source = Source(events, run.render, CallFinished, call.within_s, run.silence)
    stream = EventStream(source, exchange, settings, metrics)
    await stream.open()
    return event_stream_response(stream.body(), {})


def _largest(state: ClusterState) -> ModelName:
    ready = loaded_models(state)
    if not ready:
        raise NoReplica("No chat model is loaded now; name one with 'model', and it will be loaded.", param="model")
    return ready[0].name


def cluster_status(state: ClusterState, queue: QueueState) -> ClusterStatus:
    copies = [replica for node in state.nodes for replica in node.replicas]
    return ClusterStatus(
        version=state.version,
        epoch=state.epoch,
        uptime_s=state.uptime_s,
        health=_health(state),
        routing_strategy=state.routing_strategy,
        models=tuple(statuses(state)),
        queue=QueueDepths(
            waiting=queue.waiting_total,
            running=queue.running_total,
            limit=queue.limit,
            models=tuple(
                ModelDepth(
                    model=one.model,
                    waiting=one.waiting,
                    running=one.running,
                    slots=one.slots,
                    expected_wait_s=one.expected_wait_s,
                )
                for one in queue.models
            ),
        ),
        metrics=Totals(
            finished_total=state.finished_total,
            failed_total=state.failed_total,
            cancelled_total=state.cancelled_total,
            tokens_total=sum(node.tokens_total for node in state.nodes),
            decode_tokens_per_s=sum(copy.decode_tokens_per_s or 0.0 for copy in copies),
        ),
        nodes=tuple(_node(node) for node in state.nodes),
    )


def _health(state: ClusterState) -> Health:
    # A PC that sleeps is as it should be, and so is one that yields to its owner.
    well = (NodeState.ALIVE, NodeState.ASLEEP)
    away = [f"{node.name} is {node.state}" for node in state.nodes if node.state not in well]
    ill = [
        f"{node.name}: {replica.report.model} {'is slow' if replica.report.degraded else 'failed'}: "
        f"{replica.report.detail}"
        for node in state.nodes
        for replica in node.replicas
        if replica.report.degraded or replica.report.failure_code
    ]
    if state.draining:
        return Health(status="draining", reasons=("The coordinator is shutting down.",))
    if not alive_nodes(state):
        return Health(status="no_nodes", reasons=tuple(away) or ("No PC is connected.",))
    if not any(model.ready_on for model in state.models):
        return Health(status="no_model", reasons=(*ill, "No model is loaded yet."))
    return Health(status="degraded" if away or ill else "ok", reasons=(*away, *ill))


def _node(node: Node) -> NodeHealth:
    return NodeHealth(
        node_id=node.node_id,
        node=node.name,
        state=node.state,
        score=node.score.score,
        running=node.running,
        assigned_model=node.assigned_model,
        ram_available_bytes=node.ram_available_bytes,
        cpu_percent=node.cpu_percent,
        courtesy=node.courtesy.words,
    )
