"""`chorus queue`: who waits for a slot, and who has one."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import duration, print_table
from chorus_proto.queue_state import QueueState

MODEL_HEADINGS = ("MODEL", "WAITING", "USERS", "RUNNING", "SLOTS", "NEXT WAITS")
WAITING_HEADINGS = ("PLACE", "WAITED", "EXPECTED", "PRIORITY", "USER", "MODEL", "REQUEST")
RUNNING_HEADINGS = ("RUNS FOR", "PRIORITY", "USER", "MODEL", "NODE", "REQUEST")
_SHOWN = 50


@click.command("queue")
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print everything the coordinator knows of it, as JSON.")
def command(config: Path | None, as_json: bool, **flags: object) -> None:
    """Show who waits for a slot, in which place and for how long, and who has one."""
    state = asked(lambda cluster, _settings: cluster.queue_state(), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(state).decode())
        return
    print(f"{state.waiting_total} waiting (at most {state.limit}), {state.running_total} running")
    for headings, rows in (
        (MODEL_HEADINGS, model_rows(state)),
        (WAITING_HEADINGS, waiting_rows(state)),
        (RUNNING_HEADINGS, running_rows(state)),
    ):
        if rows:
            print()
            print_table(headings, rows[:_SHOWN])
            if len(rows) > _SHOWN:
                print(f"and {len(rows) - _SHOWN} more; --json shows them")


def model_rows(state: QueueState) -> list[tuple[str, ...]]:
    """One row a model under `MODEL_HEADINGS`."""
    return [
        (
            one.model,
            str(one.waiting),
            str(one.users),
            str(one.running),
            str(one.slots),
            _seconds(one.expected_wait_s),
        )
        for one in state.models
    ]


def waiting_rows(state: QueueState) -> list[tuple[str, ...]]:
    """One row a request under `WAITING_HEADINGS`, in the order in which they are likely to be served."""
    return [
        (
            f"{one.standing.position}/{one.standing.of}",
            _seconds(one.waited_s),
            _seconds(one.standing.expected_wait_s),
            f"{one.priority}, late" if one.late else one.priority,
            one.user or "-",
            one.model,
            one.request_id,
        )
        for one in state.waiting
    ]


def running_rows(state: QueueState) -> list[tuple[str, ...]]:
    """One row a request under `RUNNING_HEADINGS`."""
    return [
        (duration(one.running_s), one.priority, one.user or "-", one.model, one.node_name, one.request_id)
        for one in state.running
    ]


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
