"""Who could answer a question to several nodes: one replica of each, or those that a council's definition names."""

from __future__ import annotations

from collections.abc import Iterator

from chorus_proto.catalogue import entry, normalised, shape_of, tier_of
from chorus_proto.cluster import Ask
from chorus_proto.errors import NoNodes, NoReplica
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import ReplicaState, Tier
from chorus_server.definitions import Councils, Definition, Selector
from chorus_server.node_record import NodeRecord
from chorus_server.opinions import Opinions
from chorus_server.panel import Candidate
from chorus_server.qualities import prior_quality
from chorus_server.queue import WaitingRoom
from chorus_server.registry import Registry
from chorus_server.routing import Need


class Members:
    """Looks members up in the registry; changes nothing."""

    def __init__(self, registry: Registry, room: WaitingRoom, opinions: Opinions, councils: Councils) -> None:
        self._registry = registry
        self._room = room
        self._opinions = opinions
        self._councils = councils

    def of_everybody(self, ask: Ask) -> list[Candidate]:
        """Who would be asked now, one chat replica per node; nodes that are named, whatever state they are in.

        Raises NoNodes, NodeNotFound, ModelNotFound or NoReplica.
        """
        model = None if ask.model is None else self._room.known_model(ask.model)
        named = {record.node_id: record for record in map(self._registry.find, ask.nodes)}
        records = list(named.values()) or self._registry.present()
        if not records:
            raise _no_nodes()
        members = [
            self._candidate(record, chosen)
            for record in records
            if (chosen := self._model_to_ask(record, model, wanted_by_name=bool(ask.nodes))) is not None
        ]
        if not members and model is not None:
            members = self._to_be_loaded(ask, model)
        if not members:
            what = "a model" if model is None else f"model {model}"
            raise NoReplica(f"no node has {what} ready; GET /status shows what is loading", retry_after_s=10)
        return members

    def of_council(self, name: ModelName, definition: Definition, ask: Ask) -> list[Candidate]:
        """The ready replicas that its definition names, each once. Raises NoNodes and NoReplica."""
        present = [
            record for record in self._registry.present() if record.takes_requests and not record.courtesy.paused
        ]
        if not present:
            raise _no_nodes()
        found: dict[tuple[NodeId, ModelName], Candidate] = {}
        for record in present:
            for selector in definition.members or (Selector(),):
                for model in self._selected(record, selector):
                    found.setdefault((record.node_id, model), self._candidate(record, model))
        if not found:
            for selector in definition.members:
                if selector.model is not None and (held := self._held(present, selector.model)) is not None:
                    for member in self._to_be_loaded(ask, held):
                        found[member.node_id, member.model] = member
        if not found:
            raise NoReplica(f"no member of {name} is ready; GET /status shows what is loading", retry_after_s=10)
        return list(found.values())

    def _selected(self, record: NodeRecord, selector: Selector) -> Iterator[ModelName]:
        """The models of this node that are members."""
        names = {record.node_id.lower(), record.name.lower()}
        if selector.node is not None and selector.node.lower() not in names:
            return
        tag = None if selector.tag is None else selector.tag.lower()
        nodes = self._councils.tags.get(tag) if tag is not None else None
        if nodes is not None and not nodes & names:
            return
        ready = _ready(record)
        if tag is not None and nodes is None:
            ready = [model for model in ready if self._tier(record, model) == tag]
        if selector.model is not None:
            yield from (model for model in ready if normalised(model) == normalised(selector.model))
        elif ready:
            yield next((model for model in ready if model == record.assigned), min(ready))

    @staticmethod
    def _held(records: list[NodeRecord], wanted: str) -> ModelName | None:
        known = (name for record in records for name in (*record.models, *record.replicas))
        return next((name for name in known if normalised(name) == normalised(wanted)), None)

    def _to_be_loaded(self, ask: Ask, model: ModelName) -> list[Candidate]:
        """Nobody serves the model: those who load it, else the one node where it would be loaded for a request."""
        loading = [
            record.node_id
            for record in self._registry.present()
            if record.takes_requests
            and model in record.replicas
            and record.replicas[model].report.state is ReplicaState.LOADING
        ]
        best = None if loading else self._room.would_load_on(model, Need(prompt_tokens=ask.prompt_tokens_estimate))
        return [
            self._candidate(self._registry.find(node_id), model) for node_id in (loading if best is None else [best])
        ]

    @staticmethod
    def _model_to_ask(record: NodeRecord, model: ModelName | None, *, wanted_by_name: bool) -> ModelName | None:
        """The node's replica for this question: the one asked for, else the assigned one, else any that is ready.

        A node named by the asker is a member even when it cannot answer now, so that it is named as missing.
        """
        if record.courtesy.paused and not wanted_by_name:
            return None
        ready = _ready(record)
        if model is not None:
            return model if model in ready or wanted_by_name else None
        if record.assigned in ready:
            return record.assigned
        return min(ready) if ready else (record.assigned if wanted_by_name else None)

    def _candidate(self, record: NodeRecord, model: ModelName) -> Candidate:
        replica = record.replicas.get(model)
        rates = record.rates.get(model)
        return Candidate(
            node_id=record.node_id,
            node_name=record.name,
            model=model,
            quality=self._opinions.quality(model, self._prior(record, model)),
            tier=self._tier(record, model),
            slots=1 if replica is None else max(1, replica.report.slots),
            slots_busy=0 if replica is None else replica.slots_busy,
            tokens_per_s=None if rates is None else rates.decode_tokens_per_s,
        )

    @staticmethod
    def _tier(record: NodeRecord, model: ModelName) -> Tier | None:
        file = record.models.get(model)
        return None if file is None else tier_of(file)

    @staticmethod
    def _prior(record: NodeRecord, model: ModelName) -> float:
        known = entry(model)
        if known is not None:
            return known.quality
        file = record.models.get(model)
        shape = None if file is None else shape_of(file)
        return prior_quality(None if shape is None else shape.parameters)


def _ready(record: NodeRecord) -> list[ModelName]:
    """Models that can chat there now."""
    return [
        name
        for name, replica in record.replicas.items()
        if replica.report.state is ReplicaState.READY and not (name in record.models and record.models[name].embedding)
    ]


def _no_nodes() -> NoNodes:
    return NoNodes("no node is connected yet; start one with: chorus agent --join HOST:PORT", retry_after_s=5)
