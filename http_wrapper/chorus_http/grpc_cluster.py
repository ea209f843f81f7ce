"""A cluster in another process: the `Cluster` protocol over one multiplexed stream to the coordinator's gRPC port.

The stream is dialled when it is first needed and again after it broke. Calls open when it breaks fail; none is repeated
here, because the coordinator may have worked on it.

Longer than others, because every verb of `Cluster` is a method of the one class that holds the stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import count
from typing import TypeVar

from grpc import aio

from chorus_proto import coordinator_pb2, coordinator_pb2_grpc
from chorus_proto.backends import Backend, NewBackend
from chorus_proto.channel import ERROR_CODE_KEY, GENERATION_LIMIT_BYTES
from chorus_proto.cluster import (
    Ask,
    AskEvent,
    Call,
    CallEvent,
    MemberAnswer,
)
from chorus_proto.convert import of_failure
from chorus_proto.convert_backends import new_backend_message, of_backend
from chorus_proto.convert_calls import ask_message, of_ask_frame, of_call_frame, submit_message
from chorus_proto.convert_happenings import of_batch
from chorus_proto.convert_keys import new_key_message, of_key
from chorus_proto.convert_queue import of_explanation, of_queue
from chorus_proto.convert_state import of_model_order, of_reassignment, of_state, of_woken
from chorus_proto.convert_transfers import of_transfer, of_transfers
from chorus_proto.errors import BodyTooLarge, ClusterError, CoordinatorUnavailable, QueueFull, error_of
from chorus_proto.event_log import Batch, Position
from chorus_proto.explained import Explanation
from chorus_proto.frames import CONTROL_FRAME_BYTES, Mailbox, Outbox, Receipts, StreamClosed
from chorus_proto.happenings import SIGN_OF_LIFE_S, HubEvent
from chorus_proto.ids import ModelName
from chorus_proto.keys import ApiKey, KeyClaim, MadeKey, NewKey
from chorus_proto.queue_state import QueueState
from chorus_proto.tls.dial import dial
from chorus_proto.transfers import Transfer
from chorus_proto.values import ClusterState, ModelOrder, Reassignment, Woken

log = logging.getLogger(__name__)

WINDOW_BYTES = 256 * 1024
_SIGNS_OF_LIFE = 3
"""That may fail to come before a watched coordinator is taken for gone."""
_BACKEND_WITHIN_S = 60.0
"""A name may be slow to resolve, and a backend may have something to finish."""

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Replies = Mailbox[coordinator_pb2.ReplyFrame]


def _no_key() -> str:
    return ""


def _in_clear() -> bytes | None:
    return None


class _ShowKey(aio.UnaryUnaryClientInterceptor):
    """Adds the key to every call but the stream, whose messages an interceptor would make dear."""

    def __init__(self, key: Callable[[], str]) -> None:
        self._key = key

    async def intercept_unary_unary(
        self,
        continuation: Callable[[aio.ClientCallDetails, Request], Awaitable[aio.UnaryUnaryCall[Request, Reply]]],
        client_call_details: aio.ClientCallDetails,
        request: Request,
    ) -> aio.UnaryUnaryCall[Request, Reply]:
        told = client_call_details
        details = aio.ClientCallDetails(
            told.method, told.timeout, _metadata(self._key()), told.credentials, told.wait_for_ready
        )
        return await continuation(details, request)


def _metadata(key: str) -> aio.Metadata:
    return aio.Metadata(("authorization", f"Bearer {key}")) if key else aio.Metadata()


def _no_answers(_key: int, _payload: bytes, _tokens: int) -> coordinator_pb2.CallerFrame:
    raise AssertionError("a caller sends no answers")


class _Stream:
    """One dialled stream and the calls open on it."""

    def __init__(
        self,
        stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub,
        address: str,
        on_end: Callable[[_Stream], None],
        key: str,
    ) -> None:
        self._address = address
        self.outbox: Outbox[coordinator_pb2.CallerFrame] = Outbox(_no_answers)
        self._call = stub.Calls(self._batches(), metadata=_metadata(key))
        self._on_end = on_end
        self._replies: dict[int, Replies] = {}
        self._reading = asyncio.create_task(self._read(), name="cluster:read")

    def open(self, frame: coordinator_pb2.CallerFrame, payload_bytes: int) -> Replies:
        """Start a call. Raises StreamClosed."""
        self.outbox.put(frame, size_bytes=CONTROL_FRAME_BYTES + payload_bytes)
        replies: Replies = Mailbox()
        self._replies[frame.call_id] = replies
        return replies

    def close_call(self, call_id: int) -> None:
        """Tell the coordinator that nobody wants the rest of this call, if there is a rest."""
        if self._replies.pop(call_id, None) is not None:
            self.send(coordinator_pb2.CallerFrame(call_id=call_id, cancel=coordinator_pb2.CancelCall()))

    def ended(self, call_id: int) -> None:
        self._replies.pop(call_id, None)

    def send(self, frame: coordinator_pb2.CallerFrame) -> None:
        try:
            self.outbox.put(frame)
        except StreamClosed:
            log.debug("a frame was dropped: the coordinator is away")

    async def _batches(self) -> AsyncIterator[coordinator_pb2.CallerBatch]:
        async for frames in self.outbox.batches():
            yield coordinator_pb2.CallerBatch(frames=frames)

    async def _read(self) -> None:
        reason: ClusterError = CoordinatorUnavailable(
            f"the coordinator at {self._address} closed the connection", retry_after_s=2
        )
        try:
            async for batch in self._call:
                for frame in batch.frames:
                    replies = self._replies.get(frame.call_id)
                    if replies is not None:
                        replies.put(frame)
        except aio.AioRpcError as error:
            log.info("the stream to the coordinator broke: %s", error.details())
            reason = _of_rpc_error(error, self._address)
        finally:
            self.outbox.close()
            for replies in self._replies.values():
                replies.fail(reason)
            self._replies.clear()
            self._on_end(self)

    async def aclose(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._call.cancel()


class GrpcCluster:
    """`Cluster` over the network. Use inside one event loop; `aclose` at the end."""

    def __init__(
        self,
        address: str,
        *,
        within_s: float,
        key: Callable[[], str] = _no_key,
        ca_pem: Callable[[], bytes | None] = _in_clear,
    ) -> None:
        """`address` is HOST:PORT of the coordinator; `within_s` limits its unary answers.

        `key` gives the API key to show, or nothing, and `ca_pem` the authority that the coordinator's certificate must
        be of, None when it speaks in clear. Both are asked for each call: a coordinator may come back with another key
        for this PC, or encrypted.
        """
        self._address = address
        self._within_s = within_s
        self._key = key
        self._ca_pem = ca_pem
        self._trusted = ca_pem()
        self._channels = [dial(address, self._trusted, interceptors=(_ShowKey(key),))]
        self._last_stub = coordinator_pb2_grpc.CoordinatorServiceStub(self._channels[0])
        self._stream: _Stream | None = None
        self._call_ids = count(1)

    @property
    def _stub(self) -> coordinator_pb2_grpc.CoordinatorServiceAsyncStub:
        """Of a connection as it is to be now. Those before stay open until `aclose`, as somebody may use them."""
        trusted = self._ca_pem()
        if trusted != self._trusted:
            self._trusted = trusted
            self._channels.append(dial(self._address, trusted, interceptors=(_ShowKey(self._key),)))
            self._last_stub = coordinator_pb2_grpc.CoordinatorServiceStub(self._channels[-1])
        return self._last_stub

    def _connected(self) -> _Stream:
        if self._stream is None:
            self._stream = _Stream(self._stub, self._address, self._stream_ended, self._key())
        return self._stream

    def _stream_ended(self, stream: _Stream) -> None:
        if self._stream is stream:
            self._stream = None

    async def submit(self, call: Call) -> AsyncGenerator[CallEvent, None]:
        """See `Cluster.submit`."""
        frame = coordinator_pb2.CallerFrame(call_id=next(self._call_ids), submit=submit_message(call, WINDOW_BYTES))
        async with aclosing(self._replies(frame, len(call.generation))) as replies:
            async for reply in replies:
                event = of_call_frame(reply)
                if event is not None:
                    yield event

    async def ask(self, ask: Ask) -> AsyncGenerator[AskEvent, None]:
        """See `Cluster.ask`."""
        members: dict[int, MemberAnswer] = {}  # one that comes late answers a second time
        frame = coordinator_pb2.CallerFrame(call_id=next(self._call_ids), ask=ask_message(ask, WINDOW_BYTES))
        async with aclosing(self._replies(frame, len(ask.generation))) as replies:
            async for reply in replies:
                event = of_ask_frame(reply, members.values())
                if isinstance(event, MemberAnswer):
                    members[event.member] = event
                if event is not None:
                    yield event

    async def _replies(
        self, frame: coordinator_pb2.CallerFrame, payload_bytes: int
    ) -> AsyncGenerator[coordinator_pb2.ReplyFrame, None]:
        """Open one call; its frames up to the one that ends it. Closing early cancels it. Raises ClusterError."""
        stream, replies = self._open(frame, payload_bytes)
        receipts = Receipts(WINDOW_BYTES)
        try:
            while True:
                read_bytes = 0
                for reply in await replies.take():
                    if reply.HasField("failed"):
                        stream.ended(frame.call_id)
                        raise of_failure(reply.failed)
                    if reply.HasField("finished") or reply.HasField("ask_finished"):
                        stream.ended(frame.call_id)
                        yield reply
                        return
                    read_bytes += len(reply.output.payload) + len(reply.member_delta.text) + len(reply.ask_delta.text)
                    yield reply
                self._credit(stream, frame.call_id, receipts.read(read_bytes))
        finally:
            stream.close_call(frame.call_id)

    def _open(self, frame: coordinator_pb2.CallerFrame, payload_bytes: int) -> tuple[_Stream, Replies]:
        if payload_bytes > GENERATION_LIMIT_BYTES:
            raise BodyTooLarge(f"the request is over {GENERATION_LIMIT_BYTES // 1024} KiB of text; shorten it")
        stream = self._connected()
        if not stream.outbox.has_room(CONTROL_FRAME_BYTES + payload_bytes):
            raise QueueFull("too many long requests are on their way to the coordinator", retry_after_s=1)
        try:
            return stream, stream.open(frame, payload_bytes)
        except StreamClosed:
            raise CoordinatorUnavailable(
                f"the coordinator at {self._address} cannot be reached", retry_after_s=2
            ) from None

    @staticmethod
    def _credit(stream: _Stream, call_id: int, credit_bytes: int) -> None:
        if credit_bytes:
            credit = coordinator_pb2.CallCredit(bytes=credit_bytes)
            stream.send(coordinator_pb2.CallerFrame(call_id=call_id, credit=credit))

    async def state(self) -> ClusterState:
        """See `Cluster.state`."""
        request = coordinator_pb2.GetStateRequest()
        return of_state(await self._unary(self._stub.GetState(request, timeout=self._within_s)))

    async def queue_state(self) -> QueueState:
        """See `Cluster.queue_state`."""
        request = coordinator_pb2.GetQueueRequest()
        return of_queue(await self._unary(self._stub.GetQueue(request, timeout=self._within_s)))

    async def watch(self, after: Position | None = None) -> AsyncGenerator[Batch[HubEvent]]:
        """See `Cluster.watch`."""
        request = coordinator_pb2.WatchEventsRequest()
        if after is not None:
            request.epoch, request.after_id = after.epoch, after.id
        call = self._stub.WatchEvents(request, metadata=_metadata(self._key()))
        messages = aiter(call)
        try:
            while True:
                async with asyncio.timeout(_SIGNS_OF_LIFE * SIGN_OF_LIFE_S):
                    message = await anext(messages, None)
                if message is None:
                    return
                yield of_batch(message)
        except TimeoutError:
            raise CoordinatorUnavailable(f"the coordinator at {self._address} fell silent", retry_after_s=2) from None
        except aio.AioRpcError as error:
            raise _of_rpc_error(error, self._address) from None
        finally:
            call.cancel()

    async def explain(self, call: Call) -> Explanation:
        """See `Cluster.explain`."""
        if len(call.generation) > GENERATION_LIMIT_BYTES:
            raise BodyTooLarge(f"the request is over {GENERATION_LIMIT_BYTES // 1024} KiB of text; shorten it")
        request = submit_message(call, WINDOW_BYTES)
        return of_explanation(await self._unary(self._stub.Explain(request, timeout=self._within_s)))

    async def reassign(self) -> Reassignment:
        """See `Cluster.reassign`."""
        request = coordinator_pb2.ReassignRequest()
        return of_reassignment(await self._unary(self._stub.Reassign(request, timeout=self._within_s)))

    async def metrics(self) -> bytes:
        """See `Cluster.metrics`."""
        request = coordinator_pb2.GetMetricsRequest()
        return (await self._unary(self._stub.GetMetrics(request, timeout=self._within_s))).text

    async def load_model(self, model: str, *, node: str | None = None, keep_alive_s: float | None = None) -> ModelOrder:
        """See `Cluster.load_model`."""
        request = coordinator_pb2.LoadModelRequest(model=model, node=node or "", keep_alive_s=keep_alive_s)
        return of_model_order(await self._unary(self._stub.LoadModel(request, timeout=self._within_s)))

    async def unload_model(self, model: str, *, node: str | None = None) -> ModelOrder:
        """See `Cluster.unload_model`."""
        request = coordinator_pb2.UnloadModelRequest(model=model, node=node or "")
        return of_model_order(await self._unary(self._stub.UnloadModel(request, timeout=self._within_s)))

    async def delete_model(self, model: str) -> ModelOrder:
        """See `Cluster.delete_model`."""
        request = coordinator_pb2.DeleteModelRequest(model=model)
        return of_model_order(await self._unary(self._stub.DeleteModel(request, timeout=self._within_s)))

    async def alias_model(self, name: str, model: str) -> ModelName:
        """See `Cluster.alias_model`."""
        request = coordinator_pb2.AliasModelRequest(name=name, model=model)
        return ModelName((await self._unary(self._stub.AliasModel(request, timeout=self._within_s))).model)

    async def wake(self, node: str) -> Woken:
        """See `Cluster.wake`."""
        request = coordinator_pb2.WakeRequest(node=node)
        return of_woken(await self._unary(self._stub.Wake(request, timeout=self._within_s)))

    async def pull_model(self, source: str, *, node: str = "", sha256: str = "") -> Transfer:
        """See `Cluster.pull_model`."""
        request = coordinator_pb2.PullModelRequest(source=source, node=node, sha256=sha256)
        return of_transfer(await self._unary(self._stub.PullModel(request, timeout=self._within_s)))

    async def copy_model(self, model: str, *, to: str) -> Transfer:
        """See `Cluster.copy_model`."""
        request = coordinator_pb2.CopyModelRequest(model=model, node=to)
        return of_transfer(await self._unary(self._stub.CopyModel(request, timeout=self._within_s)))

    async def transfers(self) -> tuple[Transfer, ...]:
        """See `Cluster.transfers`."""
        request = coordinator_pb2.ListTransfersRequest()
        return of_transfers(await self._unary(self._stub.ListTransfers(request, timeout=self._within_s)))

    async def cancel_transfer(self, transfer_id: str) -> Transfer:
        """See `Cluster.cancel_transfer`."""
        request = coordinator_pb2.CancelTransferRequest(transfer_id=transfer_id)
        return of_transfer(await self._unary(self._stub.CancelTransfer(request, timeout=self._within_s)))

    async def create_key(self, wish: NewKey) -> MadeKey:
        """See `Cluster.create_key`."""
        made = await self._unary(self._stub.CreateKey(new_key_message(wish), timeout=self._within_s))
        return MadeKey(key=of_key(made.key), text=made.text)

    async def list_keys(self) -> tuple[ApiKey, ...]:
        """See `Cluster.list_keys`."""
        request = coordinator_pb2.ListKeysRequest()
        found = await self._unary(self._stub.ListKeys(request, timeout=self._within_s))
        return tuple(of_key(key) for key in found.keys)

    async def revoke_key(self, key: str) -> ApiKey:
        """See `Cluster.revoke_key`."""
        request = coordinator_pb2.RevokeKeyRequest(key=key)
        return of_key(await self._unary(self._stub.RevokeKey(request, timeout=self._within_s)))

    async def register_backend(self, wish: NewBackend) -> Backend:
        """See `Cluster.register_backend`."""
        request = new_backend_message(wish)
        return of_backend(await self._unary(self._stub.RegisterBackend(request, timeout=_BACKEND_WITHIN_S)))

    async def unregister_backend(self, name: str) -> Backend:
        """See `Cluster.unregister_backend`."""
        request = coordinator_pb2.UnregisterBackendRequest(name=name)
        return of_backend(await self._unary(self._stub.UnregisterBackend(request, timeout=_BACKEND_WITHIN_S)))

    async def backends(self) -> tuple[Backend, ...]:
        """See `Cluster.backends`."""
        request = coordinator_pb2.ListBackendsRequest()
        found = await self._unary(self._stub.ListBackends(request, timeout=self._within_s))
        return tuple(of_backend(backend) for backend in found.backends)

    async def check_key(self, claim: KeyClaim) -> ApiKey:
        """See `Cluster.check_key`."""
        request = coordinator_pb2.CheckKeyRequest(key_id=claim.key_id, digest=claim.digest)
        return of_key(await self._unary(self._stub.CheckKey(request, timeout=self._within_s)))

    async def asked(self, ask: Callable[[aio.Channel], Awaitable[Reply]]) -> Reply:
        """An answer of another of the coordinator's services, with the key and the errors of this one."""
        return await self._unary(ask(self._channels[-1]))

    async def _unary(self, answer: Awaitable[Reply]) -> Reply:
        try:
            return await answer
        except aio.AioRpcError as error:
            log.debug("the coordinator at %s: %s", self._address, error.details())
            raise _of_rpc_error(error, self._address) from None

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        for channel in self._channels:
            await channel.close()


def _of_rpc_error(error: aio.AioRpcError, address: str) -> ClusterError:
    """What the coordinator refused in its own words, or that it cannot be reached."""
    code = dict(error.trailing_metadata()).get(ERROR_CODE_KEY)
    if code is not None:
        return error_of(str(code), error.details() or "")
    return CoordinatorUnavailable(f"the coordinator at {address} cannot be reached; is it running?", retry_after_s=2)
