"""`chorus models`, and how models come onto the disks of PCs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

import click
import msgspec

from chorus_cli.completion import complete_models, complete_nodes
from chorus_cli.loading import Loading, outcome
from chorus_cli.memory import HEADINGS as MEMORY_HEADINGS
from chorus_cli.memory import memory_cells, memory_rows
from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import count, print_table
from chorus_cli.transfers import HEADINGS as TRANSFER_HEADINGS
from chorus_cli.transfers import Bar, Lines, fields, followed, rows, sentence
from chorus_http.grpc_cluster import GrpcCluster
from chorus_http.model_control import ModelControl
from chorus_http.model_status import ModelStatus
from chorus_http.state import StateReader
from chorus_proto.clock import SystemClock
from chorus_proto.errors import error_of
from chorus_proto.ids import NodeId
from chorus_proto.logs import escaped
from chorus_proto.transfers import Transfer
from chorus_proto.values import ClusterState, ModelSummary
from chorus_server.console.text import size

HEADINGS = ("NAME", "TIER", "PARAMETERS", "SIZE", "READY ON", "ON DISK AT")


def _following(function: Callable[..., None]) -> Callable[..., None]:
    """The options of everything that begins a transfer."""
    options = (
        settings_options(CliSettings, only=(*GIVEN, "ask_within_s")),
        click.option("--json", "as_json", is_flag=True, help="Print how it ended, as JSON."),
        click.option("--wait/--no-wait", default=True, help="Follow it to its end, or only begin it."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group("models", invoke_without_command=True)
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@click.option("--memory", is_flag=True, help="Show what each one takes on each PC: predicted, corrected, measured.")
@click.pass_context
def command(ctx: click.Context, config: Path | None, as_json: bool, memory: bool, **flags: object) -> None:
    """Show the models and where they are; bring more onto the PCs' disks."""
    if ctx.invoked_subcommand is not None:
        return
    state = asked(lambda cluster, _settings: cluster.state(), config=config, flags=flags)
    if memory:
        _print_memory(state, as_json=as_json)
    elif as_json:
        print(msgspec.json.encode(state.models).decode())
    elif not state.models:
        print("no model is known; PCs bring theirs when they join: chorus agent --join HOST:PORT")
    else:
        print_table(HEADINGS, model_rows(state))


@command.command("pull")
@click.argument("source", metavar="NAME|URL")
@click.option("--node", default="", help="PC that gets it, by name or id; by default the ablest one.")
@click.option("--sha256", default="", help="What the file's SHA-256 must be, 64 hexadecimal digits.")
@_following
def pull(source: str, node: str, sha256: str, config: Path | None, as_json: bool, wait: bool, **flags: object) -> None:
    """Bring a model from an Ollama registry (llama3.2:3b, hf.co/ORG/REPO:TAG) or from the URL of a .gguf file.

    It comes from another PC when one has it already.
    """
    _bring(
        lambda cluster: cluster.pull_model(source, node=node, sha256=sha256),
        config=config,
        flags=flags,
        as_json=as_json,
        wait=wait,
    )


@command.command("copy")
@click.argument("model")
@click.option("--node", required=True, help="PC that gets it, by name or id.")
@_following
def copy(model: str, node: str, config: Path | None, as_json: bool, wait: bool, **flags: object) -> None:
    """Bring MODEL from a PC that has it onto the disk of another one."""
    _bring(lambda cluster: cluster.copy_model(model, to=node), config=config, flags=flags, as_json=as_json, wait=wait)


@command.command("transfers")
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
def transfers(config: Path | None, as_json: bool, **flags: object) -> None:
    """Show the models that are on their way, and the last ones that arrived or did not."""
    found = asked(lambda cluster, _settings: cluster.transfers(), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode([fields(one) for one in found]).decode())
    elif not found:
        print("no model is on its way; bring one with: chorus models pull NAME")
    else:
        print_table(TRANSFER_HEADINGS, rows(found))


@command.command("cancel")
@click.argument("transfer_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def cancel(transfer_id: str, as_json: bool, config: Path | None, **flags: object) -> None:
    """Stop the transfer ID; what has come is kept for another try."""
    found = asked(lambda cluster, _settings: cluster.cancel_transfer(transfer_id), config=config, flags=flags)
    print(msgspec.json.encode(fields(found)).decode() if as_json else escaped(sentence(found)))


@command.command("load")
@click.argument("model", shell_complete=complete_models)
@click.option("--node", shell_complete=complete_nodes, help="PC that loads it; by default where it comes soonest.")
@click.option("--keep-alive-s", type=click.FloatRange(min=0), help="How long it stays without a use, in seconds.")
@_following
def load(
    model: str,
    node: str | None,
    keep_alive_s: float | None,
    config: Path | None,
    as_json: bool,
    wait: bool,
    **flags: object,
) -> None:
    """Load MODEL into memory, so that its first request need not wait."""

    async def question(cluster: GrpcCluster, settings: CliSettings) -> ModelStatus:
        control = _control(cluster, settings)
        order = await control.load(model, node=node, keep_alive_s=keep_alive_s)
        status = await control.status(order.model)
        if wait:
            with Loading() as shown:
                async for status in control.watch(order):
                    shown.show(status)
        if status.error is not None:
            raise error_of(status.error.code, status.error.message or "The load failed.")
        return status

    _print_status(asked(question, config=config, flags=flags), as_json=as_json)


@command.command("unload")
@click.argument("model", shell_complete=complete_models)
@click.option("--node", shell_complete=complete_nodes, help="Only on this PC; by default on all.")
@_following
def unload(model: str, node: str | None, config: Path | None, as_json: bool, wait: bool, **flags: object) -> None:
    """Free the memory of MODEL once its answers have ended; its file stays on the disk."""

    async def question(cluster: GrpcCluster, settings: CliSettings) -> ModelStatus:
        control = _control(cluster, settings)
        order = await control.unload(model, node=node)
        status = await control.status(order.model)
        if wait and node is None:
            with Loading() as shown:
                async for status in control.progress(order.model):
                    shown.show(status)
        return status

    _print_status(asked(question, config=config, flags=flags), as_json=as_json)


@command.command("delete")
@click.argument("model", shell_complete=complete_models)
@click.option("--json", "as_json", is_flag=True, help="Print the PCs that were told, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def delete(model: str, as_json: bool, config: Path | None, **flags: object) -> None:
    """Delete the files of MODEL that were pulled or copied; those of the PCs' owners stay."""
    order = asked(lambda cluster, settings: _control(cluster, settings).delete(model), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(order).decode())
        return
    there = ", ".join(sorted(one.node_name for one in order.nodes))
    print(escaped(f"{order.model} is deleted{f' on {there}' if there else ''}"))


def _control(cluster: GrpcCluster, settings: CliSettings) -> ModelControl:
    return ModelControl(
        cluster,
        StateReader(cluster, within_s=settings.answer_within_s),
        answer_within_s=settings.answer_within_s,
        load_within_s=settings.ask_within_s,
    )


def _print_status(status: ModelStatus, *, as_json: bool) -> None:
    print(msgspec.json.encode(status).decode() if as_json else escaped(outcome(status)))


def _bring(
    begin: Callable[[GrpcCluster], Awaitable[Transfer]],
    *,
    config: Path | None,
    flags: dict[str, object],
    as_json: bool,
    wait: bool,
) -> None:
    """Begin it and, unless told otherwise, follow it to its end. A failure is one line and exit code 1."""

    async def question(cluster: GrpcCluster, _settings: CliSettings) -> Transfer:
        begun = await begin(cluster)
        if not wait:
            return begun
        try:
            if sys.stderr.isatty():
                with Bar() as bar:
                    return await followed(cluster, begun, bar)
            return await followed(cluster, begun, Lines(SystemClock().monotonic_s))
        except asyncio.CancelledError:
            # Control-C ends the watching, not the work of others.
            print(
                escaped(f"it goes on without you; stop it with: chorus models cancel {begun.transfer_id}"),
                file=sys.stderr,
            )
            raise

    found = asked(question, config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(fields(found)).decode())
    else:
        print(escaped(sentence(found)))


def _print_memory(state: ClusterState, *, as_json: bool) -> None:
    rows = memory_rows(state)
    if as_json:
        print(msgspec.json.encode(rows).decode())
    elif not rows:
        print("no model has been loaded on any PC yet")
    else:
        print_table(MEMORY_HEADINGS, [memory_cells(row) for row in rows])


def model_rows(state: ClusterState) -> list[tuple[str, ...]]:
    """One row a model under `HEADINGS`."""
    names = {node.node_id: node.name for node in state.nodes}
    return [_row(model, names) for model in state.models]


def _row(model: ModelSummary, names: Mapping[NodeId, str]) -> tuple[str, ...]:
    return (
        model.name,
        "embedding" if model.embedding else model.tier or "",
        count(model.parameters),
        size(model.file_bytes or None),
        _listed(model.ready_on, names),
        _listed(model.on_disk_at, names),
    )


def _listed(nodes: Iterable[NodeId], names: Mapping[NodeId, str]) -> str:
    return ", ".join(sorted(names.get(node, node) for node in nodes)) or "-"
