"""A cluster in another process: the `Cluster` protocol over one multiplexed stream to the coordinator's gRPC port.

The stream is dialled when it is first needed and again after it broke. Calls open when it breaks fail; none is repeated
here, because the coordinator may have worked on it.
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
from chorus_proto.channel import DIALER_OPTIONS, ERROR_CODE_KEY, GENERATION_LIMIT_BYTES
from chorus_proto.cluster import (
    Ask,
    AskEvent,
    Call,
    CallEvent,
    MemberAnswer,
)
from chorus_proto.convert import of_failure
from chorus_proto.convert_calls import ask_message, of_ask_frame, of_call_frame, submit_message
from chorus_proto.convert_state import of_reassignment, of_state
from chorus_proto.errors import BodyTooLarge, CoordinatorUnavailable, QueueFull, error_of
from chorus_proto.frames import CONTROL_FRAME_BYTES, Mailbox, Outbox, Receipts, StreamClosed
from chorus_proto.values import ClusterState, Reassignment

log = logging.getLogger(__name__)

WINDOW_BYTES = 256 * 1024

Reply = TypeVar("Reply")
Replies = Mailbox[coordinator_pb2.ReplyFrame]


def _no_answers(_key: int, _payload: bytes, _tokens: int) -> coordinator_pb2.CallerFrame:
    raise AssertionError("a caller sends no answers")


class _Stream:
    """One dialled stream and the calls open on it."""

    def __init__(
        self,
        stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub,
        address: str,
        on_end: Callable[[_Stream], None],
    ) -> None:
        self._address = address
        self.outbox: Outbox[coordinator_pb2.CallerFrame] = Outbox(_no_answers)
        self._call = stub.Calls(self._batches())
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
        reason = f"the coordinator at {self._address} closed the connection"
        try:
            async for batch in self._call:
                for frame in batch.frames:
                    replies = self._replies.get(frame.call_id)
                    if replies is not None:
                        replies.put(frame)
        except aio.AioRpcError as error:
            log.info("the stream to the coordinator broke: %s", error.details())
            reason = f"the coordinator at {self._address} cannot be reached; is it running?"
        finally:
            self.outbox.close()
            for replies in self._replies.values():
                replies.fail(CoordinatorUnavailable(reason, retry_after_s=2))
            self._replies.clear()
            self._on_end(self)

    async def aclose(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._call.cancel()


class GrpcCluster:
    """`Cluster` over the network. Use inside one event loop; `aclose` at the end."""

    def __init__(self, address: str, *, within_s: float) -> None:
        """`address` is HOST:PORT of the coordinator; `within_s` limits its unary answers."""
        self._address = address
        self._within_s = within_s
        self._channel = aio.insecure_channel(address, options=DIALER_OPTIONS)
        self._stub = coordinator_pb2_grpc.CoordinatorServiceStub(self._channel)
        self._stream: _Stream | None = None
        self._call_ids = count(1)

    def _connected(self) -> _Stream:
        if self._stream is None:
            self._stream = _Stream(self._stub, self._address, self._stream_ended)
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
        members: list[MemberAnswer] = []
        frame = coordinator_pb2.CallerFrame(call_id=next(self._call_ids), ask=ask_message(ask, WINDOW_BYTES))
        async with aclosing(self._replies(frame, len(ask.generation))) as replies:
            async for reply in replies:
                event = of_ask_frame(reply, members)
                if isinstance(event, MemberAnswer):
                    members.append(event)
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
                    read_bytes += len(reply.output.payload) + len(reply.member_delta.text)
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

    async def reassign(self) -> Reassignment:
        """See `Cluster.reassign`."""
        request = coordinator_pb2.ReassignRequest()
        return of_reassignment(await self._unary(self._stub.Reassign(request, timeout=self._within_s)))

    async def metrics(self) -> bytes:
        """See `Cluster.metrics`."""
        request = coordinator_pb2.GetMetricsRequest()
        return (await self._unary(self._stub.GetMetrics(request, timeout=self._within_s))).text

    async def _unary(self, answer: Awaitable[Reply]) -> Reply:
        try:
            return await answer
        except aio.AioRpcError as error:
            log.debug("the coordinator at %s: %s", self._address, error.details())
            code = dict(error.trailing_metadata()).get(ERROR_CODE_KEY)
            if code is not None:
                raise error_of(str(code), error.details() or "") from None
            raise CoordinatorUnavailable(
                f"the coordinator at {self._address} cannot be reached; is it running?", retry_after_s=2
            ) from None

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        await self._channel.close()
