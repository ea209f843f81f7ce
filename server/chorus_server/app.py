"""Put a coordinator together and run it: state folder, store, gRPC server, the sweeping task, the drain at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc import aio

from chorus_proto import coordinator_pb2_grpc, membership_pb2_grpc, node_pb2_grpc
from chorus_proto.channel import LISTENER_OPTIONS
from chorus_proto.clock import Clock
from chorus_proto.exposure import encrypts, is_loopback, needs_keys, refuse_exposure
from chorus_proto.files import only_one, state_folder, write_atomically
from chorus_proto.keys import LOCAL_KEY_FILE, LocalKey
from chorus_proto.settings import SettingsError
from chorus_proto.tls.authority import Authority, Issued
from chorus_proto.tls.names import own_names
from chorus_proto.tls.shown import ShownCertificate
from chorus_server.api_service import ApiService
from chorus_server.coordinator import Coordinator
from chorus_server.guard import KeyGuard
from chorus_server.membership_service import MembershipService
from chorus_server.node_service import NodeService
from chorus_server.roster import Roster
from chorus_server.settings import CoordinatorSettings
from chorus_server.store import Store

log = logging.getLogger(__name__)

RPCS_PER_AGENT = 4
GOODBYE_GRACE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCoordinator:
    coordinator: Coordinator
    grpc_address: str
    """HOST:PORT that agents and wrappers of this PC can dial."""
    authority: Authority | None
    """What its certificate is of; None: it is not encrypted."""
    roster: Roster | None
    """Who may be a node; None: whoever comes, as nothing is encrypted."""


@asynccontextmanager
async def running(settings: CoordinatorSettings, clock: Clock) -> AsyncGenerator[RunningCoordinator]:
    """A coordinator that answers on its port; drained and saved on leaving.

    Raises SettingsError when the port is taken, the state folder cannot be used or another coordinator runs there.
    """
    keys_required = needs_keys(settings.host, insecure=settings.insecure, require_keys=settings.require_keys)
    encrypted = encrypts(settings.host, insecure=settings.insecure, tls=settings.tls)
    refuse_exposure(
        "the coordinator", settings.host, insecure=settings.insecure, encrypted=encrypted, keys=keys_required
    )
    if not is_loopback(settings.host) and not (encrypted and keys_required):
        asks = "ask with an API key" if keys_required else "ask"
        clear = "" if encrypted else " or join; nothing is encrypted"
        log.warning("--insecure: every PC that reaches this one may %s%s", asks, clear)
    folder = state_folder(settings.state_dir)
    refusal = (
        f"a coordinator already runs on the state folder {folder}; stop it first, or choose another folder with "
        "--state-dir"
    )
    with only_one(folder / "coordinator.lock", refusal):
        authority = None
        if encrypted:
            authority = await asyncio.to_thread(Authority.open, folder, now_unix_s=clock.unix_s())
        store = await asyncio.to_thread(Store.open, folder / "coordinator.sqlite")
        try:
            coordinator = Coordinator(settings, store, clock)
            await coordinator.remember()
            roster = None
            if authority is not None:
                roster = Roster(store.members, clock, fingerprint=authority.fingerprint)
                await roster.remember()
            elif keys_required and not coordinator.keys.any_live:
                log.warning("no API key lets anybody in yet; make one: chorus keys create NAME")
            guard = KeyGuard(coordinator.keys, required=keys_required, roster=roster)
            async with _certificate(settings, authority, clock) as credentials:
                server, port = await _listen(settings, coordinator, clock, guard, roster, credentials)
                sweeping = asyncio.create_task(coordinator.run(), name="coordinator")
                try:
                    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"
                    log.info("coordinator listens on %s:%d, epoch %d", settings.host, port, store.epoch)
                    own = LocalKey(
                        address=f"{host}:{port}",
                        text=coordinator.keys.local_text,
                        ca_pem="" if authority is None else authority.pem.decode("ascii"),
                    )
                    await asyncio.to_thread(write_atomically, folder / LOCAL_KEY_FILE, own.encoded())
                    yield RunningCoordinator(
                        coordinator=coordinator, grpc_address=f"{host}:{port}", authority=authority, roster=roster
                    )
                finally:
                    (folder / LOCAL_KEY_FILE).unlink(missing_ok=True)
                    await coordinator.drain()
                    await server.stop(GOODBYE_GRACE_S)
                    sweeping.cancel()
                    await asyncio.gather(sweeping, return_exceptions=True)
                    await coordinator.save()
        finally:
            await asyncio.to_thread(store.close)


@asynccontextmanager
async def _certificate(
    settings: CoordinatorSettings, authority: Authority | None, clock: Clock
) -> AsyncGenerator[grpc.ServerCredentials | None]:
    """Credentials whose certificate stays fresh while the block runs; None without an authority."""
    if authority is None:
        yield None
        return
    shown = ShownCertificate(authority, clock, lambda: own_names(settings.host, settings.allowed_hosts))
    renewing = asyncio.create_task(shown.run(lambda _issued: None), name="certificate")
    try:
        yield _credentials(shown)
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


def _credentials(shown: ShownCertificate) -> grpc.ServerCredentials:
    """gRPC asks at each handshake, from a thread of its own, whether there is a newer certificate."""
    given = shown.current

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if shown.current is given:
            return None
        given = shown.current
        return _configuration(given)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        newer,  # pyright: ignore[reportArgumentType]  # its stub forgets that None means "no newer one"
    )


def _configuration(issued: Issued) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(issued.key_pem, issued.chain_pem)])


async def _listen(
    settings: CoordinatorSettings,
    coordinator: Coordinator,
    clock: Clock,
    guard: KeyGuard,
    roster: Roster | None,
    credentials: grpc.ServerCredentials | None,
) -> tuple[aio.Server, int]:
    server = aio.server(
        interceptors=(guard,),
        options=LISTENER_OPTIONS,
        maximum_concurrent_rpcs=RPCS_PER_AGENT * settings.agents_limit,
    )
    node_pb2_grpc.add_NodeServiceServicer_to_server(
        NodeService(coordinator, clock, hello_within_s=settings.hello_within_s, window_bytes=settings.window_bytes),
        server,
    )
    coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(
        ApiService(coordinator, slow_caller_s=settings.slow_caller_s), server
    )
    membership_pb2_grpc.add_MembershipServiceServicer_to_server(MembershipService(roster), server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        address = f"{host}:{settings.grpc_port}"
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise SettingsError(
            f"cannot listen on {host}:{settings.grpc_port}: the port is in use (another coordinator?) or the address "
            "is not this PC's; choose another with --grpc-port or --host"
        ) from None
    await server.start()
    return server, port
