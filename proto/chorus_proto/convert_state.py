"""The cluster's state and assignments on CoordinatorService, to the values of `values.py` and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chorus_proto import coordinator_pb2
from chorus_proto.convert import (
    courtesy_message,
    of_courtesy,
    of_replica,
    of_replica_state,
    replica_message,
    replica_state_number,
)
from chorus_proto.convert_pc import (
    hardware_message,
    known_or,
    model_file_message,
    of_engines,
    of_hardware,
    of_model_files,
)
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import (
    AggregateStrategy,
    Assignment,
    ClusterState,
    CouncilSummary,
    Footprint,
    ModelOrder,
    ModelSummary,
    Node,
    NodeState,
    OrderedOn,
    Reassignment,
    Replica,
    RoutingStrategy,
    Score,
    Tier,
    Woken,
)


def node_message(node: Node) -> coordinator_pb2.Node:
    return coordinator_pb2.Node(
        node_id=node.node_id,
        name=node.name,
        client_id=node.client_id,
        address=node.address,
        state=node.state,
        hardware=hardware_message(node.hardware),
        score=coordinator_pb2.Score(
            score=node.score.score,
            comfortable_parameters=node.score.comfortable_parameters,
            decode_tokens_per_s=node.score.decode_tokens_per_s,
            prefill_tokens_per_s=node.score.prefill_tokens_per_s,
            limited_by=node.score.limited_by,
        ),
        engines=list(node.engines),
        models=[model_file_message(file) for file in node.models],
        replicas=[replica_view_message(replica) for replica in node.replicas],
        assigned_model=node.assigned_model or "",
        assignment_reason=node.assignment_reason,
        heartbeat_age_s=node.heartbeat_age_s,
        uptime_s=node.uptime_s,
        running=node.running,
        tokens_total=node.tokens_total,
        version=node.version,
        ram_available_bytes=node.ram_available_bytes,
        cpu_percent=node.cpu_percent,
        footprints=[
            coordinator_pb2.Footprint(
                model=one.model,
                engine=one.engine,
                context_tokens=one.context_tokens,
                slots=one.slots,
                predicted_bytes=one.predicted_bytes,
                expected_bytes=one.expected_bytes,
                resident_bytes=one.resident_bytes,
                load_s=one.load_s,
                arithmetic=one.arithmetic,
            )
            for one in node.footprints
        ],
        courtesy=courtesy_message(node.courtesy),
        mac_addresses=list(node.mac_addresses),
    )


def of_node(message: coordinator_pb2.Node) -> Node:
    score, has = message.score, message.HasField
    return Node(
        node_id=NodeId(message.node_id),
        name=message.name,
        client_id=message.client_id,
        address=message.address,
        state=known_or(NodeState, message.state, NodeState.SUSPECT),
        hardware=of_hardware(message.hardware),
        score=Score(
            score=score.score,
            comfortable_parameters=score.comfortable_parameters,
            decode_tokens_per_s=score.decode_tokens_per_s if score.HasField("decode_tokens_per_s") else None,
            prefill_tokens_per_s=score.prefill_tokens_per_s if score.HasField("prefill_tokens_per_s") else None,
            limited_by=score.limited_by,
        ),
        engines=of_engines(message.engines),
        models=of_model_files(message.models),
        replicas=tuple(of_replica_view(replica) for replica in message.replicas),
        assigned_model=ModelName(message.assigned_model) if message.assigned_model else None,
        assignment_reason=message.assignment_reason,
        heartbeat_age_s=message.heartbeat_age_s,
        uptime_s=message.uptime_s,
        running=message.running,
        tokens_total=message.tokens_total,
        version=message.version,
        ram_available_bytes=message.ram_available_bytes if has("ram_available_bytes") else None,
        cpu_percent=message.cpu_percent if has("cpu_percent") else None,
        footprints=tuple(_of_footprints(message.footprints)),
        courtesy=of_courtesy(message.courtesy),
        mac_addresses=tuple(message.mac_addresses),
    )


def _of_footprints(messages: Iterable[coordinator_pb2.Footprint]) -> Iterator[Footprint]:
    """Without those of engines that only a newer version knows."""
    for one in messages:
        for engine in of_engines([one.engine]):
            yield Footprint(
                model=ModelName(one.model),
                engine=engine,
                context_tokens=one.context_tokens,
                slots=one.slots,
                predicted_bytes=one.predicted_bytes if one.HasField("predicted_bytes") else None,
                expected_bytes=one.expected_bytes if one.HasField("expected_bytes") else None,
                resident_bytes=one.resident_bytes if one.HasField("resident_bytes") else None,
                load_s=one.load_s if one.HasField("load_s") else None,
                arithmetic=one.arithmetic,
            )


def replica_view_message(replica: Replica) -> coordinator_pb2.Replica:
    return coordinator_pb2.Replica(
        report=replica_message(replica.report),
        slots_busy=replica.slots_busy,
        decode_tokens_per_s=replica.decode_tokens_per_s,
        prefill_tokens_per_s=replica.prefill_tokens_per_s,
    )


def of_replica_view(message: coordinator_pb2.Replica) -> Replica:
    return Replica(
        report=of_replica(message.report),
        slots_busy=message.slots_busy,
        decode_tokens_per_s=message.decode_tokens_per_s if message.HasField("decode_tokens_per_s") else None,
        prefill_tokens_per_s=message.prefill_tokens_per_s if message.HasField("prefill_tokens_per_s") else None,
    )


def state_message(state: ClusterState) -> coordinator_pb2.ClusterState:
    return coordinator_pb2.ClusterState(
        version=state.version,
        epoch=state.epoch,
        uptime_s=state.uptime_s,
        nodes=[node_message(node) for node in state.nodes],
        models=[
            coordinator_pb2.ModelSummary(
                name=model.name,
                tier=model.tier or "",
                file_bytes=model.file_bytes,
                parameters=model.parameters,
                ready_on=list(model.ready_on),
                on_disk_at=list(model.on_disk_at),
                digest=model.digest,
                context_tokens=model.context_tokens,
                embedding=model.embedding,
                alias_of=model.alias_of or "",
            )
            for model in state.models
        ],
        waiting=state.waiting,
        running=state.running,
        finished_total=state.finished_total,
        failed_total=state.failed_total,
        cancelled_total=state.cancelled_total,
        routing_strategy=state.routing_strategy,
        draining=state.draining,
        councils=[
            coordinator_pb2.CouncilSummary(name=one.name, strategy=one.strategy, members=one.members)
            for one in state.councils
        ],
    )


def of_state(message: coordinator_pb2.ClusterState) -> ClusterState:
    return ClusterState(
        version=message.version,
        epoch=message.epoch,
        uptime_s=message.uptime_s,
        nodes=tuple(of_node(node) for node in message.nodes),
        models=tuple(
            ModelSummary(
                name=ModelName(model.name),
                tier=known_or(Tier, model.tier, Tier.LARGE) if model.tier else None,
                file_bytes=model.file_bytes,
                parameters=model.parameters,
                ready_on=tuple(NodeId(node_id) for node_id in model.ready_on),
                on_disk_at=tuple(NodeId(node_id) for node_id in model.on_disk_at),
                digest=model.digest,
                context_tokens=model.context_tokens,
                embedding=model.embedding,
                alias_of=ModelName(model.alias_of) if model.alias_of else None,
            )
            for model in message.models
        ),
        waiting=message.waiting,
        running=message.running,
        finished_total=message.finished_total,
        failed_total=message.failed_total,
        cancelled_total=message.cancelled_total,
        routing_strategy=known_or(RoutingStrategy, message.routing_strategy, RoutingStrategy.EXPECTED_FINISH),
        draining=message.draining,
        councils=tuple(
            CouncilSummary(
                name=ModelName(one.name),
                strategy=known_or(AggregateStrategy, one.strategy, AggregateStrategy.VOTE),
                members=one.members,
            )
            for one in message.councils
        ),
    )


def reassignment_message(reassignment: Reassignment) -> coordinator_pb2.ReassignReply:
    return coordinator_pb2.ReassignReply(
        assignments=[
            coordinator_pb2.Assignment(
                node_id=assignment.node_id,
                node_name=assignment.node_name,
                model=assignment.model or "",
                previous_model=assignment.previous_model or "",
                reason=assignment.reason,
            )
            for assignment in reassignment.assignments
        ]
    )


def of_reassignment(message: coordinator_pb2.ReassignReply) -> Reassignment:
    return Reassignment(
        assignments=tuple(
            Assignment(
                node_id=NodeId(assignment.node_id),
                node_name=assignment.node_name,
                model=ModelName(assignment.model) if assignment.model else None,
                previous_model=ModelName(assignment.previous_model) if assignment.previous_model else None,
                reason=assignment.reason,
            )
            for assignment in message.assignments
        )
    )


def woken_message(woken: Woken) -> coordinator_pb2.WakeReply:
    return coordinator_pb2.WakeReply(
        node_id=woken.node_id, node_name=woken.node_name, mac_addresses=list(woken.mac_addresses)
    )


def of_woken(message: coordinator_pb2.WakeReply) -> Woken:
    return Woken(
        node_id=NodeId(message.node_id),
        node_name=message.node_name,
        mac_addresses=tuple(message.mac_addresses),
    )


def model_order_message(order: ModelOrder) -> coordinator_pb2.ModelOrder:
    return coordinator_pb2.ModelOrder(
        model=order.model,
        nodes=[
            coordinator_pb2.OrderedOn(
                node_id=one.node_id, node_name=one.node_name, state=replica_state_number(one.state)
            )
            for one in order.nodes
        ],
    )


def of_model_order(message: coordinator_pb2.ModelOrder) -> ModelOrder:
    return ModelOrder(
        model=ModelName(message.model),
        nodes=tuple(
            OrderedOn(node_id=NodeId(one.node_id), node_name=one.node_name, state=of_replica_state(one.state))
            for one in message.nodes
        ),
    )
