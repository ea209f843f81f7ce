"""The coordinator's events as JSON, written down once for all who watch."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_http.nodes_shown import node_shown, replica_shown
from chorus_http.replies import encoded
from chorus_proto.event_log import Position
from chorus_proto.happenings import (
    Happening,
    HubEvent,
    LoadTold,
    NodeReading,
    NodeTold,
    QueueTold,
    Readings,
    ReplicaTold,
    RequestEnded,
    RequestStarted,
    TransferTold,
)
from chorus_proto.transfers import Transfer

UNKNOWN_KIND = "unknown"
"""Of an event that only a newer coordinator knows: its number must not be missing."""

KINDS = (
    "node.joined",
    "node.state",
    "node.polite",
    "node.models",
    "node.assigned",
    "replica",
    "load.demanded",
    "transfer",
    "queue",
    "request.started",
    "request.ended",
    "readings",
    UNKNOWN_KIND,
)


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """`body` is JSON."""

    id: int
    name: str
    """`EPOCH-ID`."""
    at_unix_s: float
    kind: str
    body: bytes

    def object(self) -> bytes:
        """The whole event as one JSON object."""
        return b'{"id":"%b","at_unix_s":%.3f,"kind":"%b","body":%b}' % (
            self.name.encode(),
            self.at_unix_s,
            self.kind.encode(),
            self.body,
        )


def shown(event: HubEvent, epoch: int) -> LiveEvent:
    kind, body = (UNKNOWN_KIND, {}) if event.what is None else _shown(event.what)
    return LiveEvent(event.id, str(Position(epoch, event.id)), event.at_unix_s, kind, encoded(body))


def _shown(what: Happening) -> tuple[str, dict[str, object]]:
    match what:
        case NodeTold(node=node, news=news, reason=reason):
            return f"node.{news}", {"node": node_shown(node), "reason": reason}
        case ReplicaTold() as told:
            replica = replica_shown(told.replica)
            return "replica", {"node_id": told.node_id, "node": told.node_name, "replica": replica}
        case LoadTold() as load:
            body: dict[str, object] = {"node_id": load.node_id, "node": load.node_name, "model": load.model}
            return "load.demanded", {**body, "waiting": load.waiting, "reason": load.reason}
        case TransferTold(transfer=transfer):
            return "transfer", _transfer(transfer)
        case QueueTold(queue=queue):
            counts: dict[str, object] = {"waiting": queue.waiting_total, "running": queue.running_total}
            return "queue", {**counts, "limit": queue.limit, "models": queue.models}
        case RequestStarted() as started:
            return "request.started", _started(started)
        case RequestEnded() as ended:
            return "request.ended", _ended(ended)
        case Readings(nodes=nodes):
            return "readings", {"nodes": [_reading(node) for node in nodes]}


def _transfer(transfer: Transfer) -> dict[str, object]:
    return {
        "transfer_id": transfer.transfer_id,
        "kind": transfer.kind,
        "state": transfer.state,
        "model": transfer.model,
        "node_id": transfer.node_id,
        "node": transfer.node_name,
        "source": transfer.source,
        "done_bytes": transfer.done_bytes,
        "total_bytes": transfer.total_bytes,
        "bytes_per_s": transfer.bytes_per_s,
        "share": transfer.share,
        "left_s": transfer.left_s,
        "detail": transfer.detail,
        "error": None if transfer.error is None else transfer.error.message,
    }


def _started(started: RequestStarted) -> dict[str, object]:
    return {
        "request_id": started.request_id,
        "user": started.user,
        "model": started.model,
        "priority": started.priority,
        "node_id": started.node_id,
        "node": started.node_name,
        "attempt": started.attempt,
        "queued_s": started.queued_s,
    }


def _ended(ended: RequestEnded) -> dict[str, object]:
    return {
        "request_id": ended.request_id,
        "user": ended.user,
        "model": ended.model,
        "node_id": ended.node_id,
        "node": ended.node_name,
        "outcome": ended.outcome,
        "code": ended.code,
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.completion_tokens,
        "seconds": ended.seconds,
        "tokens_per_s": ended.decode_tokens_per_s,
    }


def _reading(reading: NodeReading) -> dict[str, object]:
    return {
        "node_id": reading.node_id,
        "node": reading.node_name,
        "state": reading.state,
        "running": reading.running,
        "slots": reading.slots,
        "slots_busy": reading.slots_busy,
        "cpu_percent": reading.cpu_percent,
        "ram_available_bytes": reading.ram_available_bytes,
        "gpu_free_bytes": reading.gpu_free_bytes,
        "tokens_total": reading.tokens_total,
        "tokens_per_s": reading.tokens_per_s,
        "heartbeat_age_s": reading.heartbeat_age_s,
    }
