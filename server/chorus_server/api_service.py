"""The edge to HTTP wrappers, consoles and the CLI: many requests of one caller process on one stream, by call id.

It is long because every method of the service is one of its class.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from dataclasses import replace

from grpc import aio

from chorus_proto import coordinator_pb2, coordinator_pb2_grpc
from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.cluster import (
    AskDelta,
    AskFinished,
    CallOutput,
    CallStarted,
    CallWaiting,
    Cluster,
    MemberDelta,
    MemberStarted,
)
from chorus_proto.convert import failure_message
from chorus_proto.convert_backends import backend_message, of_new_backend
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
from chorus_proto.convert_happenings import batch_message
from chorus_proto.convert_keys import key_message, of_new_key
from chorus_proto.convert_queue import explanation_message, queue_message, standing_message
from chorus_proto.convert_state import model_order_message, reassignment_message, state_message, woken_message
from chorus_proto.convert_transfers import transfer_message, transfers_message
from chorus_proto.errors import ClusterError, InternalError, InvalidRequest, SlowConsumer
from chorus_proto.event_log import Position
from chorus_proto.frames import CONTROL_FRAME_BYTES, Outbox, StreamClosed, Window
from chorus_proto.keys import KeyClaim, KeyId
from chorus_server.guard import priority_of, signed

log = logging.getLogger(__name__)

CALLS_LIMIT = 10_000
"""Requests that one caller process may have open."""

CallsContext = aio.ServicerContext[coordinator_pb2.CallerBatch, coordinator_pb2.ReplyBatch]
StateContext = aio.ServicerContext[coordinator_pb2.GetStateRequest, coordinator_pb2.ClusterState]
QueueContext = aio.ServicerContext[coordinator_pb2.GetQueueRequest, coordinator_pb2.QueueState]
ExplainContext = aio.ServicerContext[coordinator_pb2.Submit, coordinator_pb2.Explanation]
ReassignContext = aio.ServicerContext[coordinator_pb2.ReassignRequest, coordinator_pb2.ReassignReply]
LoadContext = aio.ServicerContext[coordinator_pb2.LoadModelRequest, coordinator_pb2.ModelOrder]
UnloadContext = aio.ServicerContext[coordinator_pb2.UnloadModelRequest, coordinator_pb2.ModelOrder]
MetricsContext = aio.ServicerContext[coordinator_pb2.GetMetricsRequest, coordinator_pb2.GetMetricsReply]
DeleteContext = aio.ServicerContext[coordinator_pb2.DeleteModelRequest, coordinator_pb2.ModelOrder]
AliasContext = aio.ServicerContext[coordinator_pb2.AliasModelRequest, coordinator_pb2.AliasModelReply]
WakeContext = aio.ServicerContext[coordinator_pb2.WakeRequest, coordinator_pb2.WakeReply]
PullContext = aio.ServicerContext[coordinator_pb2.PullModelRequest, coordinator_pb2.Transfer]
CopyContext = aio.ServicerContext[coordinator_pb2.CopyModelRequest, coordinator_pb2.Transfer]
ListContext = aio.ServicerContext[coordinator_pb2.ListTransfersRequest, coordinator_pb2.TransferList]
CancelContext = aio.ServicerContext[coordinator_pb2.CancelTransferRequest, coordinator_pb2.Transfer]
CreateKeyContext = aio.ServicerContext[coordinator_pb2.CreateKeyRequest, coordinator_pb2.CreateKeyReply]
ListKeysContext = aio.ServicerContext[coordinator_pb2.ListKeysRequest, coordinator_pb2.ListKeysReply]
RevokeKeyContext = aio.ServicerContext[coordinator_pb2.RevokeKeyRequest, coordinator_pb2.ApiKey]
RegisterContext = aio.ServicerContext[coordinator_pb2.RegisterBackendRequest, coordinator_pb2.Backend]
UnregisterContext = aio.ServicerContext[coordinator_pb2.UnregisterBackendRequest, coordinator_pb2.Backend]
BackendsContext = aio.ServicerContext[coordinator_pb2.ListBackendsRequest, coordinator_pb2.BackendList]
WatchContext = aio.ServicerContext[coordinator_pb2.WatchEventsRequest, coordinator_pb2.EventBatch]
CheckKeyContext = aio.ServicerContext[coordinator_pb2.CheckKeyRequest, coordinator_pb2.ApiKey]
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
        call = of_submit(message)
        user, key_id = signed(call.user, call.key_id)
        call = replace(call, user=user, key_id=key_id, priority=priority_of(call.priority))
        async with aclosing(self._cluster.submit(call)) as events:
            async for event in events:
                if isinstance(event, CallOutput):
                    self.outbox.put_answer(call_id, event.payload, event.tokens)
                    await self._paced(call_id, len(event.payload))
                elif isinstance(event, CallStarted):
                    self._put(coordinator_pb2.ReplyFrame(call_id=call_id, started=started_message(event)))
                elif isinstance(event, CallWaiting):
                    waiting = standing_message(event.standing)
                    self._put(coordinator_pb2.ReplyFrame(call_id=call_id, waiting=waiting))
                else:
                    self._put(
                        coordinator_pb2.ReplyFrame(call_id=call_id, finished=finished_message(event)),
                        payload_bytes=len(event.payload),
                    )

    async def _ask(self, call_id: int, message: coordinator_pb2.Ask) -> None:
        ask = of_ask(message)
        user, key_id = signed(ask.user, ask.key_id)
        ask = replace(ask, user=user, key_id=key_id, priority=priority_of(ask.priority))
        async with aclosing(self._cluster.ask(ask)) as events:
            async for event in events:
                if isinstance(event, MemberDelta):
                    delta = coordinator_pb2.MemberDelta(node_id=event.node_id, text=event.text, member=event.member)
                    frame = coordinator_pb2.ReplyFrame(call_id=call_id, member_delta=delta)
                    self._put(frame, payload_bytes=len(event.text))
                    await self._paced(call_id, len(event.text))
                elif isinstance(event, MemberStarted):
                    started = coordinator_pb2.MemberStarted(
                        node_id=event.node_id, node_name=event.node_name, model=event.model, member=event.member
                    )
                    self._put(coordinator_pb2.ReplyFrame(call_id=call_id, member_started=started))
                elif isinstance(event, AskDelta):
                    more = coordinator_pb2.AskDelta(text=event.text)
                    self._put(
                        coordinator_pb2.ReplyFrame(call_id=call_id, ask_delta=more), payload_bytes=len(event.text)
                    )
                    await self._paced(call_id, len(event.text))
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

    async def GetQueue(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.GetQueueRequest, context: QueueContext
    ) -> coordinator_pb2.QueueState:
        return queue_message(await self._cluster.queue_state())

    async def Explain(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.Submit, context: ExplainContext
    ) -> coordinator_pb2.Explanation:
        try:
            call = of_submit(request)
            user, key_id = signed(call.user, call.key_id)
            return explanation_message(await self._cluster.explain(replace(call, user=user, key_id=key_id)))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def Reassign(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.ReassignRequest, context: ReassignContext
    ) -> coordinator_pb2.ReassignReply:
        try:
            return reassignment_message(await self._cluster.reassign())
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def LoadModel(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.LoadModelRequest, context: LoadContext
    ) -> coordinator_pb2.ModelOrder:
        keep_alive_s = request.keep_alive_s if request.HasField("keep_alive_s") else None
        try:
            order = await self._cluster.load_model(request.model, node=request.node or None, keep_alive_s=keep_alive_s)
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
        return model_order_message(order)

    async def UnloadModel(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.UnloadModelRequest, context: UnloadContext
    ) -> coordinator_pb2.ModelOrder:
        try:
            order = await self._cluster.unload_model(request.model, node=request.node or None)
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
        return model_order_message(order)

    async def DeleteModel(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.DeleteModelRequest, context: DeleteContext
    ) -> coordinator_pb2.ModelOrder:
        try:
            return model_order_message(await self._cluster.delete_model(request.model))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def AliasModel(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.AliasModelRequest, context: AliasContext
    ) -> coordinator_pb2.AliasModelReply:
        try:
            model = await self._cluster.alias_model(request.name, request.model)
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
        return coordinator_pb2.AliasModelReply(model=model)

    async def Wake(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.WakeRequest, context: WakeContext
    ) -> coordinator_pb2.WakeReply:
        try:
            return woken_message(await self._cluster.wake(request.node))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def PullModel(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.PullModelRequest, context: PullContext
    ) -> coordinator_pb2.Transfer:
        try:
            return transfer_message(
                await self._cluster.pull_model(request.source, node=request.node, sha256=request.sha256)
            )
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def CopyModel(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.CopyModelRequest, context: CopyContext
    ) -> coordinator_pb2.Transfer:
        try:
            return transfer_message(await self._cluster.copy_model(request.model, to=request.node))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def ListTransfers(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.ListTransfersRequest, context: ListContext
    ) -> coordinator_pb2.TransferList:
        return transfers_message(await self._cluster.transfers())

    async def CancelTransfer(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.CancelTransferRequest, context: CancelContext
    ) -> coordinator_pb2.Transfer:
        try:
            return transfer_message(await self._cluster.cancel_transfer(request.transfer_id))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def GetMetrics(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.GetMetricsRequest, context: MetricsContext
    ) -> coordinator_pb2.GetMetricsReply:
        return coordinator_pb2.GetMetricsReply(text=await self._cluster.metrics())

    async def CreateKey(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.CreateKeyRequest, context: CreateKeyContext
    ) -> coordinator_pb2.CreateKeyReply:
        try:
            made = await self._cluster.create_key(of_new_key(request))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
        return coordinator_pb2.CreateKeyReply(key=key_message(made.key), text=made.text)

    async def ListKeys(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.ListKeysRequest, context: ListKeysContext
    ) -> coordinator_pb2.ListKeysReply:
        return coordinator_pb2.ListKeysReply(keys=[key_message(key) for key in await self._cluster.list_keys()])

    async def RevokeKey(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.RevokeKeyRequest, context: RevokeKeyContext
    ) -> coordinator_pb2.ApiKey:
        try:
            return key_message(await self._cluster.revoke_key(request.key))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def RegisterBackend(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.RegisterBackendRequest, context: RegisterContext
    ) -> coordinator_pb2.Backend:
        try:
            return backend_message(await self._cluster.register_backend(of_new_backend(request)))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def UnregisterBackend(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.UnregisterBackendRequest, context: UnregisterContext
    ) -> coordinator_pb2.Backend:
        try:
            return backend_message(await self._cluster.unregister_backend(request.name))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def ListBackends(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.ListBackendsRequest, context: BackendsContext
    ) -> coordinator_pb2.BackendList:
        return coordinator_pb2.BackendList(backends=[backend_message(one) for one in await self._cluster.backends()])

    async def CheckKey(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.CheckKeyRequest, context: CheckKeyContext
    ) -> coordinator_pb2.ApiKey:
        try:
            return key_message(await self._cluster.check_key(KeyClaim(KeyId(request.key_id), request.digest)))
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    async def WatchEvents(  # noqa: N802  # the name in the .proto
        self, request: coordinator_pb2.WatchEventsRequest, context: WatchContext
    ) -> AsyncIterator[coordinator_pb2.EventBatch]:
        after = Position(request.epoch, request.after_id) if request.epoch else None
        async with aclosing(self._cluster.watch(after)) as batches:
            async for batch in batches:
                yield batch_message(batch)
