"""The queue and explained routing on CoordinatorService, to the values of `queue_state` and `explained` and back."""

from __future__ import annotations

from chorus_proto import coordinator_pb2
from chorus_proto.convert_pc import known_or
from chorus_proto.explained import Explanation, RankedReplica, RefusedNode
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.queue_state import ModelQueue, QueueState, Running, Standing, Waiting
from chorus_proto.values import Priority, RoutingStrategy


def standing_message(standing: Standing) -> coordinator_pb2.Standing:
    return coordinator_pb2.Standing(
        position=standing.position,
        of=standing.of,
        expected_wait_s=standing.expected_wait_s,
        going_on=standing.going_on,
        load_left_s=standing.load_left_s,
    )


def of_standing(message: coordinator_pb2.Standing) -> Standing:
    return Standing(
        position=message.position,
        of=message.of,
        expected_wait_s=message.expected_wait_s if message.HasField("expected_wait_s") else None,
        going_on=message.going_on,
        load_left_s=message.load_left_s if message.HasField("load_left_s") else None,
    )


def queue_message(state: QueueState) -> coordinator_pb2.QueueState:
    return coordinator_pb2.QueueState(
        waiting_total=state.waiting_total,
        running_total=state.running_total,
        limit=state.limit,
        models=[
            coordinator_pb2.ModelQueue(
                model=one.model,
                waiting=one.waiting,
                running=one.running,
                slots=one.slots,
                users=one.users,
                expected_wait_s=one.expected_wait_s,
            )
            for one in state.models
        ],
        waiting=[
            coordinator_pb2.WaitingRequest(
                request_id=one.request_id,
                user=one.user,
                model=one.model,
                priority=one.priority,
                waited_s=one.waited_s,
                standing=standing_message(one.standing),
                late=one.late,
            )
            for one in state.waiting
        ],
        running=[
            coordinator_pb2.RunningRequest(
                request_id=one.request_id,
                user=one.user,
                model=one.model,
                priority=one.priority,
                node_id=one.node_id,
                node_name=one.node_name,
                running_s=one.running_s,
            )
            for one in state.running
        ],
    )


def of_queue(message: coordinator_pb2.QueueState) -> QueueState:
    return QueueState(
        waiting_total=message.waiting_total,
        running_total=message.running_total,
        limit=message.limit,
        models=tuple(
            ModelQueue(
                model=ModelName(one.model),
                waiting=one.waiting,
                running=one.running,
                slots=one.slots,
                users=one.users,
                expected_wait_s=one.expected_wait_s if one.HasField("expected_wait_s") else None,
            )
            for one in message.models
        ),
        waiting=tuple(
            Waiting(
                request_id=RequestId(one.request_id),
                user=one.user,
                model=ModelName(one.model),
                priority=known_or(Priority, one.priority, Priority.INTERACTIVE),
                waited_s=one.waited_s,
                standing=of_standing(one.standing),
                late=one.late,
            )
            for one in message.waiting
        ),
        running=tuple(
            Running(
                request_id=RequestId(one.request_id),
                user=one.user,
                model=ModelName(one.model),
                priority=known_or(Priority, one.priority, Priority.INTERACTIVE),
                node_id=NodeId(one.node_id),
                node_name=one.node_name,
                running_s=one.running_s,
            )
            for one in message.running
        ),
    )


def explanation_message(found: Explanation) -> coordinator_pb2.Explanation:
    return coordinator_pb2.Explanation(
        model=found.model,
        strategy=found.strategy,
        priority=found.priority,
        verdict=found.verdict,
        chosen=found.chosen or "",
        model_digest=found.model_digest,
        prompt_tokens=found.prompt_tokens,
        expected_tokens=found.expected_tokens,
        waiting=found.waiting,
        expected_wait_s=found.expected_wait_s,
        ranking=[
            coordinator_pb2.RankedReplica(
                node_id=one.node_id,
                node_name=one.node_name,
                slots=one.slots,
                slots_busy=one.slots_busy,
                cost_s=one.cost_s,
                reason=one.reason,
            )
            for one in found.ranking
        ],
        refused=[
            coordinator_pb2.RefusedNode(node_id=one.node_id, node_name=one.node_name, reason=one.reason)
            for one in found.refused
        ],
    )


def of_explanation(message: coordinator_pb2.Explanation) -> Explanation:
    return Explanation(
        model=ModelName(message.model),
        strategy=known_or(RoutingStrategy, message.strategy, RoutingStrategy.EXPECTED_FINISH),
        priority=known_or(Priority, message.priority, Priority.INTERACTIVE),
        verdict=message.verdict,
        chosen=NodeId(message.chosen) if message.chosen else None,
        model_digest=message.model_digest,
        prompt_tokens=message.prompt_tokens,
        expected_tokens=message.expected_tokens,
        waiting=message.waiting,
        expected_wait_s=message.expected_wait_s if message.HasField("expected_wait_s") else None,
        ranking=tuple(
            RankedReplica(
                node_id=NodeId(one.node_id),
                node_name=one.node_name,
                slots=one.slots,
                slots_busy=one.slots_busy,
                cost_s=one.cost_s if one.HasField("cost_s") else None,
                reason=one.reason,
            )
            for one in message.ranking
        ),
        refused=tuple(
            RefusedNode(node_id=NodeId(one.node_id), node_name=one.node_name, reason=one.reason)
            for one in message.refused
        ),
    )
