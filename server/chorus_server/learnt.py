"""What the coordinator has learnt of its nodes and keeps over restarts: who held which model, how fast, how large."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError
from chorus_proto.ids import InstanceId, ModelName, NodeId
from chorus_proto.values import Footprint, Hello, ReplicaReport, ReplicaState
from chorus_server.node_record import NodeRecord
from chorus_server.rates import Rates
from chorus_server.store import Measurement, SavedNode, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asleep:
    """A node that an earlier run knew and that may be woken. `unseen_s`: since it was last here."""

    hello: Hello
    address: str
    unseen_s: float


class Learnt:
    """Notes what changed and writes it down when told to; fills in a node's record when it comes back."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._assigned: dict[NodeId, ModelName] = {}
        self._measurements: dict[NodeId, list[Measurement]] = {}
        self._measured: set[tuple[NodeId, ModelName]] = set()
        self._unsaved: set[NodeId] = set()
        self._saved: list[SavedNode] = []

    async def remember(self) -> None:
        """Take back what earlier runs learnt."""
        self._assigned = await self._store.assignments()
        self._measurements = {}
        self._saved = await self._store.nodes()
        newest_first = sorted(await self._store.measurements(), key=lambda one: -one.updated_unix_s)
        for one in newest_first:
            self._measurements.setdefault(one.node_id, []).append(one)

    def asleep(self, within_s: float) -> list[Asleep]:
        """The nodes of earlier runs that could be woken and were here within this time; see `remember`."""
        now_unix_s = self._clock.unix_s()
        return [
            Asleep(hello=_hello_of(one), address=one.address, unseen_s=now_unix_s - one.last_seen_unix_s)
            for one in self._saved
            if one.mac_addresses and not one.stopped and 0 <= now_unix_s - one.last_seen_unix_s < within_s
        ]

    def changed(self, record: NodeRecord) -> None:
        """What it is or has is to be saved anew."""
        self._unsaved.add(record.node_id)

    def joined(self, record: NodeRecord) -> None:
        """A node is here, anew or again: give it what is known of it and nothing of what it told itself since."""
        self._unsaved.add(record.node_id)
        if record.assigned is None:
            record.assigned = self._assigned.get(record.node_id)
        for one in self._measurements.get(record.node_id, ()):
            if one.model not in record.rates:
                record.rates[one.model] = Rates(
                    one.decode_tokens_per_s,
                    one.prefill_tokens_per_s,
                    one.samples,
                    stream_share=record.stream_share,
                )
            if one.model not in record.footprints:
                record.footprints[one.model] = _footprint_of(one)
        for replica in record.replicas.values():
            self.saw(record, replica.report)

    def saw(self, record: NodeRecord, report: ReplicaReport) -> None:
        """A replica's report: a ready one says what its load took."""
        if report.state is not ReplicaState.READY or report.engine is None:
            return
        found = Footprint(
            model=report.model,
            engine=report.engine,
            context_tokens=report.context_tokens,
            slots=report.slots,
            predicted_bytes=report.predicted_bytes,
            expected_bytes=report.expected_bytes,
            resident_bytes=report.resident_bytes,
            load_s=report.load_s,
            arithmetic=report.arithmetic,
        )
        if record.footprints.get(report.model) != found:
            record.footprints[report.model] = found
            self._measured.add((record.node_id, report.model))

    async def save(self, records: Iterable[NodeRecord]) -> None:
        """Write down what changed since the last time. A full disk is only logged."""
        for record in records:
            try:
                await self._save_node(record)
            except ClusterError as error:
                log.error("the state of node %s could not be saved, later again: %s", record.name, error.message)

    async def _save_node(self, record: NodeRecord) -> None:
        if record.node_id in self._unsaved:
            await self._store.save_node(
                node_id=record.node_id,
                name=record.name,
                client_id=record.client_id,
                hardware=record.hello.hardware,
                score=record.score.score,
                seen_unix_s=self._clock.unix_s(),
                address=record.address,
                mac_addresses=record.hello.mac_addresses,
                models=tuple(record.models.values()),
                stopped=record.stopped,
            )
            self._unsaved.discard(record.node_id)
        if self._assigned.get(record.node_id) != record.assigned:
            await self._store.save_assignment(record.node_id, record.assigned, record.assignment_reason)
            if record.assigned is None:
                self._assigned.pop(record.node_id, None)
            else:
                self._assigned[record.node_id] = record.assigned
        for model, found in list(record.footprints.items()):
            rates = record.rates.get(model, Rates())
            if not rates.changed and (record.node_id, model) not in self._measured:
                continue
            await self._store.save_measurement(
                Measurement(
                    node_id=record.node_id,
                    model=model,
                    engine=found.engine,
                    decode_tokens_per_s=rates.decode_tokens_per_s,
                    prefill_tokens_per_s=rates.prefill_tokens_per_s,
                    resident_bytes=found.resident_bytes,
                    predicted_bytes=found.predicted_bytes,
                    load_s=found.load_s,
                    samples=rates.samples,
                    updated_unix_s=self._clock.unix_s(),
                    context_tokens=found.context_tokens,
                    slots=found.slots,
                    expected_bytes=found.expected_bytes,
                    arithmetic=found.arithmetic,
                )
            )
            rates.changed = False
            self._measured.discard((record.node_id, model))


def _hello_of(saved: SavedNode) -> Hello:
    """As if it had introduced itself: all that is known of a node that sleeps since before this run."""
    return Hello(
        node_id=saved.node_id,
        instance_id=InstanceId(""),
        name=saved.name,
        version="",
        protocol_min=0,
        protocol_max=0,
        hardware=saved.hardware,
        models=saved.models,
        mac_addresses=saved.mac_addresses,
    )


def _footprint_of(one: Measurement) -> Footprint:
    return Footprint(
        model=one.model,
        engine=one.engine,
        context_tokens=one.context_tokens,
        slots=one.slots,
        predicted_bytes=one.predicted_bytes,
        expected_bytes=one.expected_bytes,
        resident_bytes=one.resident_bytes,
        load_s=one.load_s,
        arithmetic=one.arithmetic,
    )
