"""What models take on each PC, as `chorus models --memory` shows it: predicted, corrected, measured, and the sum."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_proto.ids import ModelName
from chorus_proto.sizing import tokens_in_words
from chorus_proto.values import ClusterState, Footprint, Node, ReplicaReport, ReplicaState

HEADINGS = ("NODE", "MODEL", "STATE", "CONTEXT", "PREDICTED", "EXPECTED", "MEASURED", "ERROR", "ARITHMETIC")

NOT_LOADED = "not loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """One model on one node. `error`: how far what was expected is off what was measured, as a share of that."""

    node: str
    model: ModelName
    state: str
    context_tokens: int
    slots: int
    predicted_bytes: int | None
    expected_bytes: int | None
    measured_bytes: int | None
    error: float | None
    arithmetic: str


def memory_rows(state: ClusterState) -> list[MemoryRow]:
    """Every model that is loaded, loads, failed to, or was measured before; by node and model."""
    return [row for node in sorted(state.nodes, key=lambda node: node.name) for row in _rows_of(node)]


def _rows_of(node: Node) -> list[MemoryRow]:
    now = {replica.report.model: replica.report for replica in node.replicas}
    before = {one.model: one for one in node.footprints}
    return [_row(node.name, model, now.get(model), before.get(model)) for model in sorted({*now, *before})]


def _row(node: str, model: ModelName, now: ReplicaReport | None, before: Footprint | None) -> MemoryRow:
    """From the report of the replica; what it does not tell yet, or no longer, from the last load."""
    told = now or before
    assert told is not None, "a model is listed because of one of the two"
    # What a replica that loads holds by now is no measurement of what it takes.
    measured = before.resident_bytes if before is not None else None
    if now is not None:
        measured = now.resident_bytes if now.state is ReplicaState.READY else None
    predicted = told.predicted_bytes
    expected = told.expected_bytes or predicted
    return MemoryRow(
        node=node,
        model=model,
        state=NOT_LOADED if now is None else now.state,
        context_tokens=told.context_tokens or (0 if before is None else before.context_tokens),
        slots=told.slots,
        predicted_bytes=predicted,
        expected_bytes=expected,
        measured_bytes=measured,
        error=(expected - measured) / measured if expected and measured else None,
        arithmetic=told.arithmetic or (now.detail if now is not None and now.state is ReplicaState.FAILED else ""),
    )


def memory_cells(row: MemoryRow) -> tuple[str, ...]:
    """The row under `HEADINGS`; unknown is `-`."""
    context = f"{tokens_in_words(row.context_tokens)} x {row.slots}" if row.context_tokens else "-"
    error = "-" if row.error is None else f"{row.error:+.1%}"
    sizes = (row.predicted_bytes, row.expected_bytes, row.measured_bytes)
    return (row.node, row.model, row.state, context, *map(_decimal, sizes), error, row.arithmetic)


def _decimal(size_bytes: int | None) -> str:
    """In the units of the arithmetic beside it."""
    if size_bytes is None:
        return "-"
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
