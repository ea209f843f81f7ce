"""Wire messages of CoordinatorService to the values of `cluster.py` and `values.py`, and back."""

from __future__ import annotations

from chorus_proto import common_pb2, coordinator_pb2
from chorus_proto.cluster import (
    Ask,
    AskFinished,
    Call,
    CallEvent,
    CallFinished,
    CallOutput,
    CallStarted,
    MemberAnswer,
    MemberDelta,
    MemberStarted,
)
from chorus_proto.convert import (
    dialect_number,
    failure_message,
    hardware_message,
    model_file_message,
    of_dialect,
    of_engines,
    of_failure,
    of_hardware,
    of_model_files,
    of_replica,
    of_timings,
    of_usage,
    replica_message,
    timings_message,
    usage_message,
)
from chorus_proto.errors import InvalidRequest, Unsupported
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import (
    AggregateStrategy,
    Assignment,
    ClusterState,
    ModelSummary,
    Node,
    NodeState,
    Reassignment,
    Replica,
    RoutingStrategy,
    Score,
    Tier,
)


def submit_message(call: Call, window_bytes: int) -> coordinator_pb2.Submit:
    return coordinator_pb2.Submit(
        request_id=call.request_id,
        model=call.model,
        dialect=dialect_number(call.dialect),
        stream=call.stream,
        generation=call.generation,
        prompt_tokens_estimate=call.prompt_tokens_estimate,
        remaining_ms=round(call.within_s * 1000),
        queue_ms=None if call.queue_within_s is None else round(call.queue_within_s * 1000),
        affinity=call.affinity or "",
        node=call.node or "",
        strategy=call.strategy or "",
        max_tokens=call.max_tokens,
        window_bytes=window_bytes,
    )


def of_submit(message: coordinator_pb2.Submit) -> Call:
    """Raises Unsupported for a dialect and InvalidRequest for a strategy that this version does not know."""
    dialect = of_dialect(message.dialect)
    if dialect is None:
        raise Unsupported(f"dialect {message.dialect} is unknown to this coordinator; upgrade it")
    return Call(
        request_id=RequestId(message.request_id),
        model=ModelName(message.model),
        dialect=dialect,
        stream=message.stream,
        generation=message.generation,
        prompt_tokens_estimate=message.prompt_tokens_estimate,
        within_s=message.remaining_ms / 1000,
        queue_within_s=message.queue_ms / 1000 if message.HasField("queue_ms") else None,
        affinity=message.affinity or None,
        node=message.node or None,
        strategy=_strategy(message.strategy) if message.strategy else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
    )


def _strategy(name: str) -> RoutingStrategy:
    try:
        return RoutingStrategy(name)
    except ValueError:
        raise InvalidRequest(
            f"strategy {name!r} is unknown; choose one of {', '.join(RoutingStrategy)}", param="strategy"
        ) from None


def ask_message(ask: Ask, window_bytes: int) -> coordinator_pb2.Ask:
    return coordinator_pb2.Ask(
        request_id=ask.request_id,
        generation=ask.generation,
        model=ask.model or "",
        nodes=list(ask.nodes),
        strategy=ask.strategy,
        remaining_ms=round(ask.within_s * 1000),
        prompt_tokens_estimate=ask.prompt_tokens_estimate,
        max_tokens=ask.max_tokens,
        quorum=ask.quorum or 0,
        window_bytes=window_bytes,
    )


def of_ask(message: coordinator_pb2.Ask) -> Ask:
    """Raises InvalidRequest for a strategy that this version does not know."""
    try:
        strategy = AggregateStrategy(message.strategy)
    except ValueError:
        raise InvalidRequest(
            f"strategy {message.strategy!r} is unknown; choose one of {', '.join(AggregateStrategy)}", param="strategy"
        ) from None
    return Ask(
        request_id=RequestId(message.request_id),
        generation=message.generation,
        model=ModelName(message.model) if message.model else None,
        nodes=tuple(message.nodes),
        strategy=strategy,
        within_s=message.remaining_ms / 1000,
        prompt_tokens_estimate=message.prompt_tokens_estimate,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        quorum=message.quorum or None,
    )


def started_message(event: CallStarted) -> coordinator_pb2.CallStarted:
    return coordinator_pb2.CallStarted(
        node_id=event.node_id,
        node_name=event.node_name,
        model=event.model,
        attempt=event.attempt,
        queued_s=event.queued_s,
        strategy=event.strategy,
    )


def finished_message(event: CallFinished) -> coordinator_pb2.CallFinished:
    return coordinator_pb2.CallFinished(
        finish_reason=event.finish_reason,
        usage=usage_message(event.usage),
        timings=timings_message(event.timings),
        payload=event.payload,
    )


def of_call_frame(frame: coordinator_pb2.ReplyFrame) -> CallEvent | None:
    """None for a kind of frame that a newer coordinator may send."""
    kind = frame.WhichOneof("kind")
    if kind == "output":
        return CallOutput(frame.output.payload, frame.output.tokens)
    if kind == "started":
        started = frame.started
        return CallStarted(
            node_id=NodeId(started.node_id),
            node_name=started.node_name,
            model=ModelName(started.model),
            attempt=started.attempt,
            queued_s=started.queued_s,
            strategy=_strategy(started.strategy),
        )
    if kind == "finished":
        return CallFinished(
            finish_reason=frame.finished.finish_reason,
            usage=of_usage(frame.finished.usage),
            timings=of_timings(frame.finished.timings),
            payload=frame.finished.payload,
        )
    return None


def member_answer_message(member: MemberAnswer) -> coordinator_pb2.MemberAnswer:
    return coordinator_pb2.MemberAnswer(
        node_id=member.node_id,
        node_name=member.node_name,
        model=member.model,
        text=member.text,
        seconds=member.seconds,
        usage=usage_message(member.usage),
        tokens_per_s=member.tokens_per_s,
        finish_reason=member.finish_reason,
        failure=None if member.error is None else failure_message(member.error),
    )


def of_member_answer(message: coordinator_pb2.MemberAnswer) -> MemberAnswer:
    return MemberAnswer(
        node_id=NodeId(message.node_id),
        node_name=message.node_name,
        model=ModelName(message.model),
        text=message.text,
        seconds=message.seconds,
        usage=of_usage(message.usage),
        tokens_per_s=message.tokens_per_s if message.HasField("tokens_per_s") else None,
        finish_reason=message.finish_reason,
        error=of_failure(message.failure) if message.HasField("failure") else None,
    )


def ask_finished_message(event: AskFinished) -> coordinator_pb2.AskFinished:
    return coordinator_pb2.AskFinished(
        strategy=event.strategy,
        text=event.text,
        members=[member_answer_message(member) for member in event.members],
        seconds=event.seconds,
        agreement=event.agreement,
    )


def of_ask_frame(frame: coordinator_pb2.ReplyFrame) -> MemberStarted | MemberDelta | MemberAnswer | AskFinished | None:
    """None for a kind of frame that a newer coordinator may send."""
    kind = frame.WhichOneof("kind")
    if kind == "member_delta":
        return MemberDelta(NodeId(frame.member_delta.node_id), frame.member_delta.text)
    if kind == "member_started":
        started = frame.member_started
        return MemberStarted(
            node_id=NodeId(started.node_id), node_name=started.node_name, model=ModelName(started.model)
        )
    if kind == "member_answer":
        return of_member_answer(frame.member_answer)
    if kind == "ask_finished":
        finished = frame.ask_finished
        return AskFinished(
            strategy=AggregateStrategy(finished.strategy),
            text=finished.text,
            members=tuple(of_member_answer(member) for member in finished.members),
            seconds=finished.seconds,
            agreement=finished.agreement,
        )
    return None


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
        replicas=[
            coordinator_pb2.Replica(
                report=replica_message(replica.report),
                slots_busy=replica.slots_busy,
                decode_tokens_per_s=replica.decode_tokens_per_s,
                prefill_tokens_per_s=replica.prefill_tokens_per_s,
            )
            for replica in node.replicas
        ],
        assigned_model=node.assigned_model or "",
        assignment_reason=node.assignment_reason,
        heartbeat_age_s=node.heartbeat_age_s,
        uptime_s=node.uptime_s,
        running=node.running,
        tokens_total=node.tokens_total,
        version=node.version,
        ram_available_bytes=node.ram_available_bytes,
        cpu_percent=node.cpu_percent,
    )


def of_node(message: coordinator_pb2.Node) -> Node:
    score, has = message.score, message.HasField
    return Node(
        node_id=NodeId(message.node_id),
        name=message.name,
        client_id=message.client_id,
        address=message.address,
        state=NodeState(message.state),
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
        replicas=tuple(_of_replica_view(replica) for replica in message.replicas),
        assigned_model=ModelName(message.assigned_model) if message.assigned_model else None,
        assignment_reason=message.assignment_reason,
        heartbeat_age_s=message.heartbeat_age_s,
        uptime_s=message.uptime_s,
        running=message.running,
        tokens_total=message.tokens_total,
        version=message.version,
        ram_available_bytes=message.ram_available_bytes if has("ram_available_bytes") else None,
        cpu_percent=message.cpu_percent if has("cpu_percent") else None,
    )


def _of_replica_view(message: coordinator_pb2.Replica) -> Replica:
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
                tier=Tier(model.tier) if model.tier else None,
                file_bytes=model.file_bytes,
                parameters=model.parameters,
                ready_on=tuple(NodeId(node_id) for node_id in model.ready_on),
                on_disk_at=tuple(NodeId(node_id) for node_id in model.on_disk_at),
                digest=model.digest,
                context_tokens=model.context_tokens,
                embedding=model.embedding,
            )
            for model in message.models
        ),
        waiting=message.waiting,
        running=message.running,
        finished_total=message.finished_total,
        failed_total=message.failed_total,
        cancelled_total=message.cancelled_total,
        routing_strategy=_strategy(message.routing_strategy),
        draining=message.draining,
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


def reply_frame(call_id: int, payload: bytes, tokens: int) -> coordinator_pb2.ReplyFrame:
    """The frame of answer bytes, as `Outbox` builds it from what queued up."""
    return coordinator_pb2.ReplyFrame(
        call_id=call_id, output=coordinator_pb2.CallOutput(payload=payload, tokens=tokens)
    )


def failed_frame(call_id: int, failure: common_pb2.Failure) -> coordinator_pb2.ReplyFrame:
    return coordinator_pb2.ReplyFrame(call_id=call_id, failed=failure)
