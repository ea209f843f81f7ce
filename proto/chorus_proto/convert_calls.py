"""Requests, questions and their answers on the stream of CoordinatorService, to the values of `cluster.py` and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from chorus_proto import common_pb2, coordinator_pb2
from chorus_proto.cluster import (
    Ask,
    AskDelta,
    AskEvent,
    AskFinished,
    Call,
    CallEvent,
    CallFinished,
    CallOutput,
    CallStarted,
    CallWaiting,
    MemberAnswer,
    MemberDelta,
    MemberStarted,
)
from chorus_proto.convert import (
    dialect_number,
    failure_message,
    of_dialect,
    of_failure,
    of_timings,
    of_usage,
    timings_message,
    usage_message,
)
from chorus_proto.convert_pc import known_or
from chorus_proto.convert_queue import of_standing
from chorus_proto.errors import InvalidRequest, Unsupported
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import AggregateStrategy, Priority, RoutingStrategy


def _milliseconds(seconds: float) -> int:
    """As the wire's uint32 holds it; 49 days are as good as for ever."""
    return min(2**32 - 1, round(seconds * 1000))


def submit_message(call: Call, window_bytes: int) -> coordinator_pb2.Submit:
    return coordinator_pb2.Submit(
        request_id=call.request_id,
        model=call.model,
        dialect=dialect_number(call.dialect),
        stream=call.stream,
        generation=call.generation,
        prompt_tokens_estimate=call.prompt_tokens_estimate,
        remaining_ms=_milliseconds(call.within_s),
        queue_ms=None if call.queue_within_s is None else _milliseconds(call.queue_within_s),
        affinity=call.affinity or "",
        node=call.node or "",
        strategy=call.strategy or "",
        max_tokens=call.max_tokens,
        window_bytes=window_bytes,
        user=call.user,
        key_id=call.key_id,
        digest=call.digest,
        priority=call.priority,
        standing_every_ms=None if call.standing_every_s is None else _milliseconds(call.standing_every_s),
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
        user=message.user,
        key_id=message.key_id,
        digest=message.digest if message.HasField("digest") else None,
        priority=known_or(Priority, message.priority, Priority.INTERACTIVE),
        standing_every_s=message.standing_every_ms / 1000 if message.HasField("standing_every_ms") else None,
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
        remaining_ms=_milliseconds(ask.within_s),
        prompt_tokens_estimate=ask.prompt_tokens_estimate,
        max_tokens=ask.max_tokens,
        quorum=ask.quorum or 0,
        window_bytes=window_bytes,
        user=ask.user,
        key_id=ask.key_id,
        priority=ask.priority,
        council=ask.council or "",
        queue_ms=None if ask.queue_within_s is None else _milliseconds(ask.queue_within_s),
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
        user=message.user,
        key_id=message.key_id,
        priority=known_or(Priority, message.priority, Priority.INTERACTIVE),
        council=ModelName(message.council) if message.council else None,
        queue_within_s=message.queue_ms / 1000 if message.HasField("queue_ms") else None,
    )


def started_message(event: CallStarted) -> coordinator_pb2.CallStarted:
    return coordinator_pb2.CallStarted(
        node_id=event.node_id,
        node_name=event.node_name,
        model=event.model,
        attempt=event.attempt,
        queued_s=event.queued_s,
        strategy=event.strategy,
        model_digest=event.model_digest,
        load_s=event.load_s,
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
    if kind == "waiting":
        return CallWaiting(of_standing(frame.waiting))
    if kind == "started":
        started = frame.started
        return CallStarted(
            node_id=NodeId(started.node_id),
            node_name=started.node_name,
            model=ModelName(started.model),
            attempt=started.attempt,
            queued_s=started.queued_s,
            strategy=known_or(RoutingStrategy, started.strategy, RoutingStrategy.EXPECTED_FINISH),
            model_digest=started.model_digest,
            load_s=started.load_s,
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
        member=member.member,
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
        member=message.member,
    )


def ask_finished_message(event: AskFinished) -> coordinator_pb2.AskFinished:
    return coordinator_pb2.AskFinished(
        strategy=event.strategy,
        text=event.text,
        seconds=event.seconds,
        agreement=event.agreement,
        disagreement=event.disagreement,
        usage=usage_message(event.usage),
        spared=event.spared,
        note=event.note,
        verdicts=[
            coordinator_pb2.MemberVerdict(member=member.member, weight=member.weight, agrees=member.agrees)
            for member in event.members
        ],
    )


def _with_verdict(member: MemberAnswer, verdicts: Mapping[int, coordinator_pb2.MemberVerdict]) -> MemberAnswer:
    verdict = verdicts.get(member.member)
    if verdict is None:
        return member
    return replace(
        member,
        weight=verdict.weight if verdict.HasField("weight") else None,
        agrees=verdict.agrees if verdict.HasField("agrees") else None,
    )


def of_ask_frame(frame: coordinator_pb2.ReplyFrame, members: Iterable[MemberAnswer]) -> AskEvent | None:
    """`members` have answered before. None for a kind of frame that a newer coordinator may send."""
    kind = frame.WhichOneof("kind")
    if kind == "member_delta":
        delta = frame.member_delta
        return MemberDelta(NodeId(delta.node_id), delta.text, delta.member)
    if kind == "ask_delta":
        return AskDelta(frame.ask_delta.text)
    if kind == "member_started":
        started = frame.member_started
        return MemberStarted(
            node_id=NodeId(started.node_id),
            node_name=started.node_name,
            model=ModelName(started.model),
            member=started.member,
        )
    if kind == "member_answer":
        return of_member_answer(frame.member_answer)
    if kind == "ask_finished":
        finished = frame.ask_finished
        verdicts = {verdict.member: verdict for verdict in finished.verdicts}
        return AskFinished(
            strategy=known_or(AggregateStrategy, finished.strategy, AggregateStrategy.FIRST),
            text=finished.text,
            members=tuple(_with_verdict(member, verdicts) for member in members),
            seconds=finished.seconds,
            agreement=finished.agreement,
            disagreement=finished.disagreement,
            usage=of_usage(finished.usage),
            spared=finished.spared,
            note=finished.note,
        )
    return None


def reply_frame(call_id: int, payload: bytes, tokens: int) -> coordinator_pb2.ReplyFrame:
    """The frame of answer bytes, as `Outbox` builds it from what queued up."""
    return coordinator_pb2.ReplyFrame(
        call_id=call_id, output=coordinator_pb2.CallOutput(payload=payload, tokens=tokens)
    )


def failed_frame(call_id: int, failure: common_pb2.Failure) -> coordinator_pb2.ReplyFrame:
    return coordinator_pb2.ReplyFrame(call_id=call_id, failed=failure)
