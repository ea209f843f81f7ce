"""The agent's end of the stream: dial, introduce, beat, and hand frames to the agent; again and again after a loss.

The heartbeat is sent from the loop that does the work, so that a blocked loop is seen by the coordinator. The agent
fences itself: without a renewal for the lease it takes nothing new.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc import aio

from chorus_client.membership import Door, Membership, open_door
from chorus_client.orders import ExecuteOrder, FetchOrder, LoadOrder, Orders, SendOrder, UnloadOrder
from chorus_proto import node_pb2, node_pb2_grpc
from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.clock import Clock
from chorus_proto.convert import (
    courtesy_message,
    failure_message,
    heartbeat_message,
    hello_message,
    of_dialect,
    of_welcome,
    replica_message,
    timings_message,
    usage_message,
)
from chorus_proto.convert_pc import model_file_messages
from chorus_proto.convert_transfers import fetch_report_message
from chorus_proto.errors import ClusterError
from chorus_proto.frames import CONTROL_FRAME_BYTES, Outbox, StreamClosed
from chorus_proto.ids import ExecutionId, ModelName, RequestId
from chorus_proto.tls.peer import why_not
from chorus_proto.transfers import FetchReport
from chorus_proto.values import Courtesy, Heartbeat, Hello, ModelFile, ReplicaReport, Timings, Usage, Welcome

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
WINDOW_BYTES = 256 * 1024
"""What a coordinator that names no window means."""
GOODBYE_WITHIN_S = 1.0
ASLEEP_WITHIN_S = 30.0
"""A PC that is still awake so long after it said that it would sleep has changed its mind."""
BEATS_REMEMBERED = 60
WRITE_GAP_S = 0.002
"""Between writes of nothing but later tokens; nobody reads 500 tokens a second."""
PERMANENT = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}
"""Refusals that dialling again cannot mend."""


Batches = AsyncIterator[node_pb2.CoordinatorBatch]


class Refused(Exception):
    """The coordinator will not have this agent; the text says what to do."""


def output_frame(execution_id: int, payload: bytes, tokens: int) -> node_pb2.AgentFrame:
    return node_pb2.AgentFrame(output=node_pb2.Output(execution_id=execution_id, payload=payload, tokens=tokens))


class Uplink:
    """What the agent sends. Every method is a no-op once this link is broken: the next link reports state anew."""

    def __init__(self, hello: Hello) -> None:
        self.outbox: Outbox[node_pb2.AgentFrame] = Outbox(output_frame, gap_s=WRITE_GAP_S)
        self.outbox.put(node_pb2.AgentFrame(hello=hello_message(hello)))

    async def batches(self) -> AsyncIterator[node_pb2.AgentBatch]:
        """What gRPC writes, for as long as the outbox is open."""
        async for frames in self.outbox.batches():
            yield node_pb2.AgentBatch(frames=frames)

    def output(self, execution_id: int, payload: bytes, tokens: int, *, first: bool) -> None:
        """Raises StreamClosed: an answer without a reader must stop."""
        self.outbox.put_answer(execution_id, payload, tokens, urgent=first)

    def finished(self, execution_id: int, reason: str, usage: Usage, timings: Timings, payload: bytes) -> None:
        frame = node_pb2.AgentFrame(
            finished=node_pb2.Finished(
                execution_id=execution_id,
                finish_reason=reason,
                usage=usage_message(usage),
                timings=timings_message(timings),
                payload=payload,
            )
        )
        self._send(frame, execution_id, len(payload))

    def failed(self, execution_id: int, error: ClusterError) -> None:
        failure = node_pb2.ExecutionFailed(execution_id=execution_id, failure=failure_message(error))
        self._send(node_pb2.AgentFrame(failed=failure), execution_id)

    def replica(self, report: ReplicaReport) -> None:
        self._send(node_pb2.AgentFrame(replica=replica_message(report)))

    def inventory(self, models: Iterable[ModelFile]) -> None:
        report = node_pb2.InventoryReport(models=model_file_messages(models))
        self._send(node_pb2.AgentFrame(inventory=report), payload_bytes=report.ByteSize())

    def fetched(self, report: FetchReport) -> None:
        self._send(node_pb2.AgentFrame(fetch=fetch_report_message(report)))

    def courtesy(self, courtesy: Courtesy) -> None:
        self._send(node_pb2.AgentFrame(courtesy=courtesy_message(courtesy)))

    def goodbye(self, reason: str, *, sleeps: bool = False) -> None:
        self._send(node_pb2.AgentFrame(goodbye=node_pb2.AgentGoodbye(reason=reason, sleeps=sleeps)))
        self.outbox.close()

    def heartbeat(self, beat: Heartbeat) -> None:
        self._send(node_pb2.AgentFrame(heartbeat=heartbeat_message(beat)))

    def _send(self, frame: node_pb2.AgentFrame, key: int | None = None, payload_bytes: int = 0) -> None:
        try:
            self.outbox.put(frame, key=key, size_bytes=CONTROL_FRAME_BYTES + payload_bytes)
        except StreamClosed:
            log.debug("a frame was dropped: the link is down")


class CoordinatorLink:
    """Keeps one link to the coordinator alive until told to stop."""

    def __init__(
        self,
        address: str,
        orders: Orders,
        clock: Clock,
        *,
        connect_within_s: float,
        reconnect_max_s: float,
        fence_after_s: float,
        door: Door = open_door,
    ) -> None:
        """`door`: how the coordinator is dialled, asked before each connection."""
        self._door = door
        self._address = address
        self._orders = orders
        self._clock = clock
        self._connect_within_s = connect_within_s
        self._reconnect_max_s = reconnect_max_s
        self._fence_after_s = fence_after_s
        self._uplink: Uplink | None = None
        self._membership: Membership | None = None
        self._unlinked = asyncio.Event()
        self._reopened = asyncio.Event()
        self._awake = asyncio.Event()
        self._awake.set()
        self._renewed_at_s = 0.0
        self._beats_at_s: deque[tuple[int, float]] = deque(maxlen=BEATS_REMEMBERED)
        self._lease_s = 0.0
        self._random = random.Random()

    @property
    def fenced(self) -> bool:
        """True when the lease has run out on this agent's own clock: no work may be started."""
        return self._clock.monotonic_s() - self._renewed_at_s > self._lease_s

    def heard_since(self, monotonic_s: float) -> bool:
        """Whether a heartbeat that was sent since then has been answered."""
        return self._renewed_at_s >= monotonic_s

    def reopen(self, reason: str) -> None:
        """End this link, with all work on it, and dial anew as the same instance. Ends a sleep that was announced."""
        log.info("the link is opened anew: %s", reason)
        self._awake.set()
        self._reopened.set()

    async def leave_for_sleep(self) -> None:
        """Say goodbye because the PC goes to sleep, and do not dial again until `reopen`."""
        self._awake.clear()
        await self.say_goodbye("its PC goes to sleep", sleeps=True)

    async def say_goodbye(self, reason: str, *, sleeps: bool = False) -> None:
        """Tell the coordinator that this agent leaves; it stops routing here at once and ends the stream."""
        if self._uplink is None:
            return
        self._uplink.goodbye(reason, sleeps=sleeps)
        try:
            async with asyncio.timeout(GOODBYE_WITHIN_S):
                await self._unlinked.wait()
        except TimeoutError:
            log.warning("the coordinator did not answer the goodbye")

    async def run(self) -> None:
        """Dial until cancelled. Raises Refused when the coordinator says something that trying again cannot mend."""
        failures = 0
        told = ""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASLEEP_WITHIN_S):
                    await self._awake.wait()
            self._awake.set()
            try:
                await self._one_link()
                failures = 0
                told = ""
            except (aio.AioRpcError, _NoWelcome) as error:
                status, reason = _status_of(error)
                if status in PERMANENT:
                    raise Refused(reason) from None
                if status is grpc.StatusCode.UNAVAILABLE:
                    reason = await self._why_not() or reason
                if reason != told:
                    log.warning("no link to the coordinator at %s: %s; trying on", self._address, reason)
                    told = reason
                failures += 1
            # Full jitter keeps a hundred agents from coming back in the same instant.
            pause_s = min(self._reconnect_max_s, FIRST_PAUSE_S * 2 ** min(failures, 10))
            await asyncio.sleep(self._random.uniform(0.05, pause_s))

    async def _one_link(self) -> None:
        """One connection from dialling to its end. Raises AioRpcError when it could not be made or broke."""
        self._reopened.clear()
        try:
            membership = await self._door()
        except ClusterError as error:
            raise _NoWelcome(error.message) from None
        uplink = Uplink(self._orders.hello())
        tasks: list[asyncio.Task[bool | None]] = []
        self._membership = membership
        async with membership.dial(self._address) as channel:
            call = node_pb2_grpc.NodeServiceStub(channel).Link(uplink.batches(), metadata=membership.metadata)
            batches = aiter(call)
            try:
                welcome, rest = await self._welcomed(batches)
                self._lease_s, self._renewed_at_s = welcome.lease_s, self._clock.monotonic_s()
                self._uplink = uplink
                self._unlinked.clear()
                self._orders.linked(uplink, welcome)
                tasks = [
                    asyncio.create_task(self._read(batches, rest), name="link:read"),
                    asyncio.create_task(self._beat(uplink, welcome.heartbeat_s), name="link:beat"),
                    asyncio.create_task(self._reopened.wait(), name="link:reopened"),
                ]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                if self._uplink is not None:
                    self._uplink = None
                    self._unlinked.set()
                    self._orders.unlinked()
                uplink.outbox.close()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                call.cancel()

    async def _why_not(self) -> str:
        """What gRPC does not tell of a connection that does not come about; empty when TLS has no part in it."""
        ca_pem = None if self._membership is None else self._membership.ca_pem
        return await asyncio.to_thread(lambda: why_not(self._address, ca_pem, within_s=self._connect_within_s))

    async def _welcomed(self, batches: Batches) -> tuple[Welcome, list[node_pb2.CoordinatorFrame]]:
        try:
            async with asyncio.timeout(self._connect_within_s):
                batch = await anext(batches)
        except TimeoutError:
            raise _NoWelcome(f"no answer within {self._connect_within_s:g} s") from None
        except StopAsyncIteration:
            raise _NoWelcome("it closed the stream") from None
        frames = list(batch.frames)
        if not frames or frames[0].WhichOneof("kind") != "welcome":
            raise _NoWelcome("it did not answer as a coordinator")
        return of_welcome(frames[0].welcome), frames[1:]

    async def _read(self, batches: Batches, first: list[node_pb2.CoordinatorFrame]) -> None:
        """Take frames until the coordinator ends the stream."""
        for frame in first:
            self._take(frame)
        async for batch in batches:
            for frame in batch.frames:
                self._take(frame)

    def _take(self, frame: node_pb2.CoordinatorFrame) -> None:
        match frame.WhichOneof("kind"):
            case "execute":
                self._orders.execute(_execute_order(frame.execute))
            case "cancel":
                self._orders.cancel(frame.cancel.execution_id)
            case "credit":
                self._orders.credit(frame.credit.execution_id, frame.credit.bytes)
            case "renewal":
                self._renew(frame.renewal)
            case "load":
                self._orders.load(
                    LoadOrder(
                        model=ModelName(frame.load.model),
                        slots=frame.load.slots,
                        context_tokens=frame.load.context_tokens,
                        keep_alive_s=frame.load.keep_alive_s if frame.load.HasField("keep_alive_s") else None,
                        retry=frame.load.retry,
                    )
                )
            case "unload":
                self._orders.unload(
                    UnloadOrder(model=ModelName(frame.unload.model), drain_s=frame.unload.drain_ms / 1000)
                )
            case "remove":
                self._orders.remove(ModelName(frame.remove.model))
            case "fetch":
                self._orders.fetch(_fetch_order(frame.fetch))
            case "send":
                self._orders.send(_send_order(frame.send))
            case "cancel_fetch":
                self._orders.cancel_fetch(frame.cancel_fetch.transfer_id)
            case "goodbye":
                log.info("the coordinator says goodbye: %s", frame.goodbye.reason)
            case _:
                # A newer coordinator's kind of frame; it knows from Hello that this agent may not understand it.
                log.debug("the coordinator sent a frame of an unknown kind")

    def _renew(self, renewal: node_pb2.LeaseRenewal) -> None:
        """The lease runs from when the answered heartbeat was sent: the coordinator cannot have counted from later."""
        self._lease_s = renewal.lease_ms / 1000
        for sequence, sent_at_s in self._beats_at_s:
            if sequence == renewal.sequence:
                self._renewed_at_s = sent_at_s

    async def _beat(self, uplink: Uplink, every_s: float) -> None:
        sequence = 0
        self._beats_at_s.clear()
        while True:
            sequence += 1
            self._beats_at_s.append((sequence, self._clock.monotonic_s()))
            uplink.heartbeat(await self._orders.beat(sequence))
            await asyncio.sleep(every_s)
            if self._clock.monotonic_s() - self._renewed_at_s > self._fence_after_s:
                raise _NoWelcome(f"no renewal of the lease for {self._fence_after_s:g} s")


class _NoWelcome(Exception):
    """This link cannot be used; another may."""


def _status_of(error: aio.AioRpcError | _NoWelcome) -> tuple[grpc.StatusCode | None, str]:
    """gRPC's status and a reason for people: a refused connection hides behind a long internal text."""
    if isinstance(error, _NoWelcome):
        return None, str(error)
    details = error.details() or error.code().name
    if error.code() is grpc.StatusCode.UNAVAILABLE and ERROR_CODE_KEY not in dict(error.trailing_metadata()):
        return error.code(), "it cannot be reached; is it running there, and is --join right?"
    return error.code(), details


def _execute_order(message: node_pb2.Execute) -> ExecuteOrder:
    return ExecuteOrder(
        execution_id=ExecutionId(message.execution_id),
        request_id=RequestId(message.request_id),
        model=ModelName(message.model),
        dialect=of_dialect(message.dialect),
        stream=message.stream,
        generation=message.generation,
        within_s=message.remaining_ms / 1000,
        created_unix_s=message.created_unix_s,
        window_bytes=message.window_bytes or WINDOW_BYTES,
    )


def _fetch_order(message: node_pb2.FetchModel) -> FetchOrder:
    return FetchOrder(
        transfer_id=message.transfer_id,
        model=ModelName(message.model) if message.model else None,
        digest=message.digest,
        file_bytes=message.file_bytes,
        source=message.source,
        ticket=message.ticket,
        folder=message.folder,
    )


def _send_order(message: node_pb2.SendModel) -> SendOrder:
    return SendOrder(
        transfer_id=message.transfer_id,
        model=ModelName(message.model),
        digest=message.digest,
        offset=message.offset,
        ticket=message.ticket,
    )
