"""What happens, for watchers in other processes: every event with a number, the last ones kept for who comes back.

Changes are told as they happen. Readings, progress of transfers and the queue's counts change all the time: they are
looked at by the coordinator's sweep, and only while somebody watches.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from chorus_proto.clock import Clock
from chorus_proto.event_log import Batch, EventLog, Position
from chorus_proto.happenings import (
    SIGN_OF_LIFE_S,
    Happening,
    HubEvent,
    LoadTold,
    NodeNews,
    NodeReading,
    NodeTold,
    QueueTold,
    Readings,
    ReplicaTold,
    RequestEnded,
    RequestStarted,
    TransferTold,
)
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.transfers import Transfer, TransferState
from chorus_proto.values import Heartbeat, Replica, ReplicaReport, ReplicaState
from chorus_server.events import (
    CourtesyChanged,
    Event,
    InventoryChanged,
    LoadDemanded,
    ModelAssigned,
    NodeChanged,
    NodeRegistered,
    ReplicaChanged,
    ReplicaProgressed,
    TransferChanged,
)
from chorus_server.node_record import NodeRecord
from chorus_server.queue import WaitingRoom
from chorus_server.registry import Registry
from chorus_server.settings import CoordinatorSettings
from chorus_server.transfers import Transfers

READ_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRules:
    """See `CoordinatorSettings`."""

    keep_s: float
    keep_events: int


@dataclass(slots=True)
class _Beat:
    """The last two heartbeats of a node, for the rate between them."""

    last: Heartbeat
    tokens_per_s: float | None = None


class Feed:
    """Everything is synchronous but `watch`."""

    def __init__(
        self,
        registry: Registry,
        room: WaitingRoom,
        transfers: Transfers,
        clock: Clock,
        rules: FeedRules,
        *,
        epoch: int,
    ) -> None:
        self._registry = registry
        self._room = room
        self._transfers = transfers
        self._clock = clock
        self._log: EventLog[HubEvent] = EventLog(clock, epoch=epoch, keep_s=rules.keep_s, keep_events=rules.keep_events)
        self._read_at_s: float | None = None
        self._beats: dict[NodeId, _Beat] = {}
        self._queue_changes = 0
        self._progress: dict[tuple[NodeId, ModelName], ReplicaReport] = {}
        self._moved: dict[str, int] = {}

    async def watch(self, after: Position | None = None) -> AsyncGenerator[Batch[HubEvent]]:
        """See `Cluster.watch`."""
        async with aclosing(self._log.follow(after, silence_s=SIGN_OF_LIFE_S)) as batches:
            async for batch in batches:
                yield batch

    def close(self) -> None:
        """End every watch."""
        self._log.close()

    def heard(self, event: Event) -> None:
        """Listens to the coordinator's own events."""
        match event:
            case RequestStarted() | RequestEnded():  # first, because there are a thousand of them to one of the others
                self._add(event)
            case NodeRegistered(node=node):
                self._add(NodeTold(node=node, news=NodeNews.JOINED))
            case NodeChanged(node_id=node_id, state=state, reason=reason):
                if not state.is_here:
                    self._forget(node_id)
                self._add_node(node_id, NodeNews.STATE, reason)
            case CourtesyChanged(node_id=node_id, reason=reason):
                self._add_node(node_id, NodeNews.POLITE, reason)
            case InventoryChanged(node_id=node_id):
                self._add_node(node_id, NodeNews.MODELS, "")
            case ModelAssigned(assignment=assignment):
                if assignment.model != assignment.previous_model:
                    self._add_node(assignment.node_id, NodeNews.ASSIGNED, assignment.reason)
            case ReplicaChanged(node_id=node_id, report=report):
                self._add_replica(node_id, report)
            case ReplicaProgressed(node_id=node_id, model=model):
                self._add_progress(node_id, model)
            case LoadDemanded() as load:
                self._add(
                    LoadTold(
                        node_id=load.node_id,
                        node_name=load.node_name,
                        model=load.model,
                        waiting=load.waiting,
                        reason=load.reason,
                    )
                )
            case TransferChanged(transfer=transfer):
                self._add_transfer(transfer)

    def look(self) -> None:
        """Tell what changes all the time, if somebody watches. Called a few times a second."""
        if not self._log.followers:
            self._read_at_s = None
            return
        if self._room.changes != self._queue_changes:
            self._queue_changes = self._room.changes
            self._add(QueueTold(queue=self._room.queue_counts()))
        for transfer in self._transfers.list():
            if transfer.state is TransferState.RUNNING and self._moved.get(transfer.transfer_id) != transfer.done_bytes:
                self._add_transfer(transfer)
        now_s = self._clock.monotonic_s()
        if self._read_at_s is None or now_s - self._read_at_s >= READ_EVERY_S:
            self._read_at_s = now_s
            self._add(Readings(nodes=tuple(self._reading(record, now_s) for record in self._registry.records())))

    def _add(self, what: Happening) -> None:
        self._log.add(HubEvent(self._log.position.id + 1, self._clock.unix_s(), what))

    def _forget(self, node_id: NodeId) -> None:
        """A node that comes back tells everything anew."""
        self._beats.pop(node_id, None)
        for key in [key for key in self._progress if key[0] == node_id]:
            del self._progress[key]

    def _add_node(self, node_id: NodeId, news: NodeNews, reason: str) -> None:
        record = self._registry.get(node_id)
        if record is not None:
            self._add(NodeTold(node=self._registry.shown(record), news=news, reason=reason))

    def _add_replica(self, node_id: NodeId, report: ReplicaReport) -> None:
        record = self._registry.get(node_id)
        if record is None:
            return
        key = (node_id, report.model)
        if report.state is ReplicaState.GONE:
            self._progress.pop(key, None)
        else:
            self._progress[key] = report
        replica = self._registry.replica_shown(record, report.model) or Replica(report=report)
        self._add(ReplicaTold(node_id=node_id, node_name=record.name, replica=replica))

    def _add_progress(self, node_id: NodeId, model: ModelName) -> None:
        record = self._registry.get(node_id)
        known = None if record is None else record.replicas.get(model)
        if known is not None and known.report != self._progress.get((node_id, model)):
            self._add_replica(node_id, known.report)

    def _add_transfer(self, transfer: Transfer) -> None:
        if transfer.state.is_over:
            self._moved.pop(transfer.transfer_id, None)
        else:
            self._moved[transfer.transfer_id] = transfer.done_bytes
        self._add(TransferTold(transfer=transfer))

    def _reading(self, record: NodeRecord, now_s: float) -> NodeReading:
        beat = record.beat
        ready = [one for one in record.replicas.values() if one.report.state is ReplicaState.READY]
        return NodeReading(
            node_id=record.node_id,
            node_name=record.name,
            state=record.state,
            running=0 if record.link is None else record.link.running,
            slots=sum(max(1, one.report.slots) for one in ready),
            slots_busy=sum(one.slots_busy for one in record.replicas.values()),
            cpu_percent=None if beat is None else beat.cpu_percent,
            ram_available_bytes=None if beat is None else beat.ram_available_bytes,
            gpu_free_bytes=() if beat is None else beat.gpu_free_bytes,
            tokens_total=0 if beat is None else beat.tokens_total,
            tokens_per_s=None if beat is None else self._tokens_per_s(record.node_id, beat),
            heartbeat_age_s=now_s - record.beat_at_s,
        )

    def _tokens_per_s(self, node_id: NodeId, beat: Heartbeat) -> float | None:
        """By the node's own clock; None until it has told twice."""
        known = self._beats.get(node_id)
        if known is None or beat.uptime_s < known.last.uptime_s:
            known = self._beats[node_id] = _Beat(beat)
        elif beat.uptime_s > known.last.uptime_s:
            tokens = beat.tokens_total - known.last.tokens_total
            known.tokens_per_s = max(0, tokens) / (beat.uptime_s - known.last.uptime_s)
            known.last = beat
        return known.tokens_per_s


def feed_rules(settings: CoordinatorSettings) -> FeedRules:
    return FeedRules(keep_s=settings.events_kept_s, keep_events=settings.events_kept)
