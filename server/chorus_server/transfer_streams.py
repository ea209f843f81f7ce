"""The edge of NodeService.Transfer: frames of a sender into a job's relay, and out of it to the receiver."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from chorus_proto import node_pb2
from chorus_proto.convert import of_failure
from chorus_proto.errors import ClusterError, InvalidRequest
from chorus_proto.transfers import CHUNK_BYTES
from chorus_server.copy_flow import CopyFlow
from chorus_server.transfer_job import Job, Source

log = logging.getLogger(__name__)


async def from_sender(frames: AsyncIterator[node_pb2.TransferFrame], flow: CopyFlow, job: Job, source: Source) -> None:
    """Pass chunks on until the transfer is over or somebody else is to send; back-pressure is in `Job.put`."""
    reading = asyncio.create_task(_read_sender(frames, flow, job, source), name=f"send:{source.name}")
    try:
        await source.given_up.wait()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        flow.source_gone(job, source, None)


async def _read_sender(frames: AsyncIterator[node_pb2.TransferFrame], flow: CopyFlow, job: Job, source: Source) -> None:
    error: ClusterError | None = None
    async for frame in frames:
        match frame.WhichOneof("kind"):
            case "chunk":
                size_bytes = len(frame.chunk.content)
                if not 0 < size_bytes <= CHUNK_BYTES:
                    error = InvalidRequest(f"a chunk has 1 to {CHUNK_BYTES} bytes, not {size_bytes}")
                    break
                if not await job.put(source, frame, offset=frame.chunk.offset, size_bytes=size_bytes):
                    break
            case "failed":
                error = of_failure(frame.failed)
                break
            case _:
                log.debug("node %s sent a frame of an unknown kind", source.name)
    flow.source_gone(job, source, error)


async def to_receiver(
    frames: AsyncIterator[node_pb2.TransferFrame], flow: CopyFlow, job: Job
) -> AsyncGenerator[node_pb2.TransferFrame, None]:
    """What the receiver is to get, until the transfer is over; its words are heard meanwhile."""
    relay = job.relay
    reading = asyncio.create_task(_read_receiver(frames, flow, job), name=f"receive:{job.transfer.node_name}")

    def gone(_task: asyncio.Task[None]) -> None:
        """The agent ended its stream, or we do. Told before the relay closes: its sender has not failed."""
        if job.relay is relay:
            flow.receiver_gone(job)
        relay.close()

    reading.add_done_callback(gone)
    try:
        async with aclosing(job.frames()) as chunks:
            async for frame in chunks:
                assert isinstance(frame, node_pb2.TransferFrame), "only senders' frames are put into a relay"
                yield frame
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_receiver(frames: AsyncIterator[node_pb2.TransferFrame], flow: CopyFlow, job: Job) -> None:
    async for frame in frames:
        match frame.WhichOneof("kind"):
            case "verified":
                job.on_verified(frame.verified.offset)
            case "rejected":
                flow.rejected(job, frame.rejected.offset, of_failure(frame.rejected.failure))
            case _:
                log.debug("node %s sent a frame of an unknown kind", job.transfer.node_name)
