"""Put a coordinator together and run it: state folder, store, gRPC server, the sweeping task, the drain at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from grpc import aio

from chorus_proto import coordinator_pb2_grpc, node_pb2_grpc
from chorus_proto.channel import LISTENER_OPTIONS
from chorus_proto.clock import Clock
from chorus_proto.exposure import is_loopback, needs_keys, refuse_exposure
from chorus_proto.files import only_one, state_folder, write_atomically
from chorus_proto.keys import LOCAL_KEY_FILE, LocalKey
from chorus_proto.settings import SettingsError
from chorus_server.api_service import ApiService
from chorus_server.coordinator import Coordinator
from chorus_server.guard import KeyGuard
from chorus_server.node_service import NodeService
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


@asynccontextmanager
async def running(settings: CoordinatorSettings, clock: Clock) -> AsyncGenerator[RunningCoordinator]:
    """A coordinator that answers on its port; drained and saved on leaving.

    Raises SettingsError when the port is taken, the state folder cannot be used or another coordinator runs there.
    """
    keys_required = needs_keys(settings.host, insecure=settings.insecure, require_keys=settings.require_keys)
    refuse_exposure("the coordinator", settings.host, insecure=settings.insecure, encrypted=False, keys=keys_required)
    if not is_loopback(settings.host):
        asks = "ask with an API key" if keys_required else "ask"
        log.warning("--insecure: every PC that reaches this one may join or %s; nothing is encrypted", asks)
    folder = state_folder(settings.state_dir)
    refusal = (
        f"a coordinator already runs on the state folder {folder}; stop it first, or choose another folder with "
        "--state-dir"
    )
    with only_one(folder / "coordinator.lock", refusal):
        store = await asyncio.to_thread(Store.open, folder / "coordinator.sqlite")
        try:
            coordinator = Coordinator(settings, store, clock)
            await coordinator.remember()
            if keys_required and not coordinator.keys.any_live:
                log.warning("no API key lets anybody in yet; make one: chorus keys create NAME")
            server, port = await _listen(settings, coordinator, clock, keys_required=keys_required)
            sweeping = asyncio.create_task(coordinator.run(), name="coordinator")
            try:
                host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"
                log.info("coordinator listens on %s:%d, epoch %d", settings.host, port, store.epoch)
                own = LocalKey(address=f"{host}:{port}", text=coordinator.keys.local_text)
                await asyncio.to_thread(write_atomically, folder / LOCAL_KEY_FILE, own.encoded())
                yield RunningCoordinator(coordinator=coordinator, grpc_address=f"{host}:{port}")
            finally:
                (folder / LOCAL_KEY_FILE).unlink(missing_ok=True)
                await coordinator.drain()
                await server.stop(GOODBYE_GRACE_S)
                sweeping.cancel()
                await asyncio.gather(sweeping, return_exceptions=True)
                await coordinator.save()
        finally:
            await asyncio.to_thread(store.close)


async def _listen(
    settings: CoordinatorSettings, coordinator: Coordinator, clock: Clock, *, keys_required: bool
) -> tuple[aio.Server, int]:
    server = aio.server(
        interceptors=(KeyGuard(coordinator.keys, required=keys_required),),
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
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    except RuntimeError:
        raise SettingsError(
            f"cannot listen on {host}:{settings.grpc_port}: the port is in use (another coordinator?) or the address "
            "is not this PC's; choose another with --grpc-port or --host"
        ) from None
    await server.start()
    return server, port
