"""A council asked under its name, as if it were a model: one plain answer in the caller's dialect.

What each member says and how it counted stands in an extra field, `x_council`, of the JSON objects that the dialect has
anyway, for those who look: in a stream one object for each member that answers, and all of it in the last one.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from chorus_proto.cluster import (
    Ask,
    AskDelta,
    AskFinished,
    Call,
    CallEvent,
    CallFinished,
    CallOutput,
    CallStarted,
    MemberAnswer,
    MemberStarted,
)
from chorus_proto.dialects.answers import renderer
from chorus_proto.errors import NoAnswer, UnsupportedParameter
from chorus_proto.generation import Delta, Done, Generation
from chorus_proto.values import Dialect, RoutingStrategy, Timings
from chorus_server.council import Council

FIELD = "x_council"
_NAMES_SHOWN = 8

_encode = msgspec.json.Encoder().encode


class CouncilCalls:
    """Answers calls for councils."""

    def __init__(self, council: Council, strategy: RoutingStrategy) -> None:
        self._council = council
        self._strategy = strategy

    async def run(self, call: Call) -> AsyncGenerator[CallEvent, None]:
        """See `Cluster.submit`."""
        generation = Generation.decoded(call.generation)
        if generation.inputs is not None:
            raise UnsupportedParameter("a council makes no embeddings; ask one model", param="model")
        if generation.tools is not None:
            raise UnsupportedParameter("a council calls no tools; ask one model", param="tools")
        if generation.logprobs is not None:
            raise UnsupportedParameter("a council has no log-probabilities; ask one model", param="logprobs")
        answer = _Answer(call, generation)
        async with aclosing(self._council.run(_ask_of(call))) as events:
            async for event in events:
                match event:
                    case MemberStarted():
                        answer.started.append(event)
                        continue
                    case MemberAnswer():
                        payload = answer.member(event)
                    case AskDelta():
                        payload = answer.text(event.text)
                    case AskFinished():
                        if not answer.began:
                            yield self._began(call, answer)
                        yield answer.finished(event)
                        return
                    case _:
                        continue
                if not answer.began:
                    yield self._began(call, answer)
                if payload:
                    yield CallOutput(payload, 0)
        raise NoAnswer("the council ended without an answer")

    def _began(self, call: Call, answer: _Answer) -> CallStarted:
        answer.began = True
        first = answer.started[0]
        names = list(dict.fromkeys(one.node_name for one in answer.started))
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return CallStarted(
            node_id=first.node_id,
            node_name=", ".join(names[:_NAMES_SHOWN]) + more,
            model=call.model,
            attempt=1,
            queued_s=0.0,
            strategy=self._strategy,
        )


def _ask_of(call: Call) -> Ask:
    return Ask(
        request_id=call.request_id,
        generation=call.generation,
        prompt_tokens_estimate=call.prompt_tokens_estimate,
        within_s=call.within_s,
        max_tokens=call.max_tokens,
        user=call.user,
        key_id=call.key_id,
        priority=call.priority,
        council=call.model,
        queue_within_s=call.queue_within_s,
    )


class _Answer:
    """Writes the one answer down."""

    def __init__(self, call: Call, generation: Generation) -> None:
        self.started: list[MemberStarted] = []
        self.began = False
        self._plain = call.dialect is Dialect.TEXT
        self._stream = call.stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._renderer = renderer(
            call.dialect,
            generation,
            stream=call.stream,
            request_id=call.request_id,
            model=call.model,
            created_unix_s=int(time.time()),
        )

    def member(self, answer: MemberAnswer) -> bytes:
        """News for those who look, in an object that is empty for others."""
        if self._plain or not self._stream:
            return b""
        return with_extra(self._renderer.delta(Delta("", 0)), {"member": member_shown(answer)})

    def text(self, piece: bytes) -> bytes:
        text = self._decoder.decode(piece)
        return self._renderer.delta(Delta(text)) if text else b""

    def finished(self, event: AskFinished) -> CallFinished:
        rest = self._decoder.decode(b"", final=True)
        tail = self._renderer.delta(Delta(rest)) if rest else b""
        reason = next((one.finish_reason for one in event.members if one.agrees and one.finish_reason), "stop")
        timings = Timings(duration_s=event.seconds)
        done = self._renderer.done(
            Done(
                finish_reason=reason,
                prompt_tokens=event.usage.prompt_tokens,
                completion_tokens=event.usage.completion_tokens,
                cached_tokens=event.usage.cached_tokens,
            ),
            timings,
        )
        return CallFinished(
            finish_reason=reason,
            usage=event.usage,
            timings=timings,
            payload=tail + (done if self._plain else with_extra(done, council_shown(event))),
        )


def member_shown(member: MemberAnswer) -> dict[str, object]:
    shown: dict[str, object] = {
        "member": member.member,
        "node": member.node_name,
        "model": member.model,
        "text": member.text,
        "seconds": round(member.seconds, 3),
        "tokens": member.usage.completion_tokens,
    }
    if member.weight is not None:
        shown["weight"] = round(member.weight, 4)
    if member.agrees is not None:
        shown["agrees"] = member.agrees
    if member.error is not None:
        shown["error"] = {"code": member.error.code, "message": member.error.message}
        if member.text:
            # A whole answer has a reason for its end; of who was cut off there is what was said so far.
            shown["late"] = "whole" if member.finish_reason else "part"
    return shown


def council_shown(event: AskFinished) -> dict[str, object]:
    shown: dict[str, object] = {
        "strategy": event.strategy,
        "agreement": round(event.agreement, 4),
        "disagreement": round(event.disagreement, 4),
        "seconds": round(event.seconds, 3),
        "spared": event.spared,
        "members": [member_shown(member) for member in event.members],
    }
    return {**shown, "note": event.note} if event.note else shown


def with_extra(payload: bytes, extra: dict[str, object]) -> bytes:
    """`payload` with one more member, `x_council`, in its last JSON object; as it is where there is none."""
    end = payload.rfind(b"}")
    if end < 0:
        return payload
    return b'%b,"%b":%b%b' % (payload[:end], FIELD.encode(), _encode(extra), payload[end:])
