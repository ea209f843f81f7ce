"""One task, run to its end: the text, where it ran, and how long each stage took."""

from __future__ import annotations

import asyncio
import codecs
from contextlib import aclosing

import msgspec

from chorus_http.replies import encoded
from chorus_http.routed import standing_comment
from chorus_http.sse import GRACE_S, named_event
from chorus_proto.cluster import Call, CallEvent, CallFinished, CallOutput, CallStarted, CallWaiting, Cluster
from chorus_proto.errors import DeadlineExceeded, InternalError
from chorus_proto.queue_state import Standing
from chorus_proto.values import RoutingStrategy


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One of `queue`, `load` (only what this task waited for it), `prefill` (to the first token) and `decode`."""

    name: str
    seconds: float


class TaskUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to POST /v1/execute. `response` and `text` repeat `result` for callers of the first versions."""

    id: str
    object: str
    status: str
    model: str
    result: str
    response: str
    text: str
    finish_reason: str
    usage: TaskUsage
    node_id: str
    node: str
    attempt: int
    strategy: RoutingStrategy
    stages: tuple[Stage, ...]
    seconds: float
    tokens_per_s: float | None = None


class TaskRun:
    """What comes of one call, and its server-sent events: started, delta …, finished."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._texts: list[str] = []
        self._started: CallStarted | None = None
        self._finished: CallFinished | None = None
        self._standing: Standing | None = None

    def silence(self) -> bytes | None:
        """What a stream sends while the task waits."""
        return None if self._standing is None else standing_comment(self._standing)

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._texts)

    def render(self, event: CallEvent) -> bytes:
        return b"".join(named_event(name, encoded(body)) for name, body in self.told(event))

    def told(self, event: CallEvent) -> list[tuple[str, object]]:
        """Names and bodies of the events that this one makes."""
        match event:
            case CallWaiting(standing=standing):
                self._standing = standing
                return []
            case CallStarted():
                self._started = event
                self._standing = None
                told = {"id": self._call.request_id, "model": event.model, "node": event.node_name}
                told |= {"node_id": event.node_id, "attempt": event.attempt, "queue_s": event.queued_s}
                return [("started", told)]
            case CallOutput():
                return self._delta(self._decoder.decode(event.payload))
            case CallFinished():
                self._finished = event
                rest = self._delta(self._decoder.decode(event.payload, final=True))
                return [*rest, ("finished", self.result())]

    def _delta(self, text: str) -> list[tuple[str, object]]:
        if not text:
            return []
        self._texts.append(text)
        return [("delta", {"text": text})]

    def result(self) -> TaskResult:
        """Raises InternalError before the end."""
        started, finished = self._started, self._finished
        if started is None or finished is None:
            raise InternalError("The answer ended without its closing event.")
        text, usage, timings = "".join(self._texts), finished.usage, finished.timings
        decode_s = max(0.0, timings.duration_s - timings.ttft_s)
        stages = (
            ("queue", started.queued_s - started.load_s),
            ("load", started.load_s),
            ("prefill", timings.ttft_s),
            ("decode", decode_s),
        )
        return TaskResult(
            id=self._call.request_id,
            object="execution",
            status="completed",
            model=started.model,
            result=text,
            response=text,
            text=text,
            finish_reason=finished.finish_reason,
            usage=TaskUsage(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                total_tokens=usage.prompt_tokens + usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
            ),
            node_id=started.node_id,
            node=started.node_name,
            attempt=started.attempt,
            strategy=started.strategy,
            stages=tuple(Stage(name=name, seconds=seconds) for name, seconds in stages),
            seconds=started.queued_s + timings.duration_s,
            tokens_per_s=timings.decode_tokens_per_s,
        )


async def finished_task(cluster: Cluster, call: Call) -> TaskResult:
    """Raises the ClusterError of a failure."""
    run = TaskRun(call)
    try:
        async with asyncio.timeout(call.within_s + GRACE_S), aclosing(cluster.submit(call)) as events:
            async for event in events:
                run.render(event)
    except TimeoutError:
        raise DeadlineExceeded("The task's time is up.", param="timeout_s") from None
    return run.result()
