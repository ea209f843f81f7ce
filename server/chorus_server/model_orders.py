"""Loads and unloads that a person or a program asks for by name, beside what placement and demand order."""

from __future__ import annotations

import logging

from chorus_proto.errors import InvalidRequest, LoadFailed, ModelNotFound, NodeLost
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelOrder, OrderedOn, ReplicaState
from chorus_server.demand import Demand, Want
from chorus_server.loads import Loads
from chorus_server.node_record import NodeRecord
from chorus_server.queue import WaitingRoom
from chorus_server.registry import Registry
from chorus_server.routing import Need

log = logging.getLogger(__name__)

_HERE = (ReplicaState.LOADING, ReplicaState.READY)


class ModelOrders:
    """Gives orders and returns at once; agents report what comes of them."""

    def __init__(
        self,
        registry: Registry,
        room: WaitingRoom,
        loads: Loads,
        demand: Demand,
        *,
        keep_alive_s: float,
        unload_within_s: float,
    ) -> None:
        self._registry = registry
        self._room = room
        self._loads = loads
        self._demand = demand
        self._keep_alive_s = keep_alive_s
        self._unload_within_s = unload_within_s

    def load(self, wanted: str, node: str | None, keep_alive_s: float | None) -> ModelOrder:
        """See `Cluster.load_model`."""
        model = self._room.known_model(wanted, embeddings=True)
        if node is not None:
            records = [self._able(self._registry.find(node), model)]
        else:
            records = [record for record in self._working() if _state(record, model) in _HERE]
            records = records or [self._soonest(model)]
        ordered = tuple(_named(record, model) for record in records)
        for record, before in zip(records, ordered, strict=True):
            if before.state in _HERE and keep_alive_s is None:
                continue
            log.info("node %s loads %s: somebody asked for it", record.name, model)
            self._loads.order(record, model, keep_alive_s=self._stays_s(record, model, keep_alive_s))
        return ModelOrder(model=model, nodes=ordered)

    def _stays_s(self, record: NodeRecord, model: ModelName, keep_alive_s: float | None) -> float | None:
        """What the node is meant to hold stays, whoever asks for less."""
        if record.assigned == model:
            return None
        return self._keep_alive_s if keep_alive_s is None else keep_alive_s

    def unload(self, wanted: str, node: str | None) -> ModelOrder:
        """See `Cluster.unload_model`."""
        model = self._room.known_model(wanted, embeddings=True)
        records = self._working() if node is None else [self._registry.find(node)]
        there = [record for record in records if _state(record, model) in _HERE and record.link is not None]
        free = [record for record in there if not record.replicas[model].report.kept]
        if there and not free:
            names = ", ".join(record.name for record in there)
            raise InvalidRequest(f"{model} is kept loaded by the owner of {names}", param="model")
        ordered = tuple(_named(record, model) for record in free)
        for record in free:
            log.info("node %s unloads %s: somebody asked for it", record.name, model)
            self._free(record, model)
        return ModelOrder(model=model, nodes=ordered)

    def delete(self, wanted: str) -> ModelOrder:
        """See `Cluster.delete_model`."""
        model = self._room.known_model(wanted, embeddings=True)
        holders = [record for record in self._working() if model in record.models]
        fetched = [record for record in holders if record.models[model].fetched]
        if not fetched:
            names = ", ".join(record.name for record in holders) or "its PC"
            raise InvalidRequest(f"{model} belongs to the owner of {names}: delete the file there", param="model")
        ordered = tuple(_named(record, model) for record in fetched)
        for record in fetched:
            log.info("node %s deletes %s: somebody asked for it", record.name, model)
            if _state(record, model) in _HERE:
                self._free(record, model)
            if record.link is not None:
                record.link.remove(model)
        return ModelOrder(model=model, nodes=ordered)

    def _free(self, record: NodeRecord, model: ModelName) -> None:
        replica = record.replicas[model]
        replica.told_to_go = replica.to_rest = True
        if record.link is not None:
            record.link.unload(model, drain_s=self._unload_within_s)

    def _working(self) -> list[NodeRecord]:
        return [record for record in self._registry.records() if record.takes_work]

    def _able(self, record: NodeRecord, model: ModelName) -> NodeRecord:
        if not record.takes_work:
            raise NodeLost(f"node {record.name} is {record.state} and takes no orders now")
        file = record.models.get(model)
        if file is None:
            raise ModelNotFound(f"{model} is not on the disk of {record.name}", param="model")
        if _state(record, model) not in _HERE:
            if file.owners:
                raise InvalidRequest(f"{record.name} leaves it to its owner to start {model}", param="model")
            self._loads.wish(record, model)
        return record

    def _soonest(self, model: ModelName) -> NodeRecord:
        for record in self._working():
            self._loads.wish(record, model)
        want = Want(model=model, need=Need(prompt_tokens=0))
        best = self._demand.choice(want, {}).best
        if best is not None:
            return self._registry.find(best.site.node_id)
        hopeless = self._demand.hopeless(want)
        raise LoadFailed(f"no node takes {model} now", retry_after_s=5) if hopeless is None else hopeless.error()


def _state(record: NodeRecord, model: ModelName) -> ReplicaState | None:
    replica = record.replicas.get(model)
    return None if replica is None else replica.report.state


def _named(record: NodeRecord, model: ModelName) -> OrderedOn:
    return OrderedOn(node_id=record.node_id, node_name=record.name, state=_state(record, model))
