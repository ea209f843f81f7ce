"""`chorus nodes`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from chorus_cli.completion import complete_nodes
from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import duration, print_table
from chorus_proto.logs import escaped
from chorus_proto.values import Node, Replica
from chorus_server.console.text import size

HEADINGS = (
    "NAME",
    "STATE",
    "SCORE",
    "MODEL",
    "REPLICA",
    "BUSY",
    "TOK/S",
    "RAM FREE",
    "WARM COPIES",
    "COMPUTES ON",
    "COURTESY",
)


@click.group("nodes", invoke_without_command=True)
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@click.pass_context
def command(ctx: click.Context, config: Path | None, as_json: bool, **flags: object) -> None:
    """Show the PCs, their scores and what they hold; wake one that sleeps."""
    if ctx.invoked_subcommand is not None:
        return
    state = asked(lambda cluster, _settings: cluster.state(), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(state.nodes).decode())
    elif not state.nodes:
        print("no PC has joined; on each one run: chorus agent --join HOST:PORT")
    else:
        print_table(HEADINGS, [node_row(node) for node in state.nodes])


@command.command("wake")
@click.argument("name", shell_complete=complete_nodes)
@click.option("--json", "as_json", is_flag=True, help="Print what was sent, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def wake(name: str, as_json: bool, config: Path | None, **flags: object) -> None:
    """Send a wake-up packet to the PC called NAME."""
    woken = asked(lambda cluster, _settings: cluster.wake(name), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(woken).decode())
        return
    if not woken.mac_addresses:
        print(escaped(f"{woken.node_name} is here already"))
        return
    print(escaped(f"{woken.node_name} was sent a wake-up packet ({', '.join(woken.mac_addresses)})"))


def node_row(node: Node) -> tuple[str, ...]:
    """One PC under `HEADINGS`; what is unknown is empty."""
    replica = next((one for one in node.replicas if one.report.model == node.assigned_model), None)
    gpus = ", ".join(gpu.name for gpu in node.hardware.gpus)
    return (
        node.name,
        node.state,
        f"{node.score.score:.1f}",
        node.assigned_model or "none fits",
        "" if replica is None else replica_words(replica),
        "" if replica is None else f"{replica.slots_busy}/{replica.report.slots}",
        speed(node, replica),
        size(node.ram_available_bytes),
        ", ".join(warm_words(one) for one in node.replicas if one.report.keep_alive_s is not None),
        gpus or node.hardware.cpu_model or node.hardware.arch,
        node.courtesy.words,
    )


def warm_words(replica: Replica) -> str:
    """`demo-small ready, stays 5 min 00 s`: after its last use, unless its memory is needed."""
    stays_s = replica.report.keep_alive_s or 0.0
    return f"{replica.report.model} {replica_words(replica)}, stays {duration(stays_s)}"


def replica_words(replica: Replica) -> str:
    """`loading 40 %`, `ready`, `ready, degraded`."""
    progress = replica.report.progress
    if replica.report.degraded:
        return f"{replica.report.state}, degraded"
    if progress is None or progress >= 1:
        return replica.report.state
    return f"{replica.report.state} {progress:.0%}"


def speed(node: Node, replica: Replica | None) -> str:
    """Measured tokens/s, or the prediction behind a `~`."""
    if replica is not None and replica.decode_tokens_per_s is not None:
        return f"{replica.decode_tokens_per_s:.0f}"
    predicted = node.score.decode_tokens_per_s
    return "" if predicted is None else f"~{predicted:.0f}"
