"""`chorus server`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from chorus_cli.hub_servers import SERVERS_FILE
from chorus_cli.options import FILE, effective, settings_options
from chorus_cli.tables import duration, print_table
from chorus_client.local_servers.config import ServersConfig, load
from chorus_client.local_servers.plan import planned
from chorus_client.local_servers.preflight import Preflight, device_of
from chorus_client.local_servers.runtime import LocalServers, Owner, ServerStatus, State, Stopped
from chorus_client.settings import AgentSettings
from chorus_proto.errors import ClusterError
from chorus_proto.settings import SettingsError
from chorus_server.console.text import size

HEADINGS = ("NAME", "PORT", "STATUS", "MODEL")

T = TypeVar("T")


class _Chosen:
    """What the group's options say: the file, and the folders that belong to it."""

    def __init__(self, config: Path | None, settings: AgentSettings) -> None:
        self.file = config or settings.state_dir.expanduser() / SERVERS_FILE
        self.settings = settings
        self.config: ServersConfig = load(self.file)
        self.servers = LocalServers(self.config, settings.state_dir, models_dirs=settings.models_dirs)

    def name(self, given: str | None) -> str:
        """The server meant; the default one when none is named. Raises SettingsError."""
        return self.config.get_active_server().name if given is None else self.config.get_server_by_name(given).name


_as_json = click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")


@click.group("server", no_args_is_help=True)
@click.option(
    "--config", type=FILE, metavar="FILE", help=f"JSON file of the servers. [default: STATE_DIR/{SERVERS_FILE}]"
)
@settings_options(AgentSettings, only=("state_dir", "models_dirs"), config=False)
@click.pass_context
def command(context: click.Context, config: Path | None, **flags: object) -> None:
    """Start, stop and switch between the llama-servers of this PC."""
    context.obj = (config, flags)


def _chosen() -> _Chosen:
    """Raises SettingsError. Read when a subcommand runs, so that its --help needs no file."""
    config, flags = click.get_current_context().obj
    return _Chosen(config, effective(AgentSettings, "agent", config=None, flags=flags, warn=False))


def _told(question: Awaitable[T]) -> T:
    """Raises ClickException (exit code 1) with the words of a refusal."""

    async def inside() -> T:
        return await question

    try:
        return asyncio.run(inside())
    except ClusterError as error:
        raise click.ClickException(error.message) from None


@command.command("list")
@_as_json
def list_(as_json: bool) -> None:
    """Show all servers and whether they run."""
    rows = _told(_chosen().servers.statuses())
    if as_json:
        print(msgspec.json.encode(rows).decode())
    else:
        print_table(HEADINGS, [(one.name, str(one.port), one.state, one.model) for one in rows])


@command.command()
@click.argument("name", required=False)
@_as_json
def status(name: str | None, as_json: bool) -> None:
    """Show one server, or all of them, with memory and CPU."""
    chosen = _chosen()
    rows = _told(chosen.servers.statuses()) if name is None else [_told(chosen.servers.status(name))]
    if as_json:
        print(msgspec.json.encode(rows if name is None else rows[0]).decode())
        return
    for index, one in enumerate(rows):
        if index:
            print()
        for heading, value in _facts(one):
            print(f"{heading:<12}{value}")


def _facts(one: ServerStatus) -> list[tuple[str, str]]:
    """What is known of one server, in words."""
    owners = {Owner.CHORUS: "chorus server start", Owner.AGENT: "the agent", Owner.STRANGER: "somebody else"}
    lines = [
        ("Server", f"{one.name} (default)" if one.default else one.name),
        ("Status", one.state),
        ("Address", f"{one.host}:{one.port}"),
        ("Model", one.model),
    ]
    if one.owner is not None:
        lines.append(("Started by", owners[one.owner]))
    if one.pid is not None:
        cpu = "" if one.cpu_percent is None else f", CPU {one.cpu_percent:.0f} % of one core"
        lines.append(("Process", f"{one.pid}, memory {size(one.memory_bytes)}{cpu}"))
    if one.uptime_s is not None:
        lines.append(("Up", f"{duration(one.uptime_s)}, {one.restarts} restarts"))
    if one.detail:
        lines.append(("Note", one.detail))
    return lines


@command.command()
@click.argument("name", required=False)
@click.option("--force", "-f", is_flag=True, help="Start without asking, whatever runs and whatever is free.")
@_as_json
def start(name: str | None, force: bool, as_json: bool) -> None:
    """Start a server (the default one when none is named) and wait until it answers."""
    chosen = _chosen()
    name = chosen.name(name)
    before = _told(chosen.servers.status(name))
    if before.state is State.STOPPED and not _may_start(chosen, name, force):
        click.echo(f"{name} was not started", err=True)
        click.get_current_context().exit(1)
    after = _told(chosen.servers.start(name))
    if as_json:
        print(msgspec.json.encode(after).decode())
    elif after.owner is Owner.STRANGER:
        print(f"{name} already runs on port {after.port}: {after.detail}; it is used as it is")
    elif before.state is State.RUNNING:
        print(f"{name} already runs on port {after.port}")
    else:
        print(f"{name} runs on port {after.port}: {after.model}, process {after.pid}, {size(after.memory_bytes)}")


def _may_start(chosen: _Chosen, name: str, force: bool) -> bool:
    """Say what the start will take, and ask when that is somebody's decision. Raises SettingsError when nobody is
    there to answer."""
    preflight = _told(_preflight(chosen, name))
    if force or not preflight.asks:
        click.echo(preflight.arithmetic(), err=True)
        return True
    click.echo(preflight.warning(encoding=sys.stderr.encoding), err=True)
    if not sys.stdin.isatty():
        raise SettingsError(
            f"'{name}' was not started, because nobody can be asked here; add --force to start it anyway"
        )
    return click.confirm(preflight.question, default=False, err=True)


async def _preflight(chosen: _Chosen, name: str) -> Preflight:
    plan = planned(chosen.config, chosen.config.get_server_by_name(name), chosen.settings.models_dirs)
    others = [one for one in await chosen.servers.statuses() if one.runs and one.name != name]
    device = await device_of(plan)
    return Preflight(name=name, running=others, needs=plan.needs(device.kind), free_bytes=device.free_bytes)


@command.command()
@click.argument("name", required=False)
@_as_json
def stop(name: str | None, as_json: bool) -> None:
    """Stop a server (the default one when none is named) that Chorus started."""
    chosen = _chosen()
    name = chosen.name(name)
    now = _told(chosen.servers.status(name))
    outcome = _told(chosen.servers.stop(name))
    if as_json:
        print(msgspec.json.encode({"name": name, "outcome": outcome}).decode())
    elif outcome is Stopped.STOPPED:
        print(f"{name} is stopped")
    elif outcome is Stopped.WAS_NOT_RUNNING:
        print(f"{name} was not running")
    if outcome is Stopped.NOT_OURS:
        raise click.ClickException(f"{name} was left alone: {now.detail}")
    if outcome is Stopped.IN_AGENT:
        raise click.ClickException(f"{name} belongs to the agent of this PC and ends with it; stop the agent instead")


@command.command()
@click.argument("name")
@_as_json
def switch(name: str, as_json: bool) -> None:
    """Make a server the default: OpenAI clients that read the file, and the agent, go there with new requests."""
    chosen = _chosen()
    saved = chosen.config.update_default_server(name)
    now = _told(LocalServers(saved, chosen.settings.state_dir).status(name))
    if as_json:
        print(msgspec.json.encode({"default": name, "api_base_url": saved.endpoint.api_base_url}).decode())
        return
    print(f"the default server is now {name}, at {saved.endpoint.api_base_url}")
    if not now.runs:
        print(f"it does not run; start it with: chorus server start {name}")
