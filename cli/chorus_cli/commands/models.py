"""`chorus models`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import click
import msgspec

from chorus_cli.memory import HEADINGS as MEMORY_HEADINGS
from chorus_cli.memory import memory_cells, memory_rows
from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import count, print_table
from chorus_proto.ids import NodeId
from chorus_proto.values import ClusterState, ModelSummary
from chorus_server.console.text import size

HEADINGS = ("NAME", "TIER", "PARAMETERS", "SIZE", "READY ON", "ON DISK AT")


@click.command("models")
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@click.option("--memory", is_flag=True, help="Show what each one takes on each PC: predicted, corrected, measured.")
def command(config: Path | None, as_json: bool, memory: bool, **flags: object) -> None:
    """Show the models and where they are."""
    state = asked(lambda cluster, _settings: cluster.state(), config=config, flags=flags)
    if memory:
        _print_memory(state, as_json=as_json)
    elif as_json:
        print(msgspec.json.encode(state.models).decode())
    elif not state.models:
        print("no model is known; PCs bring theirs when they join: chorus agent --join HOST:PORT")
    else:
        print_table(HEADINGS, model_rows(state))


def _print_memory(state: ClusterState, *, as_json: bool) -> None:
    rows = memory_rows(state)
    if as_json:
        print(msgspec.json.encode(rows).decode())
    elif not rows:
        print("no model has been loaded on any PC yet")
    else:
        print_table(MEMORY_HEADINGS, [memory_cells(row) for row in rows])


def model_rows(state: ClusterState) -> list[tuple[str, ...]]:
    """One row a model under `HEADINGS`."""
    names = {node.node_id: node.name for node in state.nodes}
    return [_row(model, names) for model in state.models]


def _row(model: ModelSummary, names: Mapping[NodeId, str]) -> tuple[str, ...]:
    return (
        model.name,
        "embedding" if model.embedding else model.tier or "",
        count(model.parameters),
        size(model.file_bytes or None),
        _listed(model.ready_on, names),
        _listed(model.on_disk_at, names),
    )


def _listed(nodes: Iterable[NodeId], names: Mapping[NodeId, str]) -> str:
    return ", ".join(sorted(names.get(node, node) for node in nodes)) or "-"
