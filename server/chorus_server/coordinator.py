"""The verbs of the coordinator: what agents report and what callers ask, tied to the parts that do it.

It implements the `Cluster` protocol itself; edges only translate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from chorus_proto import PROTOCOL_MAX, __version__
from chorus_proto.catalogue import shape_of, tier_of
from chorus_proto.clock import Clock
from chorus_proto.cluster import Ask, AskEvent, Call, CallEvent
from chorus_proto.errors import ClusterError, Draining, ErrorCode
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import (
    Assignment,
    ClusterState,
    Heartbeat,
    Hello,
    ModelFile,
    ModelSummary,
    Reassignment,
    ReplicaReport,
    ReplicaState,
    Welcome,
)
from chorus_server.council import Council
from chorus_server.dispatch import Dispatcher
from chorus_server.events import Events, ModelAssigned, NodeChanged, NodeRegistered, ReplicaChanged
from chorus_server.link import AgentLink
from chorus_server.metrics import Counters, StateCollector, exposition
from chorus_server.placement import PlacementNode, PlacementRules, assign
from chorus_server.queue import WaitingRoom
from chorus_server.reconcile import Reconciler
from chorus_server.registry import NodeRecord, Rates, Registry, Transition, check_inventory
from chorus_server.routing import Router
from chorus_server.settings import CoordinatorSettings
from chorus_server.store import Measurement, Store

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 0.25
SAVE_EVERY_S = 5.0
DRAIN_POLL_S = 0.05
TOO_BIG_FOR_S = 600.0
"""A model that did not fit a node is left out of its placement for this long; POST /reassign ends it at once."""


class Coordinator:
    """One running coordinator. `run` is its only task; everything else happens in its callers' tasks."""

    def __init__(self, settings: CoordinatorSettings, store: Store, clock: Clock) -> None:
        self.events = Events()
        self._settings = settings
        self._store = store
        self._clock = clock
        self._began_s = clock.monotonic_s()
        self._counters = Counters()
        self._registry = Registry(
            clock,
            suspect_after_s=settings.suspect_after_s,
            dead_after_s=settings.dead_after_s,
            forget_after_s=settings.forget_after_s,
        )
        self._room = WaitingRoom(self._registry, Router(), clock, limit=settings.queue_limit)
        self._dispatcher = Dispatcher(
            self._registry,
            self._room,
            self._counters,
            clock,
            strategy=settings.routing_strategy,
            queue_within_s=settings.queue_within_s,
            retry_within_s=settings.retry_within_s,
            attempts=settings.attempts,
        )
        self._council = Council(self._registry, self._room, self._dispatcher, clock)
        self._reconciler = Reconciler(
            self._registry,
            clock,
            slots=settings.slots,
            context_tokens=settings.context_tokens,
            unload_within_s=settings.unload_within_s,
        )
        self._remembered: dict[NodeId, ModelName] = {}
        self._learnt: dict[tuple[NodeId, ModelName], Measurement] = {}
        self._too_big: dict[tuple[NodeId, ModelName], float] = {}
        self._measured: set[tuple[NodeId, ModelName]] = set()
        self._unsaved: set[NodeId] = set()
        self._draining = False
        self._reconcile_is_due = False
        self._counters.registry.register(StateCollector(self._state))

    # What agents say ----------------------------------------------------------------------------------------------

    def joined(self, hello: Hello, address: str, link: AgentLink) -> NodeRecord:
        """Register an agent and assign it a model. Raises what `Registry.admit` raises, and Draining."""
        if self._draining:
            raise Draining("the coordinator is shutting down", retry_after_s=5)
        record = self._registry.admit(hello, address, link)
        if record.assigned is None:
            record.assigned = self._remembered.get(record.node_id)
        for (node_id, model), one in self._learnt.items():
            if node_id == record.node_id and model not in record.rates:
                record.rates[model] = Rates(one.decode_tokens_per_s, one.prefill_tokens_per_s, one.samples)
        self._unsaved.add(record.node_id)
        self._reconciler.link_is_new(record)
        self._place([record])
        total = len(self._registry.present())
        self.events.tell(NodeRegistered(node=self._registry.shown(record), total_nodes=total))
        self._reconcile()
        return record

    def welcome(self, record: NodeRecord) -> Welcome:
        return Welcome(
            protocol=min(PROTOCOL_MAX, record.hello.protocol_max),
            epoch=self._store.epoch,
            lease_s=self._settings.dead_after_s,
            heartbeat_s=self._settings.heartbeat_s,
            version=__version__,
            assigned_model=record.assigned,
            assignment_reason=record.assignment_reason,
        )

    def heartbeat(self, record: NodeRecord, beat: Heartbeat) -> None:
        self._tell(self._registry.renew(record, beat))
        if record.link is not None:
            record.link.renew(beat.sequence, self._settings.dead_after_s)

    def replica_reported(self, record: NodeRecord, report: ReplicaReport) -> None:
        if report.model not in record.models and report.model not in record.replicas:
            log.warning("node %s reports the model %s, which it never announced", record.name, report.model)
            return
        before = record.replicas.get(report.model)
        known = before is not None and before.report.state is report.state
        self._registry.report(record, report)
        if report.state is ReplicaState.READY:
            self._measured.add((record.node_id, report.model))
        if report.state is ReplicaState.FAILED and not known:
            if report.failure_code == ErrorCode.INSUFFICIENT_MEMORY:
                self._too_big[record.node_id, report.model] = self._clock.monotonic_s() + TOO_BIG_FOR_S
                log.warning(
                    "node %s has no memory for %s now: %s",
                    record.name,
                    report.model,
                    report.detail,
                )
                self._place([record])
            delay_s = self._reconciler.load_failed(record, report.model)
            log.warning("node %s: %s failed: %s; next try in %.0f s", record.name, report.model, report.detail, delay_s)
        if not known:
            self.events.tell(ReplicaChanged(node_id=record.node_id, node_name=record.name, report=report))
        self._reconcile()

    def inventory_reported(self, record: NodeRecord, models: Iterable[ModelFile]) -> None:
        announced = list(models)
        check_inventory(announced)
        self._registry.inventory(record, announced)
        self._place([record])
        self._reconcile()

    def said_goodbye(self, record: NodeRecord, reason: str) -> None:
        self._tell(self._registry.left(record, reason))

    def link_ended(self, record: NodeRecord, reason: str) -> None:
        self._tell(self._registry.lost_link(record, reason))

    def _tell(self, transition: Transition | None) -> None:
        if transition is None:
            return
        record = transition.record
        log.info("node %s is %s: %s", record.name, record.state, transition.reason)
        self.events.tell(
            NodeChanged(node_id=record.node_id, name=record.name, state=record.state, reason=transition.reason)
        )
        self._reconcile()

    def _reconcile(self) -> None:
        """Soon, and once for all that changes until then: a step looks at every node."""
        if not self._reconcile_is_due:
            self._reconcile_is_due = True
            asyncio.get_running_loop().call_soon(self._reconcile_now)

    def _reconcile_now(self) -> None:
        self._reconcile_is_due = False
        self._reconciler.step()
        self._room.slots_changed()

    # Placement ----------------------------------------------------------------------------------------------------

    def _place(self, records: list[NodeRecord]) -> list[Assignment]:
        """Decide anew what these nodes hold, and remember it."""
        rules = PlacementRules(
            strategy=self._settings.placement_strategy,
            large_from=self._settings.large_score,
            medium_from=self._settings.medium_score,
            context_tokens=self._settings.context_tokens,
            slots=self._settings.slots,
        )
        assignments = assign([self._placement_node(record) for record in records], rules)
        for record, assignment in zip(records, assignments, strict=True):
            record.assigned, record.assignment_reason = assignment.model, assignment.reason
            self.events.tell(ModelAssigned(assignment=assignment))
        return assignments

    def _placement_node(self, record: NodeRecord) -> PlacementNode:
        return PlacementNode(
            node_id=record.node_id,
            name=record.name,
            score=record.score.score,
            hardware=record.hello.hardware,
            models=tuple(file for file in record.models.values() if (record.node_id, file.name) not in self._too_big),
            current_model=record.assigned,
        )

    # What callers ask: the Cluster protocol -----------------------------------------------------------------------

    async def submit(self, call: Call) -> AsyncGenerator[CallEvent, None]:
        """See `Cluster.submit`."""
        self._refuse_when_draining()
        async with aclosing(self._dispatcher.run(call)) as events:
            async for event in events:
                yield event

    async def ask(self, ask: Ask) -> AsyncGenerator[AskEvent, None]:
        """See `Cluster.ask`."""
        self._refuse_when_draining()
        async with aclosing(self._council.run(ask)) as events:
            async for event in events:
                yield event

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise Draining("the coordinator is shutting down", retry_after_s=5)

    async def state(self) -> ClusterState:
        """See `Cluster.state`."""
        return self._state()

    async def reassign(self) -> Reassignment:
        """See `Cluster.reassign`."""
        self._refuse_when_draining()
        records = [record for record in self._registry.present() if record.link is not None]
        self._too_big.clear()
        assignments = self._place(records)
        self._reconcile()
        return Reassignment(assignments=tuple(assignments))

    async def metrics(self) -> bytes:
        """See `Cluster.metrics`."""
        return exposition(self._counters)

    def _state(self) -> ClusterState:
        records = self._registry.records()
        return ClusterState(
            version=__version__,
            epoch=self._store.epoch,
            uptime_s=self._clock.monotonic_s() - self._began_s,
            nodes=tuple(self._registry.shown(record) for record in records),
            models=tuple(self._models_shown()),
            waiting=self._room.waiting,
            running=sum(record.link.running for record in records if record.link is not None),
            finished_total=self._counters.finished_total,
            failed_total=self._counters.failed_total,
            cancelled_total=self._counters.cancelled_total,
            routing_strategy=self._settings.routing_strategy,
            draining=self._draining,
        )

    def _models_shown(self) -> Iterable[ModelSummary]:
        present = self._registry.present()
        files = {file.name: file for record in present for file in record.models.values()}
        for name, file in sorted(files.items()):
            ready = [
                record
                for record in present
                if name in record.replicas and record.replicas[name].report.state is ReplicaState.READY
            ]
            shape = shape_of(file)
            yield ModelSummary(
                name=name,
                tier=None if file.embedding else tier_of(file),
                file_bytes=file.file_bytes,
                parameters=0 if shape is None else shape.parameters,
                ready_on=tuple(record.node_id for record in ready),
                on_disk_at=tuple(record.node_id for record in present if name in record.models),
                digest=file.digest,
                context_tokens=max((record.replicas[name].report.context_tokens for record in ready), default=0),
                embedding=file.embedding,
            )

    # Life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Age leases, retry loads and save what was learnt, until cancelled."""
        saved_at_s = self._clock.monotonic_s()
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                self._sweep()
            except Exception:
                # The supervisor of leases: they must go on aging whatever one sweep ran into.
                log.exception("a sweep over the nodes broke")
            if self._clock.monotonic_s() - saved_at_s >= SAVE_EVERY_S:
                saved_at_s = self._clock.monotonic_s()
                await self.save()

    def _sweep(self) -> None:
        for transition in self._registry.sweep():
            self._tell(transition)
        self._ask_again_for_the_big()
        for record in self._registry.records():
            if record.link is not None:
                record.link.cut_slow_callers(self._settings.slow_caller_s)
        self._reconcile()

    def _ask_again_for_the_big(self) -> None:
        """Memory that other programs held may be free by now; the agent judges anew and has the last word."""
        now_s = self._clock.monotonic_s()
        due = {node_id for (node_id, _), until_s in self._too_big.items() if until_s <= now_s}
        if due:
            self._too_big = {key: until_s for key, until_s in self._too_big.items() if until_s > now_s}
            self._place([record for record in self._registry.present() if record.node_id in due])

    async def remember(self) -> None:
        """Take back what earlier runs learnt: who held which model, and how fast."""
        self._remembered = await self._store.assignments()
        self._learnt = {(one.node_id, one.model): one for one in await self._store.measurements()}

    async def save(self) -> None:
        """Write down who joined and what was assigned or measured since the last time. A full disk is only logged."""
        for record in self._registry.present():
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
            )
            self._unsaved.discard(record.node_id)
        if self._remembered.get(record.node_id) != record.assigned:
            await self._store.save_assignment(record.node_id, record.assigned, record.assignment_reason)
            if record.assigned is None:
                self._remembered.pop(record.node_id, None)
            else:
                self._remembered[record.node_id] = record.assigned
        for model, replica in record.replicas.items():
            rates = record.rates.get(model, Rates())
            report = replica.report
            if report.engine is None or not (rates.changed or (record.node_id, model) in self._measured):
                continue
            await self._store.save_measurement(
                Measurement(
                    node_id=record.node_id,
                    model=model,
                    engine=report.engine,
                    decode_tokens_per_s=rates.decode_tokens_per_s,
                    prefill_tokens_per_s=rates.prefill_tokens_per_s,
                    resident_bytes=report.resident_bytes,
                    predicted_bytes=report.predicted_bytes,
                    load_s=report.load_s,
                    samples=rates.samples,
                    updated_unix_s=self._clock.unix_s(),
                )
            )
            rates.changed = False
            self._measured.discard((record.node_id, model))

    async def drain(self) -> None:
        """Take nothing new, let running requests finish within the drain limit, then say goodbye to the agents."""
        self._draining = True
        running = [record for record in self._registry.records() if record.link is not None]
        try:
            async with asyncio.timeout(self._settings.drain_s):
                while any(record.link is not None and record.link.running for record in running):  # noqa: ASYNC110  # no link's reader has to announce its last frame
                    await asyncio.sleep(DRAIN_POLL_S)
        except TimeoutError:
            log.warning("requests still ran after %g s of draining; they are cut", self._settings.drain_s)
        for record in running:
            if record.link is not None:
                record.link.say_goodbye("the coordinator stops", reconnect_after_s=1)
