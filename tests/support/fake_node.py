"""A node without a network: the test plays the agent's side of one link of a real coordinator."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from chorus_proto import PROTOCOL_MAX, PROTOCOL_MIN, node_pb2
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError
from chorus_proto.ids import InstanceId, ModelName, NodeId
from chorus_proto.values import (
    EngineKind,
    Hardware,
    Heartbeat,
    Hello,
    ModelFile,
    ReplicaReport,
    ReplicaState,
)
from chorus_server.coordinator import Coordinator
from chorus_server.link import AgentLink
from chorus_server.node_record import NodeRecord

STRONG = Hardware(
    os="linux",
    arch="x86_64",
    ram_bytes=64 * 10**9,
    ram_available_bytes=60 * 10**9,
    memory_bandwidth_bytes_per_s=60e9,
    cpu_flops_per_s=2e12,
    physical_cores=16,
)


def hello_of(
    name: str,
    *,
    node_id: str | None = None,
    models: Sequence[str | ModelFile] = ("scripted",),
    hardware: Hardware = STRONG,
    replicas: Sequence[ReplicaReport] = (),
    protocol_min: int = PROTOCOL_MIN,
    protocol_max: int = PROTOCOL_MAX,
) -> Hello:
    return Hello(
        node_id=NodeId(node_id or str(uuid.uuid5(uuid.NAMESPACE_DNS, name))),
        instance_id=InstanceId(str(uuid.uuid4())),
        name=name,
        version="0.1.0",
        protocol_min=protocol_min,
        protocol_max=protocol_max,
        hardware=hardware,
        engines=(EngineKind.SCRIPTED,),
        models=tuple(file_of(one) if isinstance(one, str) else one for one in models),
        replicas=tuple(replicas),
    )


def file_of(name: str, file_bytes: int = 0, **more: object) -> ModelFile:
    return ModelFile(name=ModelName(name), file_bytes=file_bytes, engine=EngineKind.SCRIPTED, **more)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass


class FakeNode:
    """Joins at once; `ready` makes its model take requests; `orders` are the frames that the coordinator sent."""

    def __init__(
        self, coordinator: Coordinator, clock: Clock, name: str, *, hello: Hello | None = None, window_bytes: int = 4096
    ) -> None:
        self.hello = hello or hello_of(name)
        self._coordinator = coordinator
        self.link = AgentLink(self.hello.node_id, name, clock, window_bytes=window_bytes)
        self.record: NodeRecord = coordinator.joined(self.hello, f"10.0.0.1:{len(name)}", self.link)
        self._batches = self.link.outbox.batches()
        self._pending: list[node_pb2.CoordinatorFrame] = []

    @property
    def node_id(self) -> NodeId:
        return self.hello.node_id

    def report(
        self,
        state: ReplicaState,
        *,
        model: str = "scripted",
        slots: int = 1,
        detail: str = "",
        engine: EngineKind = EngineKind.SCRIPTED,
        **more: object,
    ) -> None:
        report = ReplicaReport(
            model=ModelName(model),
            state=state,
            slots=slots,
            engine=engine,
            detail=detail,
            **more,  # pyright: ignore[reportArgumentType]  # names checked by the dataclass
        )
        self._coordinator.replica_reported(self.record, report)

    def ready(self, *, model: str = "scripted", slots: int = 1, **more: object) -> None:
        self.report(ReplicaState.READY, model=model, slots=slots, detail="", **more)  # pyright: ignore[reportArgumentType]  # as above

    def beat(self, sequence: int = 1, *, free_bytes: int | None = None) -> None:
        beat = Heartbeat(sequence=sequence, uptime_s=float(sequence), ram_available_bytes=free_bytes)
        self._coordinator.heartbeat(self.record, beat)

    async def next(self, kind: str) -> node_pb2.CoordinatorFrame:
        """The next frame of this kind; others before it are skipped."""
        while True:
            while self._pending:
                frame = self._pending.pop(0)
                if frame.WhichOneof("kind") == kind:
                    return frame
            self._pending = list(await anext(self._batches))

    def take_pending(self) -> list[node_pb2.CoordinatorFrame]:
        """Frames that came with the last one and were not asked for yet."""
        pending, self._pending = self._pending, []
        return pending

    async def ordered(self) -> list[str]:
        """Loads and unloads ordered since the last look, as `load tiny for 300 s`, once the coordinator is at rest."""
        for _ in range(5):
            await asyncio.sleep(0)
        self.link.outbox.put(node_pb2.CoordinatorFrame())
        orders: list[str] = []
        while True:
            while self._pending:
                frame = self._pending.pop(0)
                match frame.WhichOneof("kind"):
                    case "load":
                        stays = f" for {frame.load.keep_alive_s:g} s" if frame.load.HasField("keep_alive_s") else ""
                        orders.append(f"load {frame.load.model}{stays}{' again' if frame.load.retry else ''}")
                    case "unload":
                        orders.append(f"unload {frame.unload.model}")
                    case None:
                        return orders
                    case _:
                        pass
            self._pending = list(await anext(self._batches))

    async def next_execute(self) -> node_pb2.Execute:
        return (await self.next("execute")).execute

    def say(self, execution_id: int, text: str, tokens: int = 1) -> None:
        self.link.on_output(node_pb2.Output(execution_id=execution_id, payload=text.encode(), tokens=tokens))

    def finish(self, execution_id: int, text: str = "", *, tokens: int = 32) -> None:
        finished = node_pb2.Finished(execution_id=execution_id, finish_reason="stop", payload=text.encode())
        finished.usage.completion_tokens = tokens
        finished.timings.decode_tokens_per_s = 100.0
        finished.timings.prefill_tokens_per_s = 1000.0
        self.link.on_finished(finished)

    def fail(self, execution_id: int, error: ClusterError) -> None:
        self.link.on_failed(execution_id, error)

    def lose(self) -> None:
        """The connection breaks."""
        self._coordinator.link_ended(self.record, "lost its connection")
