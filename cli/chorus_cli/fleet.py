"""The whole fleet as one picture for a terminal: PCs with bars, models, who waits. Pure but for what rich draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from chorus_cli.commands.nodes import replica_words
from chorus_cli.tables import duration
from chorus_proto.ids import NodeId
from chorus_proto.logs import escaped
from chorus_proto.queue_state import QueueState
from chorus_proto.values import ClusterState, Node, NodeState
from chorus_server.console.text import size

BAR_CELLS = 8
WIDE = 120
"""Columns of a terminal that has room for words beside the bars."""
WAITING_SHOWN = 5
STYLES: Mapping[NodeState, str] = {
    NodeState.ALIVE: "green",
    NodeState.SUSPECT: "yellow",
    NodeState.DEAD: "red",
}
"""Others, such as a sleeping PC's, are faint."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Two looks at the cluster, `apart_s` seconds apart; the first `before` is None."""

    now: ClusterState
    queue: QueueState
    before: ClusterState | None = None
    apart_s: float = 0.0

    def tokens_per_s(self) -> dict[NodeId, float]:
        """What each PC generated between the two; a PC that began to count anew is left out."""
        if self.before is None or self.apart_s <= 0:
            return {}
        earlier = {node.node_id: node.tokens_total for node in self.before.nodes}
        return {
            node.node_id: (node.tokens_total - earlier[node.node_id]) / self.apart_s
            for node in self.now.nodes
            if node.node_id in earlier and node.tokens_total >= earlier[node.node_id]
        }


def picture(seen: Seen, width: int) -> RenderableType:
    """Summary, PCs, and the first of those who wait, in `width` columns."""
    speeds = seen.tokens_per_s()
    parts: list[RenderableType] = [_summary(seen, speeds), _nodes(seen.now, speeds, width)]
    if seen.queue.waiting:
        parts.append(_waiting(seen.queue))
    return Group(*parts)


def _summary(seen: Seen, speeds: Mapping[NodeId, float]) -> Text:
    state = seen.now
    alive = sum(node.state is NodeState.ALIVE for node in state.nodes)
    words = [
        f"Chorus {state.version}",
        f"{alive} of {len(state.nodes)} PCs alive",
        f"{seen.queue.running_total} running, {seen.queue.waiting_total} waiting",
        f"{sum(speeds.values()):.0f} tokens/s",
        f"{state.finished_total} answered, {state.failed_total} failed",
    ]
    return Text("  |  ".join(words) + ("  |  SHUTTING DOWN" if state.draining else ""), style="bold")


def _nodes(state: ClusterState, speeds: Mapping[NodeId, float], width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    words = width >= WIDE
    gpus = any(_gpus(node, words=words) for node in state.nodes)
    for heading in ("PC", "STATE", "CPU", "RAM", *(["GPU MEM"] if gpus else []), "MODELS", "BUSY", "TOK/S"):
        flexible = heading in ("PC", "STATE", "MODELS")
        table.add_column(heading, no_wrap=not flexible, overflow="fold", header_style="dim")
    if not state.nodes:
        table.add_row(Text("no PC has joined; on each one run: chorus agent --join HOST:PORT"))
    for node in state.nodes:
        speed = speeds.get(node.node_id)
        table.add_row(
            Text(escaped(node.name)),
            Text(_state_words(node), style=STYLES.get(node.state, "dim")),
            _bar(None if node.cpu_percent is None else node.cpu_percent / 100),
            _bar(_ram_used(node), _free(node.ram_available_bytes) if words else ""),
            *([_gpus(node, words=words)] if gpus else []),
            Text(escaped(_models(node))),
            Text(_busy(node)),
            Text("" if speed is None else f"{speed:.0f}", justify="right"),
        )
    return table


def _state_words(node: Node) -> str:
    if node.state is NodeState.ALIVE and node.courtesy.words:
        return escaped(node.courtesy.words)
    return node.state


def _ram_used(node: Node) -> float | None:
    total = node.hardware.ram_bytes
    return None if node.ram_available_bytes is None or not total else 1 - node.ram_available_bytes / total


def _gpus(node: Node, *, words: bool) -> Text:
    """The fullest GPU's bar: it is the one that refuses the next model."""
    known = [
        (1 - gpu.memory_free_bytes / gpu.memory_bytes, gpu.memory_free_bytes)
        for gpu in node.hardware.gpus
        if gpu.memory_bytes and gpu.memory_free_bytes is not None
    ]
    return _bar(*max((used, _free(free) if words else "") for used, free in known)) if known else Text("")


def _free(free_bytes: int | None) -> str:
    return "" if free_bytes is None else f" {size(free_bytes)} free"


def _bar(share: float | None, words: str = "") -> Text:
    """`######....`: green, yellow from 75 %, red from 90 %."""
    if share is None:
        return Text("")
    share = min(1.0, max(0.0, share))
    full = round(share * BAR_CELLS)
    style = "red" if share >= 0.9 else "yellow" if share >= 0.75 else "green"
    return Text.assemble(("#" * full, style), ("." * (BAR_CELLS - full), "dim"), f" {share:>4.0%}{words}")


def _models(node: Node) -> str:
    return ", ".join(
        replica.report.model
        if replica_words(replica) == "ready"
        else f"{replica.report.model} ({replica_words(replica)})"
        for replica in node.replicas
    )


def _busy(node: Node) -> str:
    slots = sum(replica.report.slots for replica in node.replicas)
    return f"{sum(replica.slots_busy for replica in node.replicas)}/{slots}" if slots else ""


def _waiting(queue: QueueState) -> Table:
    table = Table(box=None, pad_edge=False, padding=(1, 2, 0, 0))
    for heading in ("WAITS FOR", "WHO", "PLACE", "SINCE", "EXPECTED"):
        table.add_column(heading, no_wrap=True, header_style="dim")
    for one in queue.waiting[:WAITING_SHOWN]:
        expected = one.standing.expected_wait_s
        table.add_row(
            Text(escaped(one.model)),
            Text(escaped(one.user or "-")),
            f"{one.standing.position}/{one.standing.of}",
            duration(one.waited_s),
            "?" if expected is None else duration(expected),
        )
    if queue.waiting_total > WAITING_SHOWN:
        table.add_row(f"and {queue.waiting_total - WAITING_SHOWN} more")
    return table
