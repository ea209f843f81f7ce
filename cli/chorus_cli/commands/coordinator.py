"""`chorus coordinator`: the brain alone, with its console on the terminal."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from chorus_cli.address import join_address
from chorus_cli.announce import Addresses, credential_lines, join_lines, print_registrations
from chorus_cli.backends import backend_nodes
from chorus_cli.opening import with_credentials
from chorus_cli.options import effective, ready_file_option, settings_options
from chorus_cli.process import ask_to_stop, first_of, logging_to, pid_file, run_until_stopped
from chorus_cli.ready_file import ready_file
from chorus_cli.settings import CliSettings
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import Cluster
from chorus_proto.exposure import needs_keys
from chorus_server.app import running
from chorus_server.console import Console, Ended, run_terminal
from chorus_server.settings import CoordinatorSettings


@click.command("coordinator")
@ready_file_option
@settings_options(CoordinatorSettings)
@settings_options(CliSettings, only=("log_level", "console"), config=False)
def command(config: Path | None, ready_file: Path | None, **flags: object) -> None:
    """Start the coordinator alone; agents and wrappers dial it."""
    settings = effective(CoordinatorSettings, "coordinator", config=config, flags=flags)
    cli = effective(CliSettings, "cli", config=config, flags=flags, warn=False)
    console = sys.stdin.isatty() if cli.console is None else cli.console
    with logging_to(settings.state_dir, "coordinator", cli.log_level):
        run_until_stopped(lambda stop: run(settings, ready_file, stop, console=console))


async def run(settings: CoordinatorSettings, ready: Path | None, stop: asyncio.Event, *, console: bool) -> None:
    """Raises SettingsError."""
    clock = SystemClock()
    async with running(settings, clock) as hub, backend_nodes(hub, settings, clock):
        print_registrations(hub.coordinator.events)
        with pid_file(settings.state_dir, "coordinator"), ready_file(ready) as told:
            join = join_address(settings.host, hub.grpc_address)
            told.write({"grpc_address": hub.grpc_address, "join": join})
            keys = needs_keys(settings.host, insecure=settings.insecure, require_keys=settings.require_keys)
            at = Addresses(host=settings.host, grpc=hub.grpc_address, http="")
            at = await with_credentials(at, hub, settings.state_dir, keys_required=keys)
            print("coordinator ready", *credential_lines(at), *join_lines(at), sep="\n", flush=True)
            if console:
                await first_of(stop.wait(), terminal(hub.coordinator, stop))
            else:
                await stop.wait()


async def terminal(cluster: Cluster, stop: asyncio.Event) -> None:
    """Take prompts until `quit`, which ends the process; the end of the input (Ctrl+D) ends only the console."""
    ended = await run_terminal(
        lambda read_line, write, screen: Console(cluster, read_line, write, screen=screen),
        on_interrupt=lambda: ask_to_stop(stop),
    )
    if ended is Ended.END_OF_INPUT:
        await stop.wait()
