"""`chorus keys`: who may use this cluster."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import print_table
from chorus_proto.clock import SystemClock
from chorus_proto.generation import ThoughtField
from chorus_proto.keys import ApiKey, NewKey, Scope
from chorus_proto.logs import escaped

HEADINGS = ("ID", "NAME", "OWNER", "SCOPES", "STATE", "MADE", "LAST USED", "TOKENS TODAY", "LIMITS")
DAY_S = 86_400.0


@click.group("keys")
def command() -> None:
    """Make, list and revoke API keys."""


@command.command("create")
@click.argument("name")
@click.option(
    "--scopes",
    default=Scope.INFER.value,
    show_default=True,
    metavar="SCOPE,...",
    help=f"What it allows, of {', '.join(Scope)}; admin is everything.",
)
@click.option("--owner", default="", help="Whose key it is; keys of one owner share one fair share. [default: NAME]")
@click.option("--expires-in-days", type=float, help="It ends after this many days. [default: never]")
@click.option("--requests-per-minute", type=int, help="Instead of the HTTP address's setting.")
@click.option("--parallel", type=int, help="Requests at once, instead of the HTTP address's setting.")
@click.option("--tokens-per-day", type=int, help="Most tokens, read and written. [default: no limit]")
@click.option("--trusted", is_flag=True, help="Its bearer, such as Open WebUI, may say for which user it asks.")
@click.option(
    "--thought-field",
    type=click.Choice(list(ThoughtField)),
    help="Where its bearer's client looks for thoughts in OpenAI's chat. [default: both]",
)
@click.option("--json", "as_json", is_flag=True, help="Print all facts and the key, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def create(
    name: str,
    scopes: str,
    owner: str,
    expires_in_days: float | None,
    requests_per_minute: int | None,
    parallel: int | None,
    tokens_per_day: int | None,
    trusted: bool,
    thought_field: ThoughtField | None,
    as_json: bool,
    config: Path | None,
    **flags: object,
) -> None:
    """Make a key called NAME and print it, this one time."""
    wish = NewKey(
        name=name,
        scopes=checked_scopes(scopes),
        owner=owner,
        expires_in_s=None if expires_in_days is None else expires_in_days * DAY_S,
        requests_per_minute=requests_per_minute,
        parallel=parallel,
        tokens_per_day=tokens_per_day,
        trusted=trusted,
        thought_field=thought_field,
    )
    made = asked(lambda cluster, _settings: cluster.create_key(wish), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode({"key": made.text, **key_fields(made.key)}).decode())
        return
    print(made.text)
    print(
        f"key {made.key.key_id} made; it is shown this once. Callers send it as 'Authorization: Bearer KEY'.",
        file=sys.stderr,
    )


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@click.option("--all", "revoked_too", is_flag=True, help="Revoked and expired keys too.")
@settings_options(CliSettings, only=GIVEN)
def list_keys(as_json: bool, revoked_too: bool, config: Path | None, **flags: object) -> None:
    """Show the keys, without their secrets."""
    now = SystemClock().unix_s()
    found = asked(lambda cluster, _settings: cluster.list_keys(), config=config, flags=flags)
    keys = [key for key in found if revoked_too or key.is_live(now)]
    if as_json:
        print(msgspec.json.encode([key_fields(key) for key in keys]).decode())
    elif not keys:
        print("there is no API key; make one: chorus keys create NAME")
    else:
        print_table(HEADINGS, [key_row(key, now) for key in keys])


@command.command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as one JSON object a line.")
@settings_options(CliSettings, only=GIVEN)
def revoke(names: tuple[str, ...], as_json: bool, config: Path | None, **flags: object) -> None:
    """End keys, by name or id, and what runs for them."""
    for name in names:
        key = asked(lambda cluster, _settings, name=name: cluster.revoke_key(name), config=config, flags=flags)
        shown = msgspec.json.encode(key_fields(key)).decode()
        print(shown if as_json else escaped(f"key {key.key_id} ({key.name}) is revoked"))


def checked_scopes(text: str) -> tuple[Scope, ...]:
    """`infer,chat` in the order of `Scope`, each once. Raises BadParameter."""
    words = {word.strip().lower() for word in text.split(",")} - {""}
    unknown = words - {scope.value for scope in Scope}
    if unknown or not words:
        raise click.BadParameter(f"scopes are {', '.join(Scope)}, with commas; not {text!r}", param_hint="--scopes")
    return tuple(scope for scope in Scope if scope.value in words)


def key_fields(key: ApiKey) -> dict[str, object]:
    """Of `--json`."""
    return {name: getattr(key, name) for name in ApiKey.__dataclass_fields__}


def key_row(key: ApiKey, now_unix_s: float) -> Sequence[str]:
    """One key under `HEADINGS`."""
    limits = (
        (key.requests_per_minute, "requests/min"),
        (key.parallel, "at once"),
        (key.tokens_per_day, "tokens/day"),
    )
    return (
        key.key_id,
        key.name,
        key.owner,
        ", ".join(key.scopes) + (" (trusted)" if key.trusted else ""),
        state_words(key, now_unix_s),
        _day(key.created_unix_s),
        "never" if key.last_used_unix_s is None else _day(key.last_used_unix_s),
        str(key.tokens_today),
        ", ".join(f"{limit} {unit}" for limit, unit in limits if limit is not None),
    )


def state_words(key: ApiKey, now_unix_s: float) -> str:
    """`live`, `live until 2031-01-05`, `expired 2031-01-05`, `revoked 2030-12-24`."""
    if key.revoked_unix_s is not None:
        return f"revoked {_day(key.revoked_unix_s)}"
    if key.expires_unix_s is None:
        return "live"
    return f"{'live until' if key.is_live(now_unix_s) else 'expired'} {_day(key.expires_unix_s)}"


def _day(unix_s: float) -> str:
    """In this PC's time zone."""
    return datetime.datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M")
