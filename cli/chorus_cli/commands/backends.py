"""`chorus backends`: servers that speak OpenAI's API, as nodes without an agent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click
import msgspec

from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import print_table
from chorus_proto.backends import Backend, NewBackend
from chorus_proto.ids import ModelName
from chorus_proto.logs import escaped

HEADINGS = ("NAME", "STATE", "URL", "SLOTS", "PROBED", "MODELS", "DETAIL")


@click.group("backends", invoke_without_command=True)
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@click.pass_context
def command(ctx: click.Context, config: Path | None, as_json: bool, **flags: object) -> None:
    """Show the backends and how they do; register and unregister them."""
    if ctx.invoked_subcommand is not None:
        return
    backends = asked(lambda cluster, _settings: cluster.backends(), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(backends).decode())
    elif not backends:
        print("there is no backend; make one: chorus backends register NAME http://HOST:PORT")
    else:
        print_table(HEADINGS, [backend_row(backend) for backend in backends])


@command.command("register")
@click.argument("name")
@click.argument("url")
@click.option("--models", default="", metavar="NAME,...", help="What it is to be known for. [default: all it lists]")
@click.option("--slots", type=int, help="Generations at once, instead of the coordinator's setting.")
@click.option("--weight", type=float, help="As if it were so many times as fast, 0.01-100. [default: node_weights's]")
@click.option("--api-key-file", type=click.File("r"), help="File with the API key that it asks for; - for the input.")
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def register(
    name: str,
    url: str,
    models: str,
    slots: int | None,
    weight: float | None,
    api_key_file: TextIO | None,
    as_json: bool,
    config: Path | None,
    **flags: object,
) -> None:
    """Make a node called NAME of the server at URL."""
    wish = NewBackend(
        name=name,
        url=url,
        models=tuple(ModelName(model) for word in models.split(",") if (model := word.strip())),
        slots=slots,
        weight=weight,
        api_key="" if api_key_file is None else api_key_file.read().strip(),
    )
    backend = asked(lambda cluster, _settings: cluster.register_backend(wish), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(backend).decode())
    else:
        print(escaped(f"backend {backend.name} is registered; see how it does with: chorus backends"))


@command.command("unregister")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def unregister(name: str, as_json: bool, config: Path | None, **flags: object) -> None:
    """Let the backend NAME finish what it computes, and forget it."""
    backend = asked(lambda cluster, _settings: cluster.unregister_backend(name), config=config, flags=flags)
    print(msgspec.json.encode(backend).decode() if as_json else escaped(f"backend {backend.name} is forgotten"))


def backend_row(backend: Backend) -> Sequence[str]:
    """One backend under `HEADINGS`."""
    health = backend.health
    return (
        backend.name,
        health.state,
        backend.url,
        "" if backend.slots is None else str(backend.slots),
        "" if health.probe_age_s is None else f"{health.probe_age_s:.0f} s ago",
        ", ".join(health.models),
        health.detail,
    )
