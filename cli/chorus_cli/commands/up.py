"""`chorus up`: the whole of Chorus on this PC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from chorus_cli.announce import Addresses, joining_at, print_registrations, ready_lines
from chorus_cli.backends import backend_nodes
from chorus_cli.commands.coordinator import terminal
from chorus_cli.commands.http import asks_for_keys, listening
from chorus_cli.hub_servers import HubServers
from chorus_cli.local_agent import LocalAgent
from chorus_cli.opening import with_credentials
from chorus_cli.options import as_flags, effective, ready_file_option, settings_options
from chorus_cli.process import first_of, logging_to, pid_file, run_until_stopped
from chorus_cli.ready_file import ReadyFile, ready_file
from chorus_cli.settings import CliSettings
from chorus_client.settings import AgentSettings
from chorus_http.settings import HttpSettings
from chorus_proto import __version__
from chorus_proto.clock import SystemClock
from chorus_proto.ids import ModelName
from chorus_proto.settings import SettingsError
from chorus_proto.values import ClusterState
from chorus_server.app import RunningCoordinator, running
from chorus_server.events import Event
from chorus_server.settings import CoordinatorSettings

log = logging.getLogger(__name__)

OWN = ("log_level", "ready_within_s", "agent", "console")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that the command line, the environment and the file say about this hub."""

    coordinator: CoordinatorSettings
    http: HttpSettings
    cli: CliSettings
    agent_arguments: tuple[str, ...]
    servers: HubServers
    """Of this PC, for the web page."""


@click.command("up")
@ready_file_option
@settings_options(CoordinatorSettings, HttpSettings, AgentSettings, leave_out=("join",))
@settings_options(CliSettings, only=OWN, config=False)
def command(config: Path | None, ready_file: Path | None, **flags: object) -> None:
    """Start everything on this PC: coordinator, HTTP address and one agent."""
    plan = Plan(
        coordinator=effective(CoordinatorSettings, "coordinator", config=config, flags=flags),
        http=effective(HttpSettings, "http", config=config, flags=flags, warn=False),
        cli=effective(CliSettings, "cli", config=config, flags=flags, warn=False),
        agent_arguments=agent_arguments(config, flags),
        servers=hub_servers(effective(AgentSettings, "agent", config=config, flags=flags, warn=False)),
    )
    with logging_to(plan.coordinator.state_dir, "up", plan.cli.log_level):
        run_until_stopped(lambda stop: run(plan, ready_file, stop))


def hub_servers(agent: AgentSettings) -> HubServers:
    """The servers that this PC's agent would start, else those of `chorus server`."""
    return HubServers.in_folder(agent.state_dir, file=agent.servers_file, models_dirs=agent.models_dirs)


def agent_arguments(config: Path | None, flags: dict[str, object]) -> tuple[str, ...]:
    """The flags that the agent of this PC gets beside --join. Raises SettingsError when they are wrong."""
    effective(AgentSettings, "agent", config=config, flags=flags, warn=False)
    file = () if config is None else (f"--config={config.absolute()}",)
    level = flags.get("log_level")
    told = () if level is None else (f"--log-level={level}",)
    return (*file, *told, *as_flags(AgentSettings, flags, leave_out=("join",)))


async def run(plan: Plan, ready: Path | None, stop: asyncio.Event) -> None:
    """From the first port to the last goodbye. Raises SettingsError."""
    clock = SystemClock()
    state_dir = plan.coordinator.state_dir
    async with running(plan.coordinator, clock) as hub, backend_nodes(hub, plan.coordinator, clock):
        untold = print_registrations(hub.coordinator.events)
        agent = LocalAgent((f"--join={hub.grpc_address}", *plan.agent_arguments), clock)
        try:
            with pid_file(state_dir, "up"), ready_file(ready) as told:
                async with (
                    listening(
                        hub.coordinator,
                        plan.http,
                        clock,
                        joining=joining_at(hub.grpc_address, plan.coordinator.host, tokens=hub.roster),
                        servers=plan.servers,
                    ) as server,
                    models_ready(hub) as model,
                ):
                    at = Addresses(
                        host=plan.coordinator.host,
                        grpc=hub.grpc_address,
                        http=server.url,
                        ollama=server.ollama_url,
                        keys=asks_for_keys(plan.http),
                        own_certificate=plan.http.tls_cert is not None,
                    )
                    at = await with_credentials(at, hub, state_dir, keys_required=at.keys)
                    works: list[Awaitable[object]] = [stop.wait(), server.wait_stopped()]
                    if plan.cli.agent:
                        works.append(_watch(agent.start(), model, stop))
                    works.append(_serve(plan, hub, at, told, model if plan.cli.agent else None, stop))
                    await first_of(*works)
        finally:
            # Only now, when the HTTP address has drained: the agent's answers were part of that.
            untold()
            await hub.coordinator.drain()
            await agent.stop()


async def _watch(agent: asyncio.Task[None], model: asyncio.Future[ModelName], stop: asyncio.Event) -> None:
    """An agent that gives up ends a hub that has just been started, but not one that others may be using."""
    try:
        await asyncio.shield(agent)
    except SettingsError as error:
        if not model.done():
            raise
        log.error("%s; the hub goes on without it", error)
    await stop.wait()


async def _serve(
    plan: Plan,
    hub: RunningCoordinator,
    at: Addresses,
    told: ReadyFile,
    model: asyncio.Future[ModelName] | None,
    stop: asyncio.Event,
) -> None:
    """Say when all answers, then take prompts or wait for the end."""
    name: ModelName | None = None
    if model is not None:
        await asyncio.wait((model,), timeout=plan.cli.ready_within_s)
        if not model.done():
            why = why_not(await hub.coordinator.state())
            print(f"no model is ready after {plan.cli.ready_within_s:g} s: {why}", flush=True)
        name = await model
    more = {} if at.ollama is None else {"ollama_url": at.ollama}
    told.write({"http_url": at.http, "grpc_address": at.grpc, "join": at.join, **more})
    print("\n".join(ready_lines(__version__, await hub.coordinator.state(), name, at)), flush=True)
    if plan.cli.console:
        await terminal(hub.coordinator, stop)
    else:
        await stop.wait()


def why_not(state: ClusterState) -> str:
    """One line on what holds up the first model."""
    reasons = [
        f"{node.name}: {replica.report.state} {replica.report.detail}".strip()
        for node in state.nodes
        for replica in node.replicas
    ]
    reasons += [f"{node.name}: {node.assignment_reason}" for node in state.nodes if not node.replicas]
    return "; ".join(reasons) or "the agent has not joined; see agent.log in the logs folder"


@asynccontextmanager
async def models_ready(hub: RunningCoordinator) -> AsyncGenerator[asyncio.Future[ModelName]]:
    """A future of the first model that can answer; told by events, so that nothing polls."""
    first: asyncio.Future[ModelName] = asyncio.get_running_loop().create_future()
    looking: set[asyncio.Task[None]] = set()

    async def look() -> None:
        state = await hub.coordinator.state()
        found = [model.name for model in state.models if model.ready_on and not model.embedding]
        if found and not first.done():
            first.set_result(found[0])

    def on_event(_event: Event) -> None:
        if first.done():
            return  # every request is an event too, and to look at all nodes would cost more than most of them
        task = asyncio.get_running_loop().create_task(look())
        looking.add(task)
        task.add_done_callback(looking.discard)

    end = hub.coordinator.events.subscribe(on_event)
    try:
        yield first
    finally:
        end()
        first.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
