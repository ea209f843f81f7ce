"""`chorus join-token`: how other PCs come into an encrypted cluster."""

from __future__ import annotations

import datetime
from pathlib import Path

import click
import msgspec

from chorus_cli.address import lan_address
from chorus_cli.announce import join_command
from chorus_cli.membership import MembershipDesk
from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import print_table
from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto.exposure import is_loopback
from chorus_proto.membership import OpenToken

HEADINGS = ("ID", "FOR PCS", "MADE", "UNTIL")
HOUR_S = 3600.0


@click.group("join-token")
def command() -> None:
    """Make, list and revoke the tokens that admit PCs."""


@command.command("create")
@click.option("--expires-in-hours", type=float, default=1.0, show_default=True, help="It ends after so long; 720 most.")
@click.option("--uses", type=int, default=1, show_default=True, help="How many PCs may join with it.")
@click.option("--json", "as_json", is_flag=True, help="Print all facts and the token, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def create(expires_in_hours: float, uses: int, as_json: bool, config: Path | None, **flags: object) -> None:
    """Make a token and print, this one time, the command that each PC runs with it."""

    async def ask(cluster: GrpcCluster, settings: CliSettings) -> tuple[OpenToken, str, str]:
        desk = desk_of(cluster, settings)
        token, text = await desk.create_token(expires_in_s=expires_in_hours * HOUR_S, uses=uses)
        return token, text, hub_address(settings.coordinator)

    token, text, address = asked(ask, config=config, flags=flags)
    if as_json:
        fields = {"token": text, "join": address, "command": join_command(address, text), **token_fields(token)}
        print(msgspec.json.encode(fields).decode())
        return
    pcs = "one PC" if token.uses_left == 1 else f"each of {token.uses_left} PCs"
    print(f"run on {pcs}, until {clock_time(token.expires_unix_s)}:")
    print(f"  {join_command(address, text)}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def list_tokens(as_json: bool, config: Path | None, **flags: object) -> None:
    """Show the tokens that still admit somebody, without their secrets."""
    tokens = asked(lambda cluster, settings: desk_of(cluster, settings).tokens(), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode([token_fields(token) for token in tokens]).decode())
    elif not tokens:
        print("there is no join token; make one: chorus join-token create")
    else:
        print_table(
            HEADINGS,
            [
                (one.token_id, str(one.uses_left), clock_time(one.created_unix_s), clock_time(one.expires_unix_s))
                for one in tokens
            ],
        )


@command.command("revoke")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as one JSON object a line.")
@settings_options(CliSettings, only=GIVEN)
def revoke(ids: tuple[str, ...], as_json: bool, config: Path | None, **flags: object) -> None:
    """End tokens. Who has joined stays; see `chorus members revoke`."""
    for one in ids:
        token = asked(
            lambda cluster, settings, one=one: desk_of(cluster, settings).revoke_token(one), config=config, flags=flags
        )
        shown = msgspec.json.encode(token_fields(token)).decode()
        print(shown if as_json else f"join token {token.token_id} is revoked")


def desk_of(cluster: GrpcCluster, settings: CliSettings) -> MembershipDesk:
    return MembershipDesk(cluster, within_s=settings.answer_within_s)


def hub_address(coordinator: str) -> str:
    """HOST:PORT of the coordinator, as another PC must write it."""
    host, _, port = coordinator.rpartition(":")
    return f"{lan_address()}:{port}" if is_loopback(host) else coordinator


def token_fields(token: OpenToken) -> dict[str, object]:
    """Of `--json`."""
    return {name: getattr(token, name) for name in OpenToken.__dataclass_fields__}


def clock_time(unix_s: float) -> str:
    """In this PC's time zone."""
    return datetime.datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M")
