"""`chorus status`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import duration
from chorus_proto.values import ClusterState, NodeState


@click.command("status")
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print everything the coordinator knows, as JSON.")
def command(config: Path | None, as_json: bool, **flags: object) -> None:
    """Show the cluster in a few lines."""
    state = asked(lambda cluster, _settings: cluster.state(), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(state).decode())
        return
    for name, value in summary(state):
        print(f"{name:<12}{value}")


def summary(state: ClusterState) -> list[tuple[str, str]]:
    """The cluster as (name, words) lines."""
    alive = sum(node.state is NodeState.ALIVE for node in state.nodes)
    ready = [model.name for model in state.models if model.ready_on]
    finished = f"{state.finished_total} finished, {state.failed_total} failed, {state.cancelled_total} cancelled"
    draining = ", shutting down" if state.draining else ""
    return [
        ("Chorus", f"{state.version}, up {duration(state.uptime_s)}, epoch {state.epoch}{draining}"),
        ("PCs", f"{alive} alive of {len(state.nodes)} known"),
        ("Models", f"{', '.join(ready) or 'none'} ready, {len(state.models)} known"),
        ("Requests", f"{state.running} running, {state.waiting} waiting, {finished}"),
        ("Routing", state.routing_strategy),
    ]
