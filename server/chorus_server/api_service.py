"""The edge to HTTP wrappers, consoles and the CLI: many requests of one caller process on one stream, by call id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing

from grpc import aio

from chorus_proto import coordinator_pb2, coordinator_pb2_grpc
from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.cluster import AskFinished, CallOutput, CallStarted, Cluster, MemberDelta, MemberStarted
from chorus_proto.convert import failure_message
from chorus_proto.convert_calls import (
    ask_finished_message,
    failed_frame,
    finished_message,
    member_answer_message,
    of_ask,
    of_submit,
    reply_frame,
    started_message,
)
from chorus_proto.convert_state import reassignment_message, state_message
from chorus_proto.errors import ClusterError, InternalError, InvalidRequest, SlowConsumer
from chorus_proto.frames import CONTROL_FRAME_BYTES, Outbox, StreamClosed, Window

log = logging.getLogger(__name__)

CALLS_LIMIT = 10_000
"""Requests that one caller process may have open."""

CallsContext = aio.ServicerContext[coordinator_pb2.CallerBatch, coordinator_pb2.ReplyBatch]
StateContext = aio.ServicerContext[coordinator_pb2.GetStateRequest, coordinator_pb2.ClusterState]
ReassignContext = aio.ServicerContext[coordinator_pb2.ReassignRequest, coordinator_pb2.ReassignReply]
MetricsContext = aio.ServicerContext[coordinator_pb2.GetMetricsRequest, coordinator_pb2.GetMetricsReply]
AsyncCall = Coroutine[None, None, None]


class _Caller:
    """The calls of one stream. Each is a task; closing the stream cancels them all."""

    def __init__(self, cluster: Cluster, *, slow_caller_s: float) -> None:
        self._slow_caller_s = slow_caller_s
        self.outbox: Outbox[coordinator_pb2.ReplyFrame] = Outbox(reply_frame)
        self._cluster = cluster
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._windows: dict[int, Window] = {}

    async def read(self, batches: AsyncIterator[coordinator_pb2.CallerBatch]) -> None:
        """Take frames until the caller closes its side, then close the outbox, which ends the stream."""
        try:
            async for batch in batches:
                for frame in batch.frames:
                    self._take(frame)
        finally:
            self.outbox.close()

    def _take(self, frame: coordinator_pb2.CallerFrame) -> None:
        call_id = frame.call_id
        match frame.WhichOneof("kind"):
            case "submit":
                self._start(call_id, frame.submit.window_bytes, self._submit(call_id, frame.submit))
            case "ask":
                self._start(call_id, frame.ask.window_bytes, self._ask(call_id, frame.ask))
            case "cancel":
                task = self._tasks.get(call_id)
                if task is not None:
                    task.cancel()
            case "credit":
                window = self._windows.get(call_id)
                if window is not None:
                    window.grant(frame.credit.bytes)
            case None:
                log.debug("a caller sent a frame of an unknown kind")

    def _start(self, call_id: int, window_bytes: int, work: AsyncCall) -> None:
        if call_id in self._tasks or len(self._tasks) >= CALLS_LIMIT:
            work.close()
            self.outbox.put(
                failed_frame(call_id, failure_message(InvalidRequest(f"call id {call_id} cannot be opened now")))
            )
            return
        self._windows[call_id] = Window(window_bytes or 256 * 1024)
        task = asyncio.create_task(self._guarded(call_id, work), name=f"call:{call_id}")
        self._tasks[call_id] = task
        task.add_done_callback(lambda _task: self._forget(call_id, work))

    def _forget(self, call_id: int, work: AsyncCall) -> None:
        work.close()  # a call taken back in the batch that opened it never began
        self._tasks.pop(call_id, None)
        self._windows.pop(call_id, None)

    async def _guarded(self, call_id: int, work: AsyncCall) -> None:
        """Turn an error into the frame that ends the call."""
        try:
            try:
                await work
            except ClusterError as error:
                self.outbox.put(failed_frame(call_id, failure_message(error)), key=call_id)
            except StreamClosed:
                raise
            except Exception:
                # The edge: a bug in one call must end that call and no other.
                log.exception("call %d broke", call_id)
                self.outbox.put(failed_frame(call_id, failure_message(InternalError("internal error"))), key=call_id)
        except StreamClosed:
            log.debug("the caller left before the end of call %d", call_id)

    async def _submit(self, call_id: int, message: coordinator_pb2.Submit) -> None:
        async with aclosing(self._cluster.submit(of_submit(message))) as events:
            async for event in events:
                if isinstance(event, CallOutput):
                    self.outbox.put_answer(call_id, event.payload, event.tokens)
                    await self._paced(call_id, len(event.payload))
                elif isinstance(event, CallStarted):
                    self._put(coordinator_pb2.ReplyFrame(call_id=call_id, started=started_message(event)))
                else:
                    self._put(
                        coordinator_pb2.ReplyFrame(call_id=call_id, finished=finished_message(event)),
                        payload_bytes=len(event.payload),
                    )

    async def _ask(self, call_id: int, message: coordinator_pb2.Ask) -> None:
        async with aclosing(self._cluster.ask(of_ask(message))) as events:
            async for event in events:
                if isinstance(event, MemberDelta):
                    delta = coordinator_pb2.MemberDelta(node_id=event.node_id, text=event.text)
                    frame = coordinator_pb2.ReplyFrame(call_id=call_id, member_delta=delta)
                    self._put(frame, payload_bytes=len(event.text))
                    await self._paced(call_id, len(event.text))
                elif isinstance(event, MemberStarted):
                    started = coordinator_pb2.MemberStarted(
                        node_id=event.node_id, node_name=event.node_name, model=event.model
                    )
                    self._put(coordinator_pb2.ReplyFrame(call_id=call_id, member_started=started))
                elif isinstance(event, AskFinished):
                    finished = ask_finished_message(event)
                    frame = coordinator_pb2.ReplyFrame(call_id=call_id, ask_finished=finished)
                    self._put(frame, payload_bytes=finished.ByteSize())
                else:
                    answer = member_answer_message(event)
                    frame = coordinator_pb2.ReplyFrame(call_id=call_id, member_answer=answer)
                    self._put(frame, payload_bytes=answer.ByteSize())

    def _put(self, frame: coordinator_pb2.ReplyFrame, *, payload_bytes: int = 0) -> None:
        self.outbox.put(frame, key=frame.call_id, size_bytes=CONTROL_FRAME_BYTES + payload_bytes)

    async def _paced(self, call_id: int, sent_bytes: int) -> None:
        window = self._windows[call_id]
        if window.spend(sent_bytes):
            return
        try:
            async with asyncio.timeout(self._slow_caller_s):
                await window.wait()
        except TimeoutError:
            raise SlowConsumer(f"the caller read nothing for {self._slow_caller_s:g} s") from None

    async def end(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ApiService(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """`CoordinatorService` over any `Cluster`."""

    def __init__(self, cluster: Cluster, *, slow_caller_s: float) -> None:
        self._cluster = cluster
        self._slow_caller_s = slow_caller_s

    async def Calls(  # noqa: N802  # the name in the .proto
        self, request_iterator: AsyncIterator[coordinator_pb2.CallerBatch], context: CallsContext
    ) -> AsyncIterator[coordinator_pb2.ReplyBatch]:
        caller = _Caller(self._cluster, slow_caller_s=self._slow_caller_s)
        reader = asyncio.create_task(caller.read(request_iterator), name=f"caller:{context.peer()}")
        try:
            async for frames in caller.outbox.batches():
                yield coordinator_pb2.ReplyBatch(frames=frames)
        finally:
            reader.cancel()
            await caller.end()

    async def GetState(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.GetStateRequest, context: StateContext
    ) -> coordinator_pb2.ClusterState:
        return state_message(await self._cluster.state())

    async def Reassign(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.ReassignRequest, context: ReassignContext
    ) -> coordinator_pb2.ReassignReply:
        try:
            return reassignment_message(await self._cluster.reassign())
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def GetMetrics(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.GetMetricsRequest, context: MetricsContext
    ) -> coordinator_pb2.GetMetricsReply:
        return coordinator_pb2.GetMetricsReply(text=await self._cluster.metrics())
