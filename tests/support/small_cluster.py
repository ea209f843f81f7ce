"""A coordinator and agents in the test's process, joined by real gRPC on loopback; the engines are the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from chorus_client.agent import Agent, Identity
from chorus_client.hardware import LiveReader
from chorus_client.link import CoordinatorLink
from chorus_client.pool import Pool
from chorus_proto.clock import SystemClock
from chorus_proto.ids import InstanceId, NodeId, new_instance_id, new_node_id
from chorus_proto.values import EngineKind, Node, NodeState, ReplicaReport, ReplicaState
from chorus_server.app import RunningCoordinator, running
from chorus_server.coordinator import Coordinator
from chorus_server.settings import CoordinatorSettings
from tests.support.fake_engine import FakeEngine, FakeLoaded
from tests.support.fake_node import STRONG
from tests.support.open_gate import open_gate
from tests.support.patience import granted_s

QUICK_LEASES = {"heartbeat_s": 0.1, "suspect_after_s": 0.4, "dead_after_s": 1.5}


class InProcessAgent:
    """A real agent and link on a fake engine. `cut` breaks its link as a crash would."""

    def __init__(
        self,
        address: str,
        name: str,
        *,
        models: tuple[str, ...] = (),
        node_id: NodeId | None = None,
        instance_id: InstanceId | None = None,
    ) -> None:
        self.engine = FakeEngine(*models)
        clock = SystemClock()
        identity = Identity(node_id=node_id or new_node_id(), instance_id=instance_id or new_instance_id(), name=name)
        self.node_id = identity.node_id
        self.pool = Pool({EngineKind.SCRIPTED: self.engine}, clock, self._tell, open_gate())
        self.agent = Agent(
            identity, STRONG, self.pool, clock, readings=LiveReader(STRONG), fenced=lambda: self.link.fenced
        )
        self.link = CoordinatorLink(
            address, self.agent, clock, connect_within_s=2, reconnect_max_s=0.2, fence_after_s=30
        )
        self.task: asyncio.Task[None] | None = None
        self._freeing: asyncio.Task[None] | None = None

    def _tell(self, report: ReplicaReport) -> None:
        self.agent.replica_changed(report)

    @property
    def loaded(self) -> FakeLoaded:
        return self.engine.loads[-1]

    async def start(self) -> None:
        await self.agent.prepare((EngineKind.SCRIPTED,))
        self.task = asyncio.create_task(self.link.run())
        self._freeing = asyncio.create_task(self.pool.run())

    async def cut(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    async def aclose(self) -> None:
        await self.cut()
        if self._freeing is not None:
            self._freeing.cancel()
            await asyncio.gather(self._freeing, return_exceptions=True)
        await self.agent.aclose()
        await self.pool.aclose()


@dataclass(slots=True)
class SmallCluster:
    hub: RunningCoordinator
    agents: dict[str, InProcessAgent]
    stack: AsyncExitStack

    @property
    def coordinator(self) -> Coordinator:
        return self.hub.coordinator

    async def join(
        self, name: str, *, models: tuple[str, ...] = (), **identity: NodeId | InstanceId | None
    ) -> InProcessAgent:
        agent = InProcessAgent(self.hub.grpc_address, name, models=models, **identity)  # pyright: ignore[reportArgumentType]  # by name
        self.agents[name] = agent
        self.stack.push_async_callback(agent.aclose)
        await agent.start()
        return agent

    async def node(self, name: str) -> Node | None:
        return next((node for node in (await self.coordinator.state()).nodes if node.name == name), None)

    async def until_state(self, name: str, state: NodeState) -> None:
        async with asyncio.timeout(granted_s(10)):
            while (node := await self.node(name)) is None or node.state is not state:
                await asyncio.sleep(0.01)

    async def until_ready(self, *names: str) -> None:
        """Wait until each of these nodes serves its model."""
        async with asyncio.timeout(granted_s(10)):
            for name in names:
                while not self._serves(await self.node(name)):
                    await asyncio.sleep(0.01)

    @staticmethod
    def _serves(node: Node | None) -> bool:
        return (
            node is not None
            and node.state is NodeState.ALIVE
            and any(replica.report.state is ReplicaState.READY for replica in node.replicas)
        )


@asynccontextmanager
async def small_cluster(state_dir: Path, *names: str, **settings: object) -> AsyncGenerator[SmallCluster]:
    """A coordinator with these nodes joined and ready; leases are short unless `settings` say otherwise."""
    values = {"grpc_port": 0, "state_dir": state_dir, "drain_s": 0.2, **QUICK_LEASES, **settings}
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(
            running(CoordinatorSettings(**values), SystemClock())  # pyright: ignore[reportArgumentType]  # names checked by the dataclass
        )
        cluster = SmallCluster(hub, {}, stack)
        for name in names:
            await cluster.join(name)
        await cluster.until_ready(*names)
        yield cluster
