"""The agent's end of NodeService.Transfer: a call of its own for each file, on a connection of its own.

Beside the link, so that tokens never wait behind a file in one connection's buffers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from grpc import aio

from chorus_client.membership import Door, open_door
from chorus_proto import node_pb2, node_pb2_grpc
from chorus_proto.convert import failure_message
from chorus_proto.convert_transfers import chunk_frame, of_chunk
from chorus_proto.errors import ClusterError, TransferFailed
from chorus_proto.transfers import Chunk

Call = aio.StreamStreamCall[node_pb2.TransferFrame, node_pb2.TransferFrame]


class TransferCalls:
    """Dials the coordinator at `address` for each transfer. `write_within_s`: longest wait for it to take a message."""

    def __init__(self, address: str, *, write_within_s: float, door: Door = open_door) -> None:
        self._address = address
        self._door = door
        self._write_within_s = write_within_s

    @asynccontextmanager
    async def incoming(self, ticket: str, offset: int) -> AsyncGenerator[IncomingCall]:
        """Receive from `offset` on. Leaving the block ends the call. Raises TransferFailed."""
        async with self._opened(ticket, offset) as call:
            yield IncomingCall(call, self._write_within_s)

    async def send(self, ticket: str, chunks: AsyncIterator[Chunk]) -> None:
        """Send all of `chunks`, as fast as they are taken; their ClusterError is told. Raises TransferFailed."""
        async with self._opened(ticket, 0) as call:
            try:
                async for chunk in chunks:
                    await _write(call, chunk_frame(chunk), self._write_within_s)
            except ClusterError as error:
                failed = node_pb2.TransferFrame(failed=failure_message(error))
                await _write(call, failed, self._write_within_s)
                raise
            await call.done_writing()
            # The coordinator ends the call when it has everything.
            while await _read(call) is not None:
                pass

    @asynccontextmanager
    async def _opened(self, ticket: str, offset: int) -> AsyncGenerator[Call]:
        membership = await self._door()
        async with membership.dial(self._address) as channel:
            call = node_pb2_grpc.NodeServiceStub(channel).Transfer(metadata=membership.metadata)
            try:
                opened = node_pb2.TransferOpen(ticket=ticket, offset=offset)
                await _write(call, node_pb2.TransferFrame(open=opened), self._write_within_s)
                yield call
            finally:
                call.cancel()


class IncomingCall:
    """`Incoming` of copying.py."""

    def __init__(self, call: Call, write_within_s: float) -> None:
        self._call = call
        self._write_within_s = write_within_s

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Until the coordinator ends the call."""
        while (frame := await _read(self._call)) is not None:
            if frame.WhichOneof("kind") == "chunk":
                yield of_chunk(frame.chunk)

    async def verified(self, offset: int) -> None:
        frame = node_pb2.TransferFrame(verified=node_pb2.TransferVerified(offset=offset))
        await _write(self._call, frame, self._write_within_s)

    async def rejected(self, offset: int, error: ClusterError) -> None:
        rejected = node_pb2.TransferRejected(offset=offset, failure=failure_message(error))
        await _write(self._call, node_pb2.TransferFrame(rejected=rejected), self._write_within_s)


async def _write(call: Call, frame: node_pb2.TransferFrame, within_s: float) -> None:
    """Raises TransferFailed."""
    try:
        async with asyncio.timeout(within_s):
            await call.write(frame)
    except TimeoutError:
        raise TransferFailed(f"the coordinator took nothing for {within_s:g} s") from None
    except (aio.AioRpcError, asyncio.InvalidStateError) as error:
        raise _broken(error) from None


async def _read(call: Call) -> node_pb2.TransferFrame | None:
    """None at the end. Raises TransferFailed. How long a sender may pause is the coordinator's to judge."""
    try:
        frame = await call.read()
    except (aio.AioRpcError, asyncio.InvalidStateError) as error:
        raise _broken(error) from None
    return frame if isinstance(frame, node_pb2.TransferFrame) else None


def _broken(error: aio.AioRpcError | asyncio.InvalidStateError) -> TransferFailed:
    words = error.details() if isinstance(error, aio.AioRpcError) else str(error)
    return TransferFailed(f"the transfer broke off: {words or 'the coordinator is away'}")
