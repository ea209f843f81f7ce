"""`chorus members`: which PCs may compute for an encrypted cluster."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from chorus_cli.commands.join_token import clock_time, desk_of
from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import print_table
from chorus_proto.logs import escaped
from chorus_proto.membership import Member

HEADINGS = ("NAME", "NODE ID", "STATE", "JOINED", "FROM", "BY TOKEN")


@click.group("members", invoke_without_command=True)
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@click.pass_context
def command(ctx: click.Context, config: Path | None, as_json: bool, **flags: object) -> None:
    """Show the PCs that joined with a token; cut one off."""
    if ctx.invoked_subcommand is not None:
        return
    members = asked(lambda cluster, settings: desk_of(cluster, settings).members(), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode([member_fields(member) for member in members]).decode())
    elif not members:
        print("no PC has joined with a token; make one: chorus join-token create")
    else:
        print_table(HEADINGS, [member_row(member) for member in members])


@command.command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as one JSON object a line.")
@settings_options(CliSettings, only=GIVEN)
def revoke(names: tuple[str, ...], as_json: bool, config: Path | None, **flags: object) -> None:
    """Cut PCs off, by name or node id, at once and until they join again with a new token."""
    for name in names:
        member = asked(
            lambda cluster, settings, name=name: desk_of(cluster, settings).revoke_member(name),
            config=config,
            flags=flags,
        )
        shown = msgspec.json.encode(member_fields(member)).decode()
        print(shown if as_json else escaped(f"{member.name} ({member.node_id}) is no member any more"))


def member_fields(member: Member) -> dict[str, object]:
    """Of `--json`."""
    return {name: getattr(member, name) for name in Member.__dataclass_fields__}


def member_row(member: Member) -> tuple[str, ...]:
    """One member under `HEADINGS`."""
    revoked = member.revoked_unix_s
    return (
        member.name,
        member.node_id,
        "member" if revoked is None else f"revoked {clock_time(revoked)}",
        clock_time(member.joined_unix_s),
        member.address,
        member.token_id,
    )
