"""One transfer as the coordinator runs it: who sends, how far it is, who failed; and the two ends of its stream."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError
from chorus_proto.ids import NodeId
from chorus_proto.transfers import PIECE_BYTES, FetchReport, Transfer, TransferKind, TransferState
from chorus_server.relay import Relay, Throttle

UNVERIFIED_BYTES = 32 * PIECE_BYTES
"""More than a stream can hold on its way: a sender of whose bytes so many come to nothing sends rubbish."""


def new_ticket() -> str:
    return secrets.token_hex(16)


@dataclass(slots=True, eq=False)
class Source:
    """A node that was told to send. `idle_since_s`: the next chunk has been awaited since then, None: one is here."""

    node_id: NodeId
    name: str
    ticket: str
    idle_since_s: float | None
    sent_end: int = 0
    unverified_bytes: int = 0
    given_up: asyncio.Event = field(default_factory=asyncio.Event)


class Job:
    """Only `Transfers` changes it, and the ends of its stream. `pull`: what is pulled; "" for a copy.

    `folder`: what is copied is the archive of a folder.
    """

    def __init__(
        self, transfer: Transfer, clock: Clock, throttle: Throttle, *, pull: str = "", folder: bool = False
    ) -> None:
        self.transfer = transfer
        self.pull = pull
        self.folder = folder
        self.receive_ticket = new_ticket()
        self.relay: Relay[object] = Relay()
        self.source: Source | None = None
        self.last_failed: NodeId | None = None
        self.failures: dict[NodeId, list[str]] = {}
        self.wrong: set[NodeId] = set()
        """Nodes that sent wrong bytes: never asked again."""
        self.contributors: set[NodeId] = set()
        """Nodes whose bytes lie on the receiver's disk, since it last began from nothing."""
        self.verified = 0
        self.receiver_open = False
        self.waiting_since_s = clock.monotonic_s()
        """For the receiver to open its stream, or for somebody to send, or for the node to come back."""
        self.full_since_s: float | None = None
        self.over_at_s: float | None = None
        self.waits_for: Job | None = None
        """Another node downloads the same: this one gets a copy of that afterwards."""
        self._clock = clock
        self._throttle = throttle

    @property
    def is_copy(self) -> bool:
        return not self.pull

    def become_copy(self, *, digest: str, total_bytes: int) -> None:
        """What was to be pulled lies on another node by now."""
        self.pull = ""
        self.change(kind=TransferKind.COPY, source="", digest=digest, total_bytes=total_bytes)

    @property
    def is_over(self) -> bool:
        return self.transfer.state.is_over

    def change(self, **changes: object) -> None:
        self.transfer = replace(self.transfer, **changes)  # pyright: ignore[reportArgumentType]  # named fields, checked by replace

    def told(self, report: FetchReport) -> None:
        """How the receiving node says it goes."""
        if self.is_copy and self.verified == self.transfer.total_bytes:
            # All has come; unpacking a large folder takes longer than a node may be away.
            self.waiting_since_s = self._clock.monotonic_s()
        self.change(
            state=TransferState.RUNNING,
            # Of a copy that runs, the receiver's own stream says more exactly what has come: see `on_verified`.
            done_bytes=self.verified if self.is_copy and not report.state.is_over else report.done_bytes,
            total_bytes=report.total_bytes or self.transfer.total_bytes,
            bytes_per_s=report.bytes_per_s,
            detail=report.detail,
        )
        if report.model is not None:
            self.change(model=report.model)

    def end(self, state: TransferState, *, detail: str = "", error: ClusterError | None = None) -> None:
        """It is over: both ends of the stream end."""
        if self.is_over:
            return
        self.change(state=state, detail=detail, error=error, bytes_per_s=0.0)
        self.over_at_s = self._clock.monotonic_s()
        self.drop_source()
        self.relay.close()

    def drop_source(self) -> None:
        """Whoever sends is told so by the end of its stream, and what of it waits is dropped."""
        source, self.source = self.source, None
        self.full_since_s = None
        if source is not None:
            source.given_up.set()
        self.relay.clear()

    # The sender's end ---------------------------------------------------------------------------------------------

    async def put(self, source: Source, frame: object, *, offset: int, size_bytes: int) -> bool:
        """Pass one chunk on; False when this source is not wanted any more."""
        source.idle_since_s = None
        await self._throttle.take(size_bytes)
        if self.source is not source:
            return False
        self.full_since_s = self._clock.monotonic_s()
        went = await self.relay.put(frame)
        if self.source is not source:
            return False
        self.full_since_s = None
        source.sent_end = offset + size_bytes
        source.unverified_bytes += size_bytes
        source.idle_since_s = self._clock.monotonic_s()
        return went

    # The receiver's end -------------------------------------------------------------------------------------------

    async def frames(self) -> AsyncGenerator[object, None]:
        """What is to be written to the receiver, until the transfer is over or another stream takes its place."""
        relay = self.relay
        while (frame := await relay.take()) is not None:
            yield frame

    def receiver_opened(self, offset: int) -> None:
        """A stream of the receiver is there, the first or one in place of a broken one; it has `offset` bytes."""
        self.drop_source()
        self.relay.close()
        self.relay = Relay()
        self.stands_at(offset)
        # What lies there from an earlier try, nobody knows from whom.
        self.contributors = {NodeId("")} if offset else set()
        self.receiver_open = True
        self.waiting_since_s = self._clock.monotonic_s()

    def stands_at(self, offset: int) -> None:
        """The receiver has so many bytes that are right, as far as it can know."""
        self.verified = offset
        self.change(done_bytes=offset)

    def on_verified(self, offset: int) -> None:
        self.stands_at(offset)
        if self.source is not None:
            self.source.unverified_bytes = 0
            self.contributors.add(self.source.node_id)
