"""Events of the coordinator, to the values of `happenings.py` and back."""

from __future__ import annotations

from chorus_proto import coordinator_pb2
from chorus_proto.convert_pc import known_or
from chorus_proto.convert_queue import of_queue, queue_message
from chorus_proto.convert_state import node_message, of_node, of_replica_view, replica_view_message
from chorus_proto.convert_transfers import of_transfer, transfer_message
from chorus_proto.event_log import Batch, Position
from chorus_proto.happenings import (
    Happening,
    HubEvent,
    LoadTold,
    NodeNews,
    NodeReading,
    NodeTold,
    Outcome,
    QueueTold,
    Readings,
    ReplicaTold,
    RequestEnded,
    RequestStarted,
    TransferTold,
)
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import NodeState, Priority


def batch_message(batch: Batch[HubEvent]) -> coordinator_pb2.EventBatch:
    return coordinator_pb2.EventBatch(
        epoch=batch.position.epoch,
        last_id=batch.position.id,
        missed=batch.missed,
        events=[_event_message(event) for event in batch.events],
    )


def of_batch(message: coordinator_pb2.EventBatch) -> Batch[HubEvent]:
    events = tuple(HubEvent(event.id, event.at_unix_s, _of_kind(event)) for event in message.events)
    return Batch(Position(message.epoch, message.last_id), events, message.missed)


def _event_message(event: HubEvent) -> coordinator_pb2.HubEvent:
    message = coordinator_pb2.HubEvent(id=event.id, at_unix_s=event.at_unix_s)
    match event.what:
        case NodeTold(node=node, news=news, reason=reason):
            message.node.CopyFrom(coordinator_pb2.NodeTold(node=node_message(node), news=news, reason=reason))
        case ReplicaTold() as told:
            message.replica.CopyFrom(
                coordinator_pb2.ReplicaTold(
                    node_id=told.node_id, node_name=told.node_name, replica=replica_view_message(told.replica)
                )
            )
        case LoadTold() as told:
            message.load.CopyFrom(
                coordinator_pb2.LoadTold(
                    node_id=told.node_id,
                    node_name=told.node_name,
                    model=told.model,
                    waiting=told.waiting,
                    reason=told.reason,
                )
            )
        case TransferTold(transfer=transfer):
            message.transfer.CopyFrom(transfer_message(transfer))
        case QueueTold(queue=queue):
            message.queue.CopyFrom(queue_message(queue))
        case RequestStarted() as started:
            message.started.CopyFrom(_started_message(started))
        case RequestEnded() as ended:
            message.ended.CopyFrom(_ended_message(ended))
        case Readings(nodes=nodes):
            message.readings.CopyFrom(coordinator_pb2.Readings(nodes=[_reading_message(node) for node in nodes]))
        case None:
            pass
    return message


def _started_message(started: RequestStarted) -> coordinator_pb2.RequestStarted:
    return coordinator_pb2.RequestStarted(
        request_id=started.request_id,
        user=started.user,
        model=started.model,
        priority=started.priority,
        node_id=started.node_id,
        node_name=started.node_name,
        attempt=started.attempt,
        queued_s=started.queued_s,
    )


def _ended_message(ended: RequestEnded) -> coordinator_pb2.RequestEnded:
    return coordinator_pb2.RequestEnded(
        request_id=ended.request_id,
        user=ended.user,
        model=ended.model,
        node_id=ended.node_id,
        node_name=ended.node_name,
        outcome=ended.outcome,
        code=ended.code,
        prompt_tokens=ended.prompt_tokens,
        completion_tokens=ended.completion_tokens,
        seconds=ended.seconds,
        decode_tokens_per_s=ended.decode_tokens_per_s,
    )


def _reading_message(reading: NodeReading) -> coordinator_pb2.NodeReading:
    return coordinator_pb2.NodeReading(
        node_id=reading.node_id,
        node_name=reading.node_name,
        state=reading.state,
        running=reading.running,
        slots=reading.slots,
        slots_busy=reading.slots_busy,
        cpu_percent=reading.cpu_percent,
        ram_available_bytes=reading.ram_available_bytes,
        gpu_free_bytes=reading.gpu_free_bytes,
        tokens_total=reading.tokens_total,
        tokens_per_s=reading.tokens_per_s,
        heartbeat_age_s=reading.heartbeat_age_s,
    )


def _of_kind(message: coordinator_pb2.HubEvent) -> Happening | None:
    match message.WhichOneof("kind"):
        case "node":
            news = known_or(NodeNews, message.node.news, NodeNews.STATE)
            return NodeTold(node=of_node(message.node.node), news=news, reason=message.node.reason)
        case "replica":
            told = message.replica
            return ReplicaTold(
                node_id=NodeId(told.node_id), node_name=told.node_name, replica=of_replica_view(told.replica)
            )
        case "load":
            load = message.load
            return LoadTold(
                node_id=NodeId(load.node_id),
                node_name=load.node_name,
                model=ModelName(load.model),
                waiting=load.waiting,
                reason=load.reason,
            )
        case "transfer":
            return TransferTold(transfer=of_transfer(message.transfer))
        case "queue":
            return QueueTold(queue=of_queue(message.queue))
        case "started":
            return _of_started(message.started)
        case "ended":
            return _of_ended(message.ended)
        case "readings":
            return Readings(nodes=tuple(_of_reading(node) for node in message.readings.nodes))
        case None:
            return None


def _of_started(message: coordinator_pb2.RequestStarted) -> RequestStarted:
    return RequestStarted(
        request_id=RequestId(message.request_id),
        user=message.user,
        model=ModelName(message.model),
        priority=known_or(Priority, message.priority, Priority.INTERACTIVE),
        node_id=NodeId(message.node_id),
        node_name=message.node_name,
        attempt=message.attempt,
        queued_s=message.queued_s,
    )


def _of_ended(message: coordinator_pb2.RequestEnded) -> RequestEnded:
    return RequestEnded(
        request_id=RequestId(message.request_id),
        user=message.user,
        model=ModelName(message.model),
        node_id=NodeId(message.node_id),
        node_name=message.node_name,
        outcome=known_or(Outcome, message.outcome, Outcome.FAILED),
        code=message.code,
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        seconds=message.seconds,
        decode_tokens_per_s=message.decode_tokens_per_s if message.HasField("decode_tokens_per_s") else None,
    )


def _of_reading(message: coordinator_pb2.NodeReading) -> NodeReading:
    has = message.HasField
    return NodeReading(
        node_id=NodeId(message.node_id),
        node_name=message.node_name,
        state=known_or(NodeState, message.state, NodeState.SUSPECT),
        running=message.running,
        slots=message.slots,
        slots_busy=message.slots_busy,
        cpu_percent=message.cpu_percent if has("cpu_percent") else None,
        ram_available_bytes=message.ram_available_bytes if has("ram_available_bytes") else None,
        gpu_free_bytes=tuple(message.gpu_free_bytes),
        tokens_total=message.tokens_total,
        tokens_per_s=message.tokens_per_s if has("tokens_per_s") else None,
        heartbeat_age_s=message.heartbeat_age_s,
    )
