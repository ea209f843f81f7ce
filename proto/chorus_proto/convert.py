"""Wire messages to domain values and back. Both directions of each pair stand together; tests prove the round trip.

`of_*` reads a message, `*_message` writes one. Enumerations that a newer peer may extend are read leniently: an unknown
engine is dropped, an unknown replica state becomes `failed`.
"""

from __future__ import annotations

from chorus_proto import common_pb2, node_pb2
from chorus_proto.convert_pc import hardware_message, model_file_messages, of_engines, of_hardware, of_model_files
from chorus_proto.errors import ClusterError, error_of
from chorus_proto.ids import InstanceId, ModelName, NodeId
from chorus_proto.values import (
    Courtesy,
    Dialect,
    Heartbeat,
    Hello,
    ReplicaReport,
    ReplicaState,
    Timings,
    Usage,
    Welcome,
)

_REPLICA_STATES: dict[ReplicaState, common_pb2.ReplicaState.ValueType] = {
    ReplicaState.LOADING: common_pb2.REPLICA_STATE_LOADING,
    ReplicaState.READY: common_pb2.REPLICA_STATE_READY,
    ReplicaState.UNLOADING: common_pb2.REPLICA_STATE_UNLOADING,
    ReplicaState.FAILED: common_pb2.REPLICA_STATE_FAILED,
    ReplicaState.GONE: common_pb2.REPLICA_STATE_GONE,
}
_STATE_OF_NUMBER = {number: state for state, number in _REPLICA_STATES.items()}

_DIALECTS: dict[Dialect, common_pb2.Dialect.ValueType] = {
    Dialect.TEXT: common_pb2.DIALECT_TEXT,
    Dialect.OPENAI_CHAT: common_pb2.DIALECT_OPENAI_CHAT,
    Dialect.OPENAI_COMPLETION: common_pb2.DIALECT_OPENAI_COMPLETION,
    Dialect.OLLAMA_CHAT: common_pb2.DIALECT_OLLAMA_CHAT,
    Dialect.OLLAMA_GENERATE: common_pb2.DIALECT_OLLAMA_GENERATE,
    Dialect.ANTHROPIC: common_pb2.DIALECT_ANTHROPIC,
    Dialect.OPENAI_RESPONSES: common_pb2.DIALECT_OPENAI_RESPONSES,
    Dialect.EMBEDDINGS: common_pb2.DIALECT_EMBEDDINGS,
}
_DIALECT_OF_NUMBER = {number: dialect for dialect, number in _DIALECTS.items()}


def dialect_number(dialect: Dialect) -> common_pb2.Dialect.ValueType:
    return _DIALECTS[dialect]


def of_dialect(number: common_pb2.Dialect.ValueType) -> Dialect | None:
    """None for a dialect of a newer version."""
    return _DIALECT_OF_NUMBER.get(number)


def replica_state_number(state: ReplicaState | None) -> common_pb2.ReplicaState.ValueType:
    return common_pb2.REPLICA_STATE_UNSPECIFIED if state is None else _REPLICA_STATES[state]


def of_replica_state(number: common_pb2.ReplicaState.ValueType) -> ReplicaState | None:
    """None where nothing is said, and for a state of a newer version."""
    return _STATE_OF_NUMBER.get(number)


def _told(text: str) -> str:
    """Words for people that a message can hold: they may name a file, and a file's name need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def replica_message(report: ReplicaReport) -> node_pb2.ReplicaReport:
    return node_pb2.ReplicaReport(
        model=report.model,
        state=_REPLICA_STATES[report.state],
        slots=report.slots,
        engine=report.engine or "",
        resident_bytes=report.resident_bytes,
        predicted_bytes=report.predicted_bytes,
        progress=report.progress,
        detail=_told(report.detail),
        context_tokens=report.context_tokens,
        load_s=report.load_s,
        failure_code=report.failure_code,
        kept=report.kept,
        keep_alive_s=report.keep_alive_s,
        evicted_for=report.evicted_for or "",
        expected_bytes=report.expected_bytes,
        arithmetic=report.arithmetic,
        restarts=report.restarts,
        degraded=report.degraded,
        decode_tokens_per_s=report.decode_tokens_per_s,
    )


def of_replica(message: node_pb2.ReplicaReport) -> ReplicaReport:
    has = message.HasField
    engines = of_engines((message.engine,))
    return ReplicaReport(
        model=ModelName(message.model),
        state=_STATE_OF_NUMBER.get(message.state, ReplicaState.FAILED),
        slots=message.slots,
        engine=engines[0] if engines else None,
        resident_bytes=message.resident_bytes if has("resident_bytes") else None,
        predicted_bytes=message.predicted_bytes if has("predicted_bytes") else None,
        progress=message.progress if has("progress") else None,
        detail=message.detail,
        context_tokens=message.context_tokens,
        load_s=message.load_s if has("load_s") else None,
        failure_code=message.failure_code,
        kept=message.kept,
        keep_alive_s=message.keep_alive_s if has("keep_alive_s") else None,
        evicted_for=ModelName(message.evicted_for) if message.evicted_for else None,
        expected_bytes=message.expected_bytes if has("expected_bytes") else None,
        arithmetic=message.arithmetic,
        restarts=message.restarts,
        degraded=message.degraded,
        decode_tokens_per_s=message.decode_tokens_per_s if has("decode_tokens_per_s") else None,
    )


def courtesy_message(courtesy: Courtesy) -> node_pb2.Courtesy:
    return node_pb2.Courtesy(paused=courtesy.paused, slots=courtesy.slots, reason=courtesy.reason)


def of_courtesy(message: node_pb2.Courtesy) -> Courtesy:
    """An absent message reads as one without limits."""
    slots = message.slots if message.HasField("slots") else None
    return Courtesy(paused=message.paused, slots=slots, reason=message.reason)


def hello_message(hello: Hello) -> node_pb2.Hello:
    return node_pb2.Hello(
        protocol_min=hello.protocol_min,
        protocol_max=hello.protocol_max,
        version=hello.version,
        node_id=hello.node_id,
        instance_id=hello.instance_id,
        name=hello.name,
        hardware=hardware_message(hello.hardware),
        engines=list(hello.engines),
        models=model_file_messages(hello.models),
        replicas=[replica_message(report) for report in hello.replicas],
        features=list(hello.features),
        mac_addresses=list(hello.mac_addresses),
        courtesy=courtesy_message(hello.courtesy),
    )


def of_hello(message: node_pb2.Hello) -> Hello:
    return Hello(
        node_id=NodeId(message.node_id),
        instance_id=InstanceId(message.instance_id),
        name=message.name,
        version=message.version,
        protocol_min=message.protocol_min,
        protocol_max=message.protocol_max,
        hardware=of_hardware(message.hardware),
        engines=of_engines(message.engines),
        models=of_model_files(message.models),
        replicas=tuple(of_replica(report) for report in message.replicas),
        features=tuple(message.features),
        mac_addresses=tuple(message.mac_addresses),
        courtesy=of_courtesy(message.courtesy),
    )


def welcome_message(welcome: Welcome) -> node_pb2.Welcome:
    return node_pb2.Welcome(
        protocol=welcome.protocol,
        epoch=welcome.epoch,
        lease_ms=round(welcome.lease_s * 1000),
        heartbeat_ms=round(welcome.heartbeat_s * 1000),
        version=welcome.version,
        features=list(welcome.features),
        assigned_model=welcome.assigned_model or "",
        assignment_reason=welcome.assignment_reason,
    )


def of_welcome(message: node_pb2.Welcome) -> Welcome:
    return Welcome(
        protocol=message.protocol,
        epoch=message.epoch,
        lease_s=message.lease_ms / 1000,
        heartbeat_s=message.heartbeat_ms / 1000,
        version=message.version,
        features=tuple(message.features),
        assigned_model=ModelName(message.assigned_model) if message.assigned_model else None,
        assignment_reason=message.assignment_reason,
    )


def heartbeat_message(beat: Heartbeat) -> node_pb2.Heartbeat:
    return node_pb2.Heartbeat(
        sequence=beat.sequence,
        uptime_s=beat.uptime_s,
        ram_available_bytes=beat.ram_available_bytes,
        gpu_free_bytes=list(beat.gpu_free_bytes),
        running=beat.running,
        tokens_total=beat.tokens_total,
        cpu_percent=beat.cpu_percent,
    )


def of_heartbeat(message: node_pb2.Heartbeat) -> Heartbeat:
    has = message.HasField
    return Heartbeat(
        sequence=message.sequence,
        uptime_s=message.uptime_s,
        ram_available_bytes=message.ram_available_bytes if has("ram_available_bytes") else None,
        gpu_free_bytes=tuple(message.gpu_free_bytes),
        running=message.running,
        tokens_total=message.tokens_total,
        cpu_percent=message.cpu_percent if has("cpu_percent") else None,
    )


def usage_message(usage: Usage) -> common_pb2.Usage:
    return common_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def of_usage(message: common_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        cached_tokens=message.cached_tokens,
    )


def timings_message(timings: Timings) -> common_pb2.Timings:
    return common_pb2.Timings(
        queue_s=timings.queue_s,
        ttft_s=timings.ttft_s,
        duration_s=timings.duration_s,
        prefill_tokens_per_s=timings.prefill_tokens_per_s,
        decode_tokens_per_s=timings.decode_tokens_per_s,
    )


def of_timings(message: common_pb2.Timings) -> Timings:
    has = message.HasField
    return Timings(
        queue_s=message.queue_s,
        ttft_s=message.ttft_s,
        duration_s=message.duration_s,
        prefill_tokens_per_s=message.prefill_tokens_per_s if has("prefill_tokens_per_s") else None,
        decode_tokens_per_s=message.decode_tokens_per_s if has("decode_tokens_per_s") else None,
    )


def failure_message(error: ClusterError) -> common_pb2.Failure:
    return common_pb2.Failure(
        code=error.code,
        message=_told(error.message),
        param=error.param or "",
        retry_after_s=error.retry_after_s,
    )


def of_failure(message: common_pb2.Failure) -> ClusterError:
    return error_of(
        message.code,
        message.message,
        param=message.param or None,
        retry_after_s=message.retry_after_s if message.HasField("retry_after_s") else None,
    )
