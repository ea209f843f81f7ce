"""A node and its replicas as JSON values, the same in GET /status and in the events."""

from __future__ import annotations

from chorus_proto.values import ALL_OURS, Node, Replica


def node_shown(node: Node) -> dict[str, object]:
    return {
        "client_id": node.client_id,
        "node_id": node.node_id,
        "name": node.name,
        "address": node.address,
        "state": node.state,
        "performance_score": node.score.score,
        "limited_by": node.score.limited_by,
        "assigned_model": node.assigned_model,
        "assignment_reason": node.assignment_reason,
        "models": [model.name for model in node.models],
        "replicas": [replica_shown(replica) for replica in node.replicas],
        "running": node.running,
        "tokens_total": node.tokens_total,
        "heartbeat_age_s": node.heartbeat_age_s,
        "uptime_s": node.uptime_s,
        "cpu_percent": node.cpu_percent,
        "ram_available_bytes": node.ram_available_bytes,
        "courtesy": None if node.courtesy == ALL_OURS else node.courtesy,
        "mac_addresses": node.mac_addresses,
        "version": node.version,
        "hardware": node.hardware,
    }


def replica_shown(replica: Replica) -> dict[str, object]:
    report = replica.report
    return {
        "model": report.model,
        "state": report.state,
        "engine": report.engine,
        "slots": report.slots,
        "slots_busy": replica.slots_busy,
        "context_tokens": report.context_tokens,
        "resident_bytes": report.resident_bytes,
        "expected_bytes": report.expected_bytes or report.predicted_bytes,
        "arithmetic": report.arithmetic,
        "kept": report.kept,
        "restarts": report.restarts,
        "progress": report.progress,
        "detail": report.detail,
        "degraded": report.degraded,
        "decode_tokens_per_s": replica.decode_tokens_per_s,
        "prefill_tokens_per_s": replica.prefill_tokens_per_s,
    }
