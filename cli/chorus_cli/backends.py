"""Puts the nodes of backends beside a coordinator: the only place that knows both."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from chorus_client.backends import BackendNodes, BackendRules
from chorus_client.membership import local_door
from chorus_proto.clock import Clock
from chorus_server.app import RunningCoordinator
from chorus_server.settings import CoordinatorSettings


@asynccontextmanager
async def backend_nodes(hub: RunningCoordinator, settings: CoordinatorSettings, clock: Clock) -> AsyncGenerator[None]:
    """Run a node for each backend of `hub` while the block runs."""
    rules = BackendRules(
        hosts=frozenset(host.lower() for host in settings.backend_hosts),
        health_interval_s=settings.health_interval_s,
        slots=settings.backend_slots,
        drain_s=settings.unload_within_s,
    )
    folder = settings.state_dir.expanduser() / "backends"
    door = local_door(settings.state_dir, hub.grpc_address)
    nodes = BackendNodes(join=hub.grpc_address, folder=folder, clock=clock, rules=rules, door=door)
    try:
        async with hub.coordinator.registered.run_by(nodes):
            yield
    finally:
        await nodes.aclose()
