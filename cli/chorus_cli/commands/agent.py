"""`chorus agent`: this PC computes for a coordinator."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import click

from chorus_cli.address import checked_address
from chorus_cli.options import effective, ready_file_option, settings_options
from chorus_cli.process import first_of, logging_to, pid_file, run_until_stopped
from chorus_cli.ready_file import ReadyFile, ready_file
from chorus_cli.remote import dialled
from chorus_cli.settings import CliSettings
from chorus_cli.trust import known_authority
from chorus_client.app import agent_folder, agent_name, join_token, node_id, only_agent, run_agent
from chorus_client.joining import HUB_FILE, read_hub_file
from chorus_client.lifeline import PARENT_VARIABLE, tie_to_parent
from chorus_client.link import Refused
from chorus_client.settings import AgentSettings
from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto.clock import SystemClock
from chorus_proto.errors import ClusterError, Forbidden, InvalidApiKey
from chorus_proto.ids import NodeId
from chorus_proto.membership import node_bearer
from chorus_proto.settings import SettingsError
from chorus_proto.values import ClusterState, NodeState, ReplicaState

FIRST_LOOK_S = 0.1
LAST_LOOK_S = 5.0
TOKEN_CHARACTERS = 1000
"""More is none."""


@click.command("agent")
@ready_file_option
@click.option(
    "--join-token-file", type=click.File("r"), help="File with the token that admits this PC; - for the input."
)
@settings_options(AgentSettings)
@settings_options(CliSettings, only=("log_level", "answer_within_s"), config=False)
def command(config: Path | None, ready_file: Path | None, join_token_file: TextIO | None, **flags: object) -> None:
    """Let this PC compute for a coordinator."""
    is_child = PARENT_VARIABLE in os.environ
    tie_to_parent()
    settings = effective(AgentSettings, "agent", config=config, flags=flags)
    cli = effective(CliSettings, "cli", config=config, flags=flags, warn=False)
    checked_address(settings.join, "--join")
    if join_token_file is not None:
        settings = replace(settings, join_token=join_token_file.read(TOKEN_CHARACTERS).strip())
    join_token(settings)  # a wrong one is refused before anything starts
    name = agent_name(settings)
    # The agent that `up` runs is the one of this PC; others are told apart by their names.
    process = "agent" if is_child else f"agent-{name}"
    with logging_to(settings.state_dir, process, cli.log_level):
        run_until_stopped(lambda stop: run(settings, cli, process, ready_file, stop, is_child=is_child))


async def run(
    settings: AgentSettings, cli: CliSettings, process: str, ready: Path | None, stop: asyncio.Event, *, is_child: bool
) -> None:
    """Raises SettingsError, also when the coordinator refuses this agent for good."""
    name = agent_name(settings)
    with (
        only_agent(settings),  # first: one that is refused must leave the files of the one that runs alone
        nullcontext() if is_child else pid_file(settings.state_dir, process),
        ready_file(ready) as told,
    ):
        me = node_id(agent_folder(settings.state_dir, name))
        works: list[Awaitable[object]] = [run_agent(settings, stop, SystemClock())]
        if told.wanted or not is_child:
            print(f"this PC is {name}; joining the coordinator at {settings.join}", flush=True)
            works.append(_tell(told, me, settings, cli))
        try:
            await first_of(*works)
        except Refused as refusal:
            raise SettingsError(f"the coordinator at {settings.join} refused this PC: {refusal}") from None


async def _tell(told: ReadyFile, me: NodeId, settings: AgentSettings, cli: CliSettings) -> None:
    """Say so, on the terminal and in the ready file, once the coordinator itself counts on this node."""
    hub_file = agent_folder(settings.state_dir, agent_name(settings)) / HUB_FILE

    def bearer() -> str:
        kept = read_hub_file(hub_file)
        return "" if kept is None else node_bearer(me, kept.secret)

    def joining() -> bool:
        """Not let in yet: then being turned away is no news."""
        return not cli.api_key and known_authority(settings.join, cli) is not None

    cluster = dialled(settings.join, cli, bearer=bearer)
    try:
        pause_s = FIRST_LOOK_S
        while (words := await _ready_words(cluster, me, joining)) is None:
            # Asked more and more rarely: a hub away for a night must not be dialled ten times a second.
            await asyncio.sleep(pause_s)
            pause_s = min(LAST_LOOK_S, pause_s * 1.2)
    finally:
        await cluster.aclose()
    told.write({"join": settings.join, "node_id": me})
    print(words, flush=True)
    await asyncio.Event().wait()


async def _ready_words(cluster: GrpcCluster, me: NodeId, joining: Callable[[], bool]) -> str | None:
    try:
        return ready_words(await cluster.state(), me)
    except (InvalidApiKey, Forbidden):
        if joining():
            return None
        return "the coordinator tells how it goes only to those who show an API key: set CHORUS_API_KEY to see it here"
    except ClusterError:
        return None  # not there yet; the link logs why


def ready_words(state: ClusterState, me: NodeId) -> str | None:
    """What to tell people once the node is alive and holds the model that it should, if there is one for it."""
    for node in state.nodes:
        if node.node_id == me and node.state is NodeState.ALIVE:
            ready = {one.report.model for one in node.replicas if one.report.state is ReplicaState.READY}
            if node.assigned_model is None:
                return f"joined, score {node.score.score:.1f}. {node.assignment_reason}"
            if node.assigned_model in ready:
                return f"joined, score {node.score.score:.1f}; {node.assigned_model} is ready"
    return None
