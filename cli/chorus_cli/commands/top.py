"""`chorus top`: the fleet, live, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import msgspec

from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto.clock import SystemClock
from chorus_proto.values import ClusterState


@click.command("top")
@click.option(
    "--every-s", type=click.FloatRange(min=0.2), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--looks", type=click.IntRange(min=1), help="End after so many; by default never, in a pipe after one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a look, a line each.")
@settings_options(CliSettings, only=GIVEN)
def command(every_s: float, looks: int | None, as_json: bool, config: Path | None, **flags: object) -> None:
    """Watch the PCs, what they hold and what they do. Ctrl-C ends it."""
    most = looks if looks is not None or sys.stdout.isatty() else 1

    async def watch(cluster: GrpcCluster, _settings: CliSettings) -> None:
        if as_json:
            await _lines(cluster, every_s, most)
        else:
            await _drawn(cluster, every_s, most)

    asked(watch, config=config, flags=flags)


async def _lines(cluster: GrpcCluster, every_s: float, most: int | None) -> None:
    """Raises ClusterError when the coordinator is away."""
    shown = 0
    while True:
        state, queue = await asyncio.gather(cluster.state(), cluster.queue_state())
        print(msgspec.json.encode({"state": state, "queue": queue}).decode(), flush=True)
        shown += 1
        if shown == most:
            return
        await asyncio.sleep(every_s)


async def _drawn(cluster: GrpcCluster, every_s: float, most: int | None) -> None:
    """Raises ClusterError when the coordinator is away."""
    # rich takes its time to import, and --json needs none of it.
    from rich.console import Console
    from rich.live import Live

    from chorus_cli.fleet import Seen, picture

    clock = SystemClock()
    before: ClusterState | None = None
    looked_s, shown = 0.0, 0
    console = Console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal and most is None) as live:
        while True:
            state, queue = await asyncio.gather(cluster.state(), cluster.queue_state())
            now_s = clock.monotonic_s()
            live.update(picture(Seen(state, queue, before, now_s - looked_s), console.width), refresh=True)
            before, looked_s = state, now_s
            shown += 1
            if shown == most:
                return
            await asyncio.sleep(every_s)
