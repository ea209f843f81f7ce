"""`chorus http`: the HTTP address alone, for a coordinator in another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from chorus_cli.address import checked_address
from chorus_cli.announce import joining_at
from chorus_cli.documents import documents_door
from chorus_cli.hub_servers import HubServers
from chorus_cli.membership import MembershipDesk
from chorus_cli.options import effective, ready_file_option, settings_options
from chorus_cli.process import first_of, logging_to, pid_file, run_until_stopped
from chorus_cli.ready_file import ready_file
from chorus_cli.remote import dialled
from chorus_cli.settings import CliSettings
from chorus_cli.trust import learn_authority
from chorus_http.app import create_app
from chorus_http.chats.store import ChatStore
from chorus_http.grpc_cluster import GrpcCluster
from chorus_http.joining import Joining
from chorus_http.listen import CannotListen, HttpServer, serving
from chorus_http.response_store import ResponseStore
from chorus_http.settings import HttpSettings
from chorus_http.tls import http_tls, speaks_tls
from chorus_proto.clock import Clock, SystemClock
from chorus_proto.cluster import Cluster
from chorus_proto.errors import ClusterError, CoordinatorUnavailable, Forbidden
from chorus_proto.exposure import is_loopback, needs_keys, refuse_exposure
from chorus_proto.files import state_folder
from chorus_proto.settings import SettingsError

RETRY_S = 0.25


@click.command("http")
@ready_file_option
@settings_options(HttpSettings)
@settings_options(CliSettings, only=("coordinator", "coordinator_ca", "log_level", "answer_within_s"), config=False)
def command(config: Path | None, ready_file: Path | None, **flags: object) -> None:
    """Start an HTTP address for a coordinator that runs elsewhere."""
    settings = effective(HttpSettings, "http", config=config, flags=flags)
    cli = effective(CliSettings, "cli", config=config, flags=flags, warn=False)
    checked_address(cli.coordinator, "--coordinator")
    with logging_to(settings.state_dir, "http", cli.log_level):
        run_until_stopped(lambda stop: run(settings, cli, ready_file, stop))


async def run(settings: HttpSettings, cli: CliSettings, ready: Path | None, stop: asyncio.Event) -> None:
    """Raises SettingsError. A coordinator that is away is no reason to end: callers get 503 until it comes."""
    await _learn(cli)
    cluster = dialled(cli.coordinator, cli)
    host = cli.coordinator.rpartition(":")[0]
    desk = MembershipDesk(cluster, within_s=cli.answer_within_s)
    joining = joining_at(cli.coordinator, host, tokens=None if settings.insecure or is_loopback(host) else desk)
    servers = HubServers.in_folder(settings.state_dir)
    try:
        async with listening(cluster, settings, SystemClock(), joining=joining, servers=servers) as server:
            with pid_file(settings.state_dir, "http"), ready_file(ready) as told:
                print(f"HTTP address {server.url} for the coordinator at {cli.coordinator}", flush=True)
                if server.ollama_url is not None:
                    print(f"Ollama's API also at {server.ollama_url}", flush=True)

                async def tell() -> None:
                    await _answers(cluster, cli.coordinator)
                    more = {} if server.ollama_url is None else {"ollama_url": server.ollama_url}
                    told.write({"http_url": server.url, "grpc_address": cli.coordinator, **more})
                    await stop.wait()

                await first_of(stop.wait(), server.wait_stopped(), tell())
    finally:
        await cluster.aclose()


async def _learn(cli: CliSettings) -> None:
    """Know the coordinator that the settings name by its authority; wait for it the first time.

    Raises SettingsError when another one answers.
    """
    told = False
    while True:
        try:
            await asyncio.to_thread(learn_authority, cli.coordinator, cli)
            return
        except Forbidden as error:
            raise SettingsError(error.message) from None
        except CoordinatorUnavailable as error:
            if not told:
                print(f"waiting: {error.message}", flush=True)
                told = True
            await asyncio.sleep(RETRY_S)


async def _answers(cluster: GrpcCluster, address: str) -> None:
    """Wait until the coordinator does; say once when it does not at first."""
    told = False
    while True:
        try:
            await cluster.state()
            return
        except ClusterError as error:
            if not told:
                print(f"waiting: {error.message}; is --coordinator {address} right?", flush=True)
                told = True
            await asyncio.sleep(RETRY_S)


def asks_for_keys(settings: HttpSettings) -> bool:
    """Whether callers of this address need an API key."""
    return needs_keys(settings.host, insecure=settings.insecure, require_keys=settings.require_keys)


@asynccontextmanager
async def listening(
    cluster: Cluster,
    settings: HttpSettings,
    clock: Clock,
    *,
    joining: Joining,
    servers: HubServers,
) -> AsyncGenerator[HttpServer]:
    """The HTTP address of `cluster` while the block runs. Raises SettingsError when it cannot be had."""
    keys = asks_for_keys(settings)
    encrypted = speaks_tls(settings)
    refuse_exposure("the HTTP address", settings.host, insecure=settings.insecure, encrypted=encrypted, keys=keys)
    try:
        async with (
            http_tls(settings, clock) as tls,
            kept_chats(settings) as chats,
            kept_responses(settings, clock) as responses,
            documents_door(settings, cluster, clock) as documents,
            serving(
                create_app(
                    cluster,
                    settings,
                    clock,
                    documents,
                    chats=chats,
                    responses=responses,
                    servers=servers,
                    joining=joining,
                    ca_pem=None if tls is None else tls.authority.pem,
                ),
                settings,
                tls,
            ) as server,
        ):
            yield server
    except CannotListen as error:
        raise SettingsError(str(error)) from None


@asynccontextmanager
async def kept_responses(settings: HttpSettings, clock: Clock) -> AsyncGenerator[ResponseStore]:
    """The answers of /v1/responses in the state folder while the block runs. Raises SettingsError as `kept_chats`."""
    path = state_folder(settings.state_dir) / "responses.sqlite"

    def opened() -> ResponseStore:
        most_bytes, most_age_s = settings.responses_bytes, settings.responses_age_s
        return ResponseStore.open(path, clock, most_bytes=most_bytes, most_age_s=most_age_s)

    try:
        responses = await asyncio.to_thread(opened)
    except ClusterError as error:
        raise SettingsError(error.message) from None
    try:
        yield responses
    finally:
        await asyncio.to_thread(responses.close)


@asynccontextmanager
async def kept_chats(settings: HttpSettings) -> AsyncGenerator[ChatStore]:
    """The chat sessions in the state folder while the block runs. Raises SettingsError when they cannot be used."""
    folder = state_folder(settings.state_dir)
    try:
        chats = await asyncio.to_thread(ChatStore.open, folder / "chats.sqlite")
    except ClusterError as error:
        raise SettingsError(error.message) from None
    try:
        yield chats
    finally:
        await asyncio.to_thread(chats.close)
