"""The verbs of the coordinator: what agents report and what callers ask, tied to the parts that do it.

It implements the `Cluster` protocol itself; edges only translate. It is long because every verb is a method of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from chorus_proto import PROTOCOL_MAX, __version__
from chorus_proto.backends import Backend, NewBackend
from chorus_proto.clock import Clock
from chorus_proto.cluster import Ask, AskEvent, Call, CallEvent
from chorus_proto.errors import Draining
from chorus_proto.event_log import Batch, Position
from chorus_proto.explained import Explanation
from chorus_proto.happenings import HubEvent
from chorus_proto.ids import ModelName, is_council
from chorus_proto.keys import ApiKey, KeyClaim, MadeKey, NewKey
from chorus_proto.queue_state import QueueState
from chorus_proto.transfers import FetchReport, Transfer
from chorus_proto.values import (
    ClusterState,
    Courtesy,
    Heartbeat,
    Hello,
    ModelFile,
    ModelOrder,
    Reassignment,
    ReplicaReport,
    Welcome,
    Woken,
)
from chorus_server.aliases import Aliases
from chorus_server.backends import Backends
from chorus_server.copy_flow import transfer_rules
from chorus_server.council import Council
from chorus_server.council_calls import CouncilCalls
from chorus_server.definitions import read_councils
from chorus_server.demand import Demand
from chorus_server.demand_copies import DemandCopies
from chorus_server.dispatch import Dispatcher, dispatch_rules
from chorus_server.events import (
    CourtesyChanged,
    Events,
    InventoryChanged,
    LoadDemanded,
    ModelAssigned,
    NodeChanged,
    NodeRegistered,
    ReplicaChanged,
    ReplicaProgressed,
    TransferChanged,
)
from chorus_server.fairness import Debts
from chorus_server.feed import Feed, feed_rules
from chorus_server.introduction import check_inventory
from chorus_server.keys import Keys
from chorus_server.learnt import Learnt
from chorus_server.link import AgentLink
from chorus_server.loads import Loads
from chorus_server.magic_packet import broadcast_addresses, send_magic_packets
from chorus_server.member_embedder import MemberEmbedder
from chorus_server.members import Members
from chorus_server.metrics import Counters, StateCollector, exposition
from chorus_server.model_orders import ModelOrders
from chorus_server.models_shown import models_shown
from chorus_server.node_record import NodeRecord
from chorus_server.opinions import Opinions, keep_opinions, read_opinions
from chorus_server.placer import Placer, placement_rules
from chorus_server.queue import WaitingRoom, queue_rules
from chorus_server.reconcile import Reconciler
from chorus_server.registry import Registry, Transition
from chorus_server.routing import Router
from chorus_server.settings import CoordinatorSettings, shares_of, weights_of
from chorus_server.store import Store
from chorus_server.transfers import Transfers
from chorus_server.wake import Wakings, wake_rules
from chorus_server.weights import Weights

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 0.25
SAVE_EVERY_S = 5.0
DRAIN_POLL_S = 0.05


class Coordinator:
    """One running coordinator. `run` is its only task; everything else happens in its callers' tasks."""

    def __init__(self, settings: CoordinatorSettings, store: Store, clock: Clock) -> None:
        """Raises SettingsError when the councils of the settings cannot be read."""
        self.events = Events()
        self.keys = Keys(store.keys, clock)
        self.aliases = Aliases(store.aliases)
        weights = Weights(weights_of(settings.node_weights))
        self.registered = Backends(store.backends, clock, weights)
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
            forget_asleep_after_s=settings.forget_asleep_after_s,
        )
        self._loads = Loads(clock, slots=settings.slots, context_tokens=settings.context_tokens)
        transfers = Transfers(self._registry, clock, transfer_rules(settings), self._transfer_changed)
        self._copies = DemandCopies(self._registry, self._loads, transfers, clock, enabled=settings.copy_on_demand)
        self._wakings = Wakings(clock, self._send_wake_up, wake_rules(settings))
        self._demand = Demand(
            self._registry,
            self._loads,
            clock,
            self._load_demanded,
            self._wakings,
            self._copies,
            keep_alive_s=settings.model_keep_alive_s,
            back_within_s=settings.suspect_after_s,
        )
        debts = Debts(clock, half_life_s=settings.debt_half_life_s, shares=shares_of(settings.user_shares))
        self._room = WaitingRoom(
            self._registry,
            Router(),
            self._demand,
            debts,
            clock,
            queue_rules(settings),
            self.aliases,
            weights.by_name,
        )
        self._dispatcher = Dispatcher(
            self._registry, self._room, self._counters, clock, dispatch_rules(settings), self.events.tell
        )
        self._orders = ModelOrders(
            self._registry,
            self._room,
            self._loads,
            self._demand,
            keep_alive_s=settings.model_keep_alive_s,
            unload_within_s=settings.unload_within_s,
        )
        self._councils = read_councils(settings.councils_file)
        self._opinions = Opinions()
        self._council = Council(
            self._registry,
            Members(self._registry, self._room, self._opinions, self._councils),
            self._dispatcher,
            clock,
            councils=self._councils,
            opinions=self._opinions,
            embedder=MemberEmbedder(self._registry, self._dispatcher),
        )
        self._council_calls = CouncilCalls(self._council, settings.routing_strategy)
        self._placer = Placer(
            self._loads,
            placement_rules(settings),
            lambda assignment: self.events.tell(ModelAssigned(assignment=assignment)),
        )
        self._reconciler = Reconciler(self._registry, self._loads, unload_within_s=settings.unload_within_s)
        self._learnt = Learnt(store, clock)
        self.transfers_under_way = transfers
        self._feed = Feed(self._registry, self._room, transfers, clock, feed_rules(settings), epoch=store.epoch)
        self.events.subscribe(self._feed.heard)
        self._draining = False
        self._reconcile_is_due = False
        self._counters.registry.register(StateCollector(self._state))

    # What agents say ----------------------------------------------------------------------------------------------

    def joined(self, hello: Hello, address: str, link: AgentLink) -> NodeRecord:
        """Register an agent and assign it a model. Raises what `Registry.admit` raises, and Draining."""
        if self._draining:
            raise Draining("the coordinator is shutting down", retry_after_s=5)
        record = self._registry.admit(hello, address, link)
        self._learnt.joined(record)
        self._wakings.came(record)
        self._loads.link_is_new(record)
        self._placer.place([record])
        self._registry.explain_absence(record)
        self.transfers_under_way.joined(record)
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
        replica = record.replicas.get(report.model)
        before = None if replica is None else replica.report.state
        self._registry.report(record, report)
        self._learnt.saw(record, report)
        pause_s = self._loads.reported(record, report, before)
        if pause_s is not None:
            log.warning("node %s: %s failed: %s", record.name, report.model, report.detail)
            if record.assigned == report.model and self._placer.is_unplaceable(record, report.model):
                self._placer.place([record])
        if before is not report.state:
            self.events.tell(ReplicaChanged(node_id=record.node_id, node_name=record.name, report=report))
        else:
            self.events.tell(ReplicaProgressed(node_id=record.node_id, model=report.model))
        self._reconcile()

    def _load_demanded(self, event: LoadDemanded) -> None:
        self._counters.demanded(event.node_name, event.model)
        self.events.tell(event)

    def inventory_reported(self, record: NodeRecord, models: Iterable[ModelFile]) -> None:
        announced = list(models)
        check_inventory(announced)
        self._registry.inventory(record, announced)
        self._learnt.changed(record)
        self._placer.place([record])
        self.events.tell(InventoryChanged(node_id=record.node_id))
        self._reconcile()

    def fetch_reported(self, record: NodeRecord, report: FetchReport) -> None:
        self.transfers_under_way.reported(record, report)

    def _transfer_changed(self, transfer: Transfer) -> None:
        self._copies.ended(transfer)
        self.events.tell(TransferChanged(transfer=transfer))
        self._reconcile()

    def courtesy_reported(self, record: NodeRecord, courtesy: Courtesy) -> None:
        """Its owner wants more of the PC, or less again."""
        record.courtesy = courtesy
        words = courtesy.words or "its owner leaves it to us again"
        log.info("node %s: %s", record.name, words)
        self.events.tell(CourtesyChanged(node_id=record.node_id, reason=words))
        self._reconcile()

    def said_goodbye(self, record: NodeRecord, reason: str, *, sleeps: bool = False) -> None:
        self._tell(self._registry.left(record, reason, sleeps=sleeps))

    def link_ended(self, record: NodeRecord, reason: str) -> None:
        self._tell(self._registry.lost_link(record, reason))

    def _tell(self, transition: Transition | None) -> None:
        if transition is None:
            return
        record = transition.record
        log.info("node %s is %s: %s", record.name, record.state, transition.reason)
        if not record.state.is_here:
            self._learnt.changed(record)
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
        self._room.look()

    # What callers ask: the Cluster protocol -----------------------------------------------------------------------

    async def submit(self, call: Call) -> AsyncGenerator[CallEvent, None]:
        """See `Cluster.submit`."""
        self._refuse_when_draining()
        estimate = call.prompt_tokens_estimate
        with self.keys.billed(call.key_id, prompt_tokens_estimate=estimate) as bill:
            run = self._council_calls.run if is_council(call.model) else self._dispatcher.run
            async with aclosing(run(call)) as events:
                async for event in events:
                    bill.note(event)
                    yield event

    async def ask(self, ask: Ask) -> AsyncGenerator[AskEvent, None]:
        """See `Cluster.ask`."""
        self._refuse_when_draining()
        estimate = ask.prompt_tokens_estimate
        with self.keys.billed(ask.key_id, prompt_tokens_estimate=estimate) as bill:
            async with aclosing(self._council.run(ask)) as events:
                async for event in events:
                    bill.note(event)
                    yield event

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise Draining("the coordinator is shutting down", retry_after_s=5)

    async def state(self) -> ClusterState:
        """See `Cluster.state`."""
        return self._state()

    async def queue_state(self) -> QueueState:
        """See `Cluster.queue_state`."""
        return self._room.queue_state()

    async def watch(self, after: Position | None = None) -> AsyncGenerator[Batch[HubEvent]]:
        """See `Cluster.watch`."""
        async with aclosing(self._feed.watch(after)) as batches:
            async for batch in batches:
                yield batch

    async def explain(self, call: Call) -> Explanation:
        """See `Cluster.explain`."""
        return self._dispatcher.explain(call)

    async def reassign(self) -> Reassignment:
        """See `Cluster.reassign`."""
        self._refuse_when_draining()
        records = [record for record in self._registry.present() if record.link is not None]
        self._loads.wish_again(records)
        assignments = self._placer.place(records)
        self._reconcile()
        return Reassignment(assignments=tuple(assignments))

    async def load_model(self, model: str, *, node: str | None = None, keep_alive_s: float | None = None) -> ModelOrder:
        """See `Cluster.load_model`."""
        self._refuse_when_draining()
        return self._orders.load(model, node, keep_alive_s)

    async def unload_model(self, model: str, *, node: str | None = None) -> ModelOrder:
        """See `Cluster.unload_model`."""
        return self._orders.unload(model, node)

    async def delete_model(self, model: str) -> ModelOrder:
        """See `Cluster.delete_model`."""
        self._refuse_when_draining()
        if await self.aliases.remove(model):
            return ModelOrder(model=ModelName(model))
        return self._orders.delete(model)

    async def alias_model(self, name: str, model: str) -> ModelName:
        """See `Cluster.alias_model`."""
        meant = self._room.known_model(model, embeddings=True)
        await self.aliases.add(name, meant, held={one for record in self._registry.present() for one in record.models})
        return meant

    async def metrics(self) -> bytes:
        """See `Cluster.metrics`."""
        return exposition(self._counters)

    async def wake(self, node: str) -> Woken:
        """See `Cluster.wake`."""
        return self._wakings.wake(self._registry.find(node))

    async def create_key(self, wish: NewKey) -> MadeKey:
        """See `Cluster.create_key`."""
        return await self.keys.create(wish)

    async def list_keys(self) -> tuple[ApiKey, ...]:
        """See `Cluster.list_keys`."""
        return self.keys.list()

    async def revoke_key(self, key: str) -> ApiKey:
        """See `Cluster.revoke_key`."""
        return await self.keys.revoke(key)

    async def register_backend(self, wish: NewBackend) -> Backend:
        """See `Cluster.register_backend`."""
        self._refuse_when_draining()
        return await self.registered.register(wish)

    async def unregister_backend(self, name: str) -> Backend:
        """See `Cluster.unregister_backend`."""
        return await self.registered.unregister(name)

    async def backends(self) -> tuple[Backend, ...]:
        """See `Cluster.backends`."""
        return self.registered.list()

    async def check_key(self, claim: KeyClaim) -> ApiKey:
        """See `Cluster.check_key`."""
        return self.keys.check(claim)

    def _send_wake_up(self, mac_addresses: Sequence[str]) -> int:
        to = [self._settings.wake_address] if self._settings.wake_address else broadcast_addresses()
        return send_magic_packets(mac_addresses, to, self._settings.wake_port)

    async def pull_model(self, source: str, *, node: str = "", sha256: str = "") -> Transfer:
        """See `Cluster.pull_model`."""
        self._refuse_when_draining()
        return self.transfers_under_way.pull(source, node=node, sha256=sha256)

    async def copy_model(self, model: str, *, to: str) -> Transfer:
        """See `Cluster.copy_model`."""
        self._refuse_when_draining()
        return self.transfers_under_way.copy(model, to=to)

    async def transfers(self) -> tuple[Transfer, ...]:
        """See `Cluster.transfers`."""
        return self.transfers_under_way.list()

    async def cancel_transfer(self, transfer_id: str) -> Transfer:
        """See `Cluster.cancel_transfer`."""
        return self.transfers_under_way.cancel(transfer_id)

    def _state(self) -> ClusterState:
        records = self._registry.records()
        return ClusterState(
            version=__version__,
            epoch=self._store.epoch,
            uptime_s=self._clock.monotonic_s() - self._began_s,
            nodes=tuple(self._registry.shown(record) for record in records),
            models=tuple(models_shown(self._registry, self.aliases)),
            waiting=self._room.waiting,
            running=sum(record.link.running for record in records if record.link is not None),
            finished_total=self._counters.finished_total,
            failed_total=self._counters.failed_total,
            cancelled_total=self._counters.cancelled_total,
            routing_strategy=self._settings.routing_strategy,
            draining=self._draining,
            councils=self._councils.summaries(),
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
        self.keys.sweep()
        for transition in self._registry.sweep():
            self._tell(transition)
        due = self._loads.no_longer_too_big()
        if due:
            self._placer.place([record for record in self._registry.present() if record.node_id in due])
        for record in self._registry.records():
            if record.link is not None:
                record.link.cut_slow_callers(self._settings.slow_caller_s)
        self.transfers_under_way.sweep()
        self._reconcile()
        self._feed.look()

    async def remember(self) -> None:
        """Take back what earlier runs learnt."""
        await self._learnt.remember()
        await asyncio.to_thread(read_opinions, self._opinions, self._settings.state_dir)
        await self.keys.remember()
        await self.aliases.remember()
        await self.registered.remember()
        if self._settings.wake_nodes:
            for one in self._learnt.asleep(self._settings.forget_asleep_after_s):
                self._registry.restore(one.hello, one.address, unseen_s=one.unseen_s)

    async def save(self) -> None:
        """Write down what was learnt since the last time. A full disk is only logged."""
        await self._learnt.save(self._registry.records())
        await self.keys.save()
        await keep_opinions(self._opinions, self._settings.state_dir)

    async def drain(self) -> None:
        """Take nothing new, let running requests finish within the drain limit, then say goodbye to the agents."""
        self._draining = True
        self._feed.close()
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
