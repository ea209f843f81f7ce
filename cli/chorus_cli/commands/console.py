"""`chorus console`: ask the PCs of a running cluster from this terminal, or from a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto.values import AggregateStrategy, NodeState
from chorus_server.console import Console, run_terminal


@click.command("console")
@click.option(
    "--strategy",
    type=click.Choice([one.value for one in AggregateStrategy]),
    default=AggregateStrategy.FIRST.value,
    show_default=True,
    help="How several answers become one, at first.",
)
@settings_options(CliSettings, only=(*GIVEN, "ask_within_s"))
def command(strategy: str, config: Path | None, **flags: object) -> None:
    """Ask all PCs from this terminal; `help` there lists what else it knows."""

    async def conversation(cluster: GrpcCluster, settings: CliSettings) -> None:
        state = await cluster.state()
        if sys.stdin.isatty():
            alive = sum(node.state is NodeState.ALIVE for node in state.nodes)
            print(f"Chorus {state.version} at {settings.coordinator}, PCs alive: {alive}; try help, leave with quit")
        await run_terminal(
            lambda read_line, write, screen: Console(
                cluster,
                read_line,
                write,
                screen=screen,
                strategy=AggregateStrategy(strategy),
                within_s=settings.ask_within_s,
            )
        )

    asked(conversation, config=config, flags=flags)
