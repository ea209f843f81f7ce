"""`chorus config`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from chorus_cli.options import effective_with_origins, settings_options
from chorus_cli.settings import FAMILY
from chorus_cli.tables import print_table


@click.group("config", no_args_is_help=True)
def command() -> None:
    """Show the settings in force and where each came from."""


@command.command("show")
@settings_options(*FAMILY.values())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(config: Path | None, as_json: bool, **flags: object) -> None:
    """Print every setting of every process: value and origin (default, file, environment or flag)."""
    rows: list[tuple[str, str, str, str]] = []
    warnings: dict[str, None] = {}
    for section, kind in FAMILY.items():
        loaded = effective_with_origins(kind, section, config=config, flags=flags)
        rows += [(section, *row) for row in loaded.rows()]
        warnings |= dict.fromkeys(loaded.warnings)
    if as_json:
        shown = [dict(zip(("section", "name", "value", "origin"), row, strict=True)) for row in rows]
        print(msgspec.json.encode(shown).decode())
    else:
        print_table(("SECTION", "SETTING", "VALUE", "ORIGIN"), rows)
    for line in warnings:
        click.echo(f"chorus: warning: {line}", err=True)
