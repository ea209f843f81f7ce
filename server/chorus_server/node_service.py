"""The edge to agents: frames of `NodeService.Link` in, calls of the coordinator; its orders out as frames."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

from grpc import aio

from chorus_proto import node_pb2, node_pb2_grpc
from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.clock import Clock
from chorus_proto.convert import of_courtesy, of_failure, of_heartbeat, of_hello, of_replica, welcome_message
from chorus_proto.convert_pc import of_model_files
from chorus_proto.convert_transfers import of_fetch_report
from chorus_proto.errors import ClusterError, DeadlineExceeded, InvalidRequest
from chorus_proto.frames import BATCH_FRAMES
from chorus_server.coordinator import Coordinator
from chorus_server.guard import check_is
from chorus_server.link import AgentLink
from chorus_server.node_record import NodeRecord
from chorus_server.transfer_job import Job, Source
from chorus_server.transfer_streams import from_sender, to_receiver

log = logging.getLogger(__name__)

FRAMES_LIMIT = 4 * BATCH_FRAMES
"""Frames of one batch, which are taken in one go: four times what an agent of ours sends."""

TransferContext = aio.ServicerContext[node_pb2.TransferFrame, node_pb2.TransferFrame]
LinkContext = aio.ServicerContext[node_pb2.AgentBatch, node_pb2.CoordinatorBatch]


class NodeService(node_pb2_grpc.NodeServiceServicer):
    """One `Link` call per agent, for as long as it is connected."""

    def __init__(self, coordinator: Coordinator, clock: Clock, *, hello_within_s: float, window_bytes: int) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._hello_within_s = hello_within_s
        self._window_bytes = window_bytes

    async def Link(  # noqa: N802  # the name in the .proto
        self, request_iterator: AsyncIterator[node_pb2.AgentBatch], context: LinkContext
    ) -> AsyncIterator[node_pb2.CoordinatorBatch]:
        try:
            first, record, link = await self._introduced(request_iterator, context)
        except ClusterError as error:
            log.warning("refused an agent from %s: %s", context.peer(), error.message)
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
        reader: asyncio.Task[None] | None = None
        try:
            welcome = node_pb2.CoordinatorFrame(welcome=welcome_message(self._coordinator.welcome(record)))
            yield node_pb2.CoordinatorBatch(frames=[welcome])
            reader = asyncio.create_task(self._read(request_iterator, first, record, link), name=f"link:{record.name}")
            async for frames in link.outbox.batches():
                yield node_pb2.CoordinatorBatch(frames=frames)
        finally:
            # Covers the Welcome too: an agent that dies before it is written has been registered all the same.
            if reader is not None:
                reader.cancel()
            self._coordinator.link_ended(record, "lost its connection")

    async def Transfer(  # noqa: N802  # the name in the .proto
        self, request_iterator: AsyncIterator[node_pb2.TransferFrame], context: TransferContext
    ) -> AsyncIterator[node_pb2.TransferFrame]:
        try:
            job, source = await self._opened(request_iterator)
        except ClusterError as error:
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
        flow = self._coordinator.transfers_under_way.flow
        if source is not None:
            await from_sender(request_iterator, flow, job, source)
            return
        async with aclosing(to_receiver(request_iterator, flow, job)) as frames:
            async for frame in frames:
                yield frame

    async def _opened(self, frames: AsyncIterator[node_pb2.TransferFrame]) -> tuple[Job, Source | None]:
        """Wait for the ticket. Raises ClusterError."""
        try:
            async with asyncio.timeout(self._hello_within_s):
                first = await anext(aiter(frames))
        except (TimeoutError, StopAsyncIteration):
            raise DeadlineExceeded(f"no ticket within {self._hello_within_s:g} s") from None
        if first.WhichOneof("kind") != "open":
            raise InvalidRequest("the first frame of a transfer must be TransferOpen")
        return self._coordinator.transfers_under_way.flow.opened(first.open.ticket, first.open.offset)

    async def _introduced(
        self, batches: AsyncIterator[node_pb2.AgentBatch], context: LinkContext
    ) -> tuple[list[node_pb2.AgentFrame], NodeRecord, AgentLink]:
        """Wait for Hello and register the agent. Raises ClusterError."""
        try:
            async with asyncio.timeout(self._hello_within_s):
                batch = await anext(aiter(batches))
        except (TimeoutError, StopAsyncIteration):
            # Not the agent's fault for good: it may come again, which InvalidRequest would forbid it.
            raise DeadlineExceeded(f"no Hello within {self._hello_within_s:g} s") from None
        frames = list(batch.frames)
        if not frames or frames[0].WhichOneof("kind") != "hello":
            raise InvalidRequest("the first frame of a link must be Hello")
        hello = of_hello(frames[0].hello)
        check_is(hello.node_id)
        link = AgentLink(hello.node_id, hello.name, self._clock, window_bytes=self._window_bytes)
        record = self._coordinator.joined(hello, _address(context.peer()), link)
        return frames[1:], record, link

    async def _read(
        self,
        batches: AsyncIterator[node_pb2.AgentBatch],
        first: list[node_pb2.AgentFrame],
        record: NodeRecord,
        link: AgentLink,
    ) -> None:
        """Take frames until the stream ends, then close the outbox, which ends the call."""
        try:
            for frame in first:
                self._take(frame, record, link)
            async for batch in batches:
                if len(batch.frames) > FRAMES_LIMIT:
                    raise InvalidRequest(f"a batch holds at most {FRAMES_LIMIT} frames, not {len(batch.frames)}")
                if link.outbox.closed:
                    return
                for frame in batch.frames:
                    self._take(frame, record, link)
        except ClusterError as error:
            log.warning("node %s broke the protocol: %s", record.name, error.message)
        finally:
            link.outbox.close()

    def _take(self, frame: node_pb2.AgentFrame, record: NodeRecord, link: AgentLink) -> None:
        match frame.WhichOneof("kind"):
            case "output":
                link.on_output(frame.output)
            case "finished":
                link.on_finished(frame.finished)
            case "failed":
                link.on_failed(frame.failed.execution_id, of_failure(frame.failed.failure))
            case "heartbeat":
                self._coordinator.heartbeat(record, of_heartbeat(frame.heartbeat))
            case "replica":
                self._coordinator.replica_reported(record, of_replica(frame.replica))
            case "inventory":
                self._coordinator.inventory_reported(record, of_model_files(frame.inventory.models))
            case "fetch":
                self._coordinator.fetch_reported(record, of_fetch_report(frame.fetch))
            case "goodbye":
                goodbye = frame.goodbye
                self._coordinator.said_goodbye(record, goodbye.reason or "left", sleeps=goodbye.sleeps)
            case "courtesy":
                self._coordinator.courtesy_reported(record, of_courtesy(frame.courtesy))
            case "hello":
                raise InvalidRequest("Hello came twice on one link")
            case None:
                # A newer agent's kind of frame: it was told this protocol version and may send extras we can ignore.
                log.debug("node %s sent a frame of an unknown kind", record.name)


def _address(peer: str) -> str:
    """`ipv4:10.0.0.7:53114` as `10.0.0.7:53114`."""
    return peer.partition(":")[2] if peer.startswith(("ipv4:", "ipv6:")) else peer
