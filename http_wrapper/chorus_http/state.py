"""Reads the cluster's state for the routes that must answer quickly or say that they cannot."""

from __future__ import annotations

import asyncio
import difflib

from chorus_proto.catalogue import normalised
from chorus_proto.cluster import Cluster
from chorus_proto.errors import CoordinatorUnavailable, ModelNotFound
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import ClusterState, CouncilSummary, ModelSummary, NodeState


class StateReader:
    """The coordinator answers from memory; one that does not within `within_s` is away."""

    def __init__(self, cluster: Cluster, *, within_s: float) -> None:
        self._cluster = cluster
        self._within_s = within_s

    async def state(self) -> ClusterState:
        """Raises CoordinatorUnavailable."""
        try:
            async with asyncio.timeout(self._within_s):
                return await self._cluster.state()
        except TimeoutError:
            raise CoordinatorUnavailable(f"The coordinator did not answer within {self._within_s:g} s.") from None


def alive_nodes(state: ClusterState) -> list[NodeId]:
    return [node.node_id for node in state.nodes if node.state is NodeState.ALIVE]


def ready_models(state: ClusterState) -> list[ModelSummary]:
    """Those that some node serves now, by name."""
    return sorted((model for model in state.models if model.ready_on), key=lambda model: model.name)


def find_council(state: ClusterState, name: str) -> CouncilSummary | None:
    """None: `name` means a model, or nothing at all."""
    return next((one for one in state.councils if normalised(one.name) == normalised(name)), None)


def council_context_tokens(state: ClusterState) -> int:
    """That of the least of the models that may be asked; 0 when none tells."""
    return min((one.context_tokens for one in state.models if one.context_tokens and not one.embedding), default=0)


def find_model(state: ClusterState, name: str) -> ModelSummary:
    """Raises ModelNotFound with the closest names."""
    for model in state.models:
        if model.name == name:
            return model
    for model in state.models:
        if normalised(model.name) == normalised(name):
            return model
    raise ModelNotFound(_no_such_model(name, [model.name for model in state.models]), param="model")


def _no_such_model(name: str, names: list[ModelName]) -> str:
    closest = difflib.get_close_matches(name[:256], names, n=3, cutoff=0.4)
    hint = f" Closest: {', '.join(closest)}." if closest else ""
    return f"The model '{name[:256]}' does not exist here.{hint}"
