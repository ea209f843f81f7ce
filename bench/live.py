"""How soon a page hears of what happens, and what it costs to watch: `python -m bench.live`, from the project's root.

Coordinator, HTTP wrapper and a client of Socket.IO in one process, with 50 nodes that are only names. The delay is from
the coordinator's own event to the client's handler; the cost is CPU of that whole process, its client included.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import socketio

from chorus_http.app import create_app
from chorus_http.grpc_cluster import GrpcCluster
from chorus_http.listen import serving
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import Cluster
from chorus_proto.ids import ModelName, NodeId
from chorus_server.app import running
from chorus_server.coordinator import Coordinator
from chorus_server.events import LoadDemanded
from chorus_server.link import AgentLink
from chorus_server.settings import CoordinatorSettings
from tests.support.fake_node import hello_of

NODES = 50
EVENTS = 300
GAP_S = 0.01
IDLE_S = 8.0


@dataclass(frozen=True, slots=True)
class Site:
    coordinator: Coordinator
    urls: dict[str, str]
    """By how the wrapper reaches the coordinator."""


@asynccontextmanager
async def site() -> AsyncGenerator[Site]:
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        state_dir = Path(folder)
        async with contextlib.AsyncExitStack() as stack:
            settings = CoordinatorSettings(
                state_dir=state_dir,
                grpc_port=0,
                drain_s=0.1,
                suspect_after_s=3600,
                dead_after_s=7200,
            )
            hub = await stack.enter_async_context(running(settings, clock))
            join_nodes(hub.coordinator, clock)
            remote = GrpcCluster(hub.grpc_address, within_s=5)
            stack.push_async_callback(remote.aclose)
            urls: dict[str, str] = {}
            doors: dict[str, Cluster] = {"one process": hub.coordinator, "over gRPC": remote}
            for name, cluster in doors.items():
                http = HttpSettings(http_port=0, drain_within_s=1, state_dir=state_dir)
                server = await stack.enter_async_context(serving(create_app(cluster, http, clock), http))
                urls[name] = server.url
            yield Site(hub.coordinator, urls)


def join_nodes(coordinator: Coordinator, clock: SystemClock) -> None:
    for number in range(NODES):
        hello = hello_of(f"pc-{number}")
        coordinator.joined(hello, "10.0.0.1:1", AgentLink(hello.node_id, hello.name, clock, window_bytes=65536))


async def delays_ms(site: Site, url: str, transport: str) -> list[float]:
    """Of `EVENTS` events, one at a time."""
    client = socketio.AsyncClient()
    sent_s: dict[int, float] = {}
    delays: list[float] = []

    async def heard(events: list[dict[str, object]]) -> None:
        for event in events:
            if event["kind"] == "load.demanded":
                body = event["body"]
                assert isinstance(body, dict)
                delays.append((time.perf_counter() - sent_s[int(str(body["waiting"]))]) * 1000)  # pyright: ignore[reportUnknownArgumentType]  # JSON

    client.on("cluster", heard)  # pyright: ignore[reportUnknownMemberType]  # the library has no types
    await client.connect(url, transports=[transport])  # pyright: ignore[reportUnknownMemberType]  # as above
    await client.call("watch_cluster", {})  # pyright: ignore[reportUnknownMemberType]  # as above
    for number in range(EVENTS):
        sent_s[number] = time.perf_counter()
        site.coordinator.events.tell(
            LoadDemanded(node_id=NodeId("n"), node_name="pc", model=ModelName("m"), waiting=number, reason="bench")
        )
        await asyncio.sleep(GAP_S)
    while len(delays) < EVENTS:  # noqa: ASYNC110  # a bench may poll
        await asyncio.sleep(GAP_S)
    await client.disconnect()  # pyright: ignore[reportUnknownMemberType]  # as above
    return delays


async def idle_percent() -> float:
    """Of one core, by this process."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(IDLE_S)
    return (time.process_time() - cpu_s) / (time.perf_counter() - began_s) * 100


async def main() -> None:
    async with site() as here:
        alone = await idle_percent()
        print(f"{NODES} nodes, nobody watches:        {alone:5.2f} % of a core")
        for name, url in here.urls.items():
            client = socketio.AsyncClient()
            await client.connect(url, transports=["websocket"])  # pyright: ignore[reportUnknownMemberType]  # no types
            await client.call("watch_cluster", {})  # pyright: ignore[reportUnknownMemberType]  # as above
            watched = await idle_percent()
            await client.disconnect()  # pyright: ignore[reportUnknownMemberType]  # as above
            print(f"one page watches, {name:11s}:   {watched:5.2f} % of a core, the page's own reading included")
        for name, url in here.urls.items():
            for transport in ("websocket", "polling"):
                delays = await delays_ms(here, url, transport)
                p99 = quantiles(delays, n=100)[98]
                print(
                    f"{name:11s}, {transport:9s}: an event is heard after median {median(delays):5.1f} ms, "
                    f"p99 {p99:5.1f} ms, worst {max(delays):5.1f} ms"
                )


if __name__ == "__main__":
    asyncio.run(main())
