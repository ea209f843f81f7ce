"""Decides what nodes hold, and writes it into their records: `placement` on what the nodes have said of themselves."""

from __future__ import annotations

from collections.abc import Callable

from chorus_proto.errors import ErrorCode
from chorus_proto.ids import ModelName
from chorus_proto.values import Assignment
from chorus_server.loads import Loads
from chorus_server.node_record import NodeRecord
from chorus_server.placement import PlacementNode, PlacementRules, assign
from chorus_server.settings import CoordinatorSettings


class Placer:
    """`tell` hears every decision, also one that changes nothing."""

    def __init__(self, loads: Loads, rules: PlacementRules, tell: Callable[[Assignment], None]) -> None:
        self._loads = loads
        self._rules = rules
        self._tell = tell

    def place(self, records: list[NodeRecord]) -> list[Assignment]:
        """Decide anew what these nodes hold, and remember it."""
        assignments = assign([self._node(record) for record in records], self._rules)
        for record, assignment in zip(records, assignments, strict=True):
            record.assigned, record.assignment_reason = assignment.model, assignment.reason
            self._tell(assignment)
        return assignments

    def is_unplaceable(self, record: NodeRecord, model: ModelName) -> bool:
        """True where the node has said that the model does not fit now, or that its file is damaged."""
        refusal = self._loads.refusal(record, model)
        damaged = refusal is not None and refusal.code is ErrorCode.MODEL_DAMAGED
        return damaged or self._loads.is_too_big(record, model)

    def _node(self, record: NodeRecord) -> PlacementNode:
        return PlacementNode(
            node_id=record.node_id,
            name=record.name,
            score=record.score.score,
            hardware=record.hello.hardware,
            models=tuple(file for file in record.models.values() if not self.is_unplaceable(record, file.name)),
            current_model=record.assigned,
        )


def placement_rules(settings: CoordinatorSettings) -> PlacementRules:
    return PlacementRules(
        strategy=settings.placement_strategy,
        large_from=settings.large_score,
        medium_from=settings.medium_score,
        context_tokens=settings.context_tokens,
        slots=settings.slots,
    )
