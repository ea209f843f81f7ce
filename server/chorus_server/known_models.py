"""Which model a caller means: by the name under which nodes hold it, or by a further one."""

from __future__ import annotations

from functools import partial

from chorus_proto.catalogue import closest, normalised
from chorus_proto.errors import ErrorCode, InvalidRequest, ModelNotFound, NoNodes
from chorus_proto.ids import ModelName
from chorus_proto.values import ReplicaState
from chorus_server.aliases import Aliases
from chorus_server.demand import Demand
from chorus_server.node_record import NodeRecord
from chorus_server.registry import Registry


class KnownModels:
    """Reads the nodes' records; changes nothing."""

    def __init__(self, registry: Registry, demand: Demand, aliases: Aliases) -> None:
        self._registry = registry
        self._demand = demand
        self._aliases = aliases

    def find(self, wanted: str, *, embeddings: bool) -> ModelName:
        """See `WaitingRoom.known_model`."""
        if self._serves(ModelName(wanted), embeddings=embeddings):
            return ModelName(wanted)
        held = self._held()
        for meant in dict.fromkeys((wanted, self._aliases.meant(wanted))):
            for known, embedding in held.items():
                if known == meant or normalised(known) == normalised(meant):
                    if embedding and not embeddings:
                        raise InvalidRequest(f"model {known} makes embeddings and cannot answer", param="model")
                    return known
        if not held and not self._registry.present():
            raise NoNodes("no node is connected yet; start one with: chorus agent --join HOST:PORT", retry_after_s=5)
        chat = sorted(name for name, embedding in held.items() if not embedding)
        near = closest(wanted, chat)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; models here: {', '.join(chat) or 'none'}"
        raise ModelNotFound(f"model {wanted!r} is on no node{hint}", param="model")

    def _serves(self, name: ModelName, *, embeddings: bool) -> bool:
        """True where a node has a model of that very name ready: the case of nearly every request, which need not look
        through all models of all nodes."""
        for record in self._registry.records():
            replica = record.replicas.get(name)
            if replica is not None and replica.report.state is ReplicaState.READY and record.state.is_here:
                file = record.models.get(name)
                return file is None or embeddings or not file.embedding
        return False

    def _held(self) -> dict[ModelName, bool]:
        """Every model on a node, and whether it only makes embeddings."""
        held: dict[ModelName, bool] = {}
        for record in self._demand.within_reach():
            for name in (*record.models, *filter(partial(_is_held, record), record.replicas)):
                held[name] = name in record.models and record.models[name].embedding
        return held


def _is_held(record: NodeRecord, model: ModelName) -> bool:
    """False where all that is left of it is a load that failed because its file had gone."""
    report = record.replicas[model].report
    return report.state is not ReplicaState.FAILED or report.failure_code == ErrorCode.MODEL_DAMAGED
