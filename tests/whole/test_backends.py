"""Backends as nodes: real HTTP servers, a real coordinator, and every address that one must not reach."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chorus_client.backends import BackendNodes, BackendRules
from chorus_client.backends.outliers import OutlierRules
from chorus_client.engines.openai_http import HttpLimits
from chorus_http.settings import HttpSettings
from chorus_proto.backends import Backend, BackendState, NewBackend
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import Call, CallFinished, CallOutput, CallStarted
from chorus_proto.errors import AddressNotAllowed, ClusterError, EngineFailed, InvalidRequest, NotFound, Unsupported
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.keys import Scope
from chorus_proto.values import Dialect, RoutingStrategy
from chorus_server.app import RunningCoordinator, running
from chorus_server.coordinator import Coordinator
from chorus_server.settings import CoordinatorSettings
from tests.support.fake_cluster import MODEL, FakeCluster, failing, paris
from tests.support.http_face import http_face, post, send_raw

QUICK = BackendRules(
    hosts=frozenset({"127.0.0.1", "localhost"}),
    health_interval_s=0.2,
    drain_s=2.0,
    try_within_s=2.0,
    http=HttpLimits(connect_s=1.0, short_answer_s=1.0, first_token_s=5.0, next_token_s=5.0),
    outliers=OutlierRules(first_s=0.3),
)


@asynccontextmanager
async def hub(folder: Path, rules: BackendRules = QUICK) -> AsyncGenerator[RunningCoordinator]:
    settings = CoordinatorSettings(grpc_port=0, state_dir=folder, drain_s=0.2, heartbeat_s=0.2, suspect_after_s=1.0)
    async with asyncio.timeout(40), running(settings, SystemClock()) as at:
        nodes = BackendNodes(join=at.grpc_address, folder=folder / "backends", clock=SystemClock(), rules=rules)
        try:
            async with at.coordinator.registered.run_by(nodes):
                yield at
        finally:
            await nodes.aclose()


async def until(coordinator: Coordinator, good: Callable[[Backend], bool], *, within_s: float = 10.0) -> Backend:
    backend: Backend | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                (backend,) = await coordinator.backends()
                if good(backend):
                    return backend
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still {backend}") from None


def is_in(state: BackendState) -> Callable[[Backend], bool]:
    return lambda backend: backend.health.state is state


async def serving(coordinator: Coordinator, model: str = MODEL) -> bool:
    return any(one.name == model and one.ready_on for one in (await coordinator.state()).models)


async def until_serving(coordinator: Coordinator, *, is_so: bool = True, model: str = MODEL) -> None:
    async with asyncio.timeout(10):
        while await serving(coordinator, model) is not is_so:
            await asyncio.sleep(0.02)


def call_for(model: str = MODEL) -> Call:
    generation = Generation(messages=(Message(role="user", content="the capital?"),))
    return Call(
        request_id=new_request_id(),
        model=ModelName(model),
        dialect=Dialect.OPENAI_CHAT,
        stream=False,
        generation=generation.encoded(),
        prompt_tokens_estimate=3,
        within_s=5,
        queue_within_s=1,
    )


async def answer(
    coordinator: Coordinator, model: str = MODEL, *, strategy: RoutingStrategy | None = None
) -> tuple[str, str]:
    """The node's name and what it said."""
    node, body = "", b""
    async for event in coordinator.submit(dataclasses.replace(call_for(model), strategy=strategy)):
        match event:
            case CallStarted():
                node = event.node_name
            case CallOutput(payload=payload) | CallFinished(payload=payload):
                body += payload
            case _:
                pass
    return node, json.loads(body)["choices"][0]["message"]["content"]


def test_a_url_becomes_a_node_that_answers_and_is_gone_when_it_is_unregistered(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, http_face(FakeCluster()) as server:
            cluster = at.coordinator
            made = await cluster.register_backend(NewBackend(name="attic", url=f"{server.url}/v1", model_type="x"))
            assert made.health.state is BackendState.STARTING
            backend = await until(cluster, is_in(BackendState.HEALTHY))
            assert backend.health.models == (MODEL,) and backend.model_type == "x"
            await until_serving(cluster)
            assert await answer(cluster) == ("attic", "The capital is Paris.")
            (node,) = (await cluster.state()).nodes
            assert node.node_id == backend.node_id and node.replicas[0].report.slots == QUICK.slots
            await cluster.unregister_backend("attic")
            assert await cluster.backends() == ()
            await until_serving(cluster, is_so=False)
            with pytest.raises(NotFound):
                await cluster.unregister_backend("attic")

    asyncio.run(run())


def test_a_backend_outlives_a_restart_as_the_same_node_with_its_secret(tmp_path: Path) -> None:
    async def run() -> None:
        locked = HttpSettings(http_port=0, drain_within_s=1.0, require_keys=True)
        other = FakeCluster()
        key = other.add_key("chorus", Scope.INFER)
        async with http_face(other, locked) as server:
            async with hub(tmp_path) as at:
                await at.coordinator.register_backend(
                    NewBackend(name="attic", url=server.url, slots=3, api_key=key, weight=2.5)
                )
                before = await until(at.coordinator, is_in(BackendState.HEALTHY))
                assert key not in repr(before)
            async with hub(tmp_path) as at:
                after = await until(at.coordinator, is_in(BackendState.HEALTHY))
                await until_serving(at.coordinator)
                assert (await answer(at.coordinator))[0] == "attic"
        assert after.node_id == before.node_id
        assert (after.slots, after.weight) == (3, 2.5)
        assert other.calls[0].user == "chorus"

    asyncio.run(run())


def test_a_server_that_goes_away_is_no_node_until_it_is_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            cluster = at.coordinator
            async with http_face(FakeCluster()) as server:
                port = server.port
                await cluster.register_backend(NewBackend(name="attic", url=server.url))
                await until_serving(cluster)
            down = await until(cluster, is_in(BackendState.UNHEALTHY))
            assert "no answer" in down.health.detail
            await until_serving(cluster, is_so=False)
            async with http_face(FakeCluster(), HttpSettings(http_port=port, drain_within_s=1.0)):
                await until(cluster, is_in(BackendState.HEALTHY))
                await until_serving(cluster)

    asyncio.run(run())


def test_one_that_is_away_when_it_is_registered_joins_once_it_answers(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        async with hub(tmp_path) as at:
            await at.coordinator.register_backend(NewBackend(name="late", url=f"http://127.0.0.1:{port}"))
            await until(at.coordinator, is_in(BackendState.UNHEALTHY))
            async with http_face(FakeCluster(), HttpSettings(http_port=port, drain_within_s=1.0)):
                await until(at.coordinator, is_in(BackendState.HEALTHY))
                await until_serving(at.coordinator)

    asyncio.run(run())


def test_one_that_answers_probes_but_fails_at_work_is_ejected_and_comes_back_when_a_token_comes_out(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        inner = FakeCluster(failing(EngineFailed("out of order")))
        async with hub(tmp_path) as at, http_face(inner) as server:
            cluster = at.coordinator
            await cluster.register_backend(NewBackend(name="attic", url=server.url))
            await until_serving(cluster)
            for _ in range(OutlierRules().in_a_row):
                with pytest.raises(ClusterError):
                    await answer(cluster)
            ejected = await until(cluster, is_in(BackendState.EJECTED))
            assert "out of order" in ejected.health.detail
            (node,) = (await cluster.state()).nodes
            assert node.courtesy.paused, "it gets nothing while it is ejected"
            inner.engine = paris
            await until(cluster, is_in(BackendState.HEALTHY))
            async with asyncio.timeout(5):
                while (await cluster.state()).nodes[0].courtesy.paused:
                    await asyncio.sleep(0.02)
            assert await answer(cluster) == ("attic", "The capital is Paris.")

    asyncio.run(run())


def test_failures_that_a_token_disproves_eject_nobody(tmp_path: Path) -> None:
    """What nobody can answer must not cost the cluster its only server."""

    async def picky(call: Call):  # an engine of FakeCluster
        if b"the capital?" in call.generation:
            raise EngineFailed("this prompt kills me")
        async for piece in paris(call):
            yield piece

    async def run() -> None:
        inner = FakeCluster(picky)
        async with hub(tmp_path) as at, http_face(inner) as server:
            await at.coordinator.register_backend(NewBackend(name="attic", url=server.url))
            await until_serving(at.coordinator)
            for _ in range(6):
                with pytest.raises(ClusterError):
                    await answer(at.coordinator)
            async with asyncio.timeout(5):
                while not any(call.max_tokens == 1 for call in inner.calls):
                    await asyncio.sleep(0.02)
            backend = await until(at.coordinator, is_in(BackendState.HEALTHY))
            assert backend.health.detail == ""

    asyncio.run(run())


def test_a_backend_is_known_by_the_names_it_was_given(tmp_path: Path) -> None:
    async def run() -> None:
        inner = FakeCluster()
        async with hub(tmp_path) as at, http_face(inner) as server:
            names = (ModelName("gpt-oss-20b"), ModelName("gpt-oss"))
            await at.coordinator.register_backend(NewBackend(name="attic", url=server.url, models=names))
            for name in names:
                await until_serving(at.coordinator, model=name)
                assert (await answer(at.coordinator, name))[1] == "The capital is Paris."
            assert {call.model for call in inner.calls} == {MODEL}
            assert not await serving(at.coordinator, MODEL)

    asyncio.run(run())


def test_registering_again_moves_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, http_face(FakeCluster()) as old, http_face(inner := FakeCluster()) as new:
            first = await at.coordinator.register_backend(NewBackend(name="attic", url=old.url))
            await until_serving(at.coordinator)
            second = await at.coordinator.register_backend(NewBackend(name="attic", url=new.url))
            assert second.node_id == first.node_id
            await until(at.coordinator, is_in(BackendState.HEALTHY))
            await until_serving(at.coordinator)
            await answer(at.coordinator)
            assert len(inner.calls) == 1

    asyncio.run(run())


def test_a_backends_weight_counts_as_soon_as_it_is_registered(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, http_face(FakeCluster()) as one, http_face(FakeCluster()) as two:
            await at.coordinator.register_backend(NewBackend(name="attic", url=one.url, weight=0.01))
            await at.coordinator.register_backend(NewBackend(name="cloud", url=two.url, weight=100))
            async with asyncio.timeout(10):
                while [len(model.ready_on) for model in (await at.coordinator.state()).models] != [2]:
                    await asyncio.sleep(0.02)
            found = [await answer(at.coordinator, strategy=RoutingStrategy.WEIGHTED) for _ in range(6)]
            assert {node for node, _ in found} == {"cloud"}
            await at.coordinator.register_backend(NewBackend(name="attic", url=one.url, weight=100))
            await at.coordinator.unregister_backend("cloud")
            await until_serving(at.coordinator)
            assert (await answer(at.coordinator))[0] == "attic"
            for wrong in (0.0, -1.0, 101.0, float("nan"), float("inf")):
                with pytest.raises(InvalidRequest) as caught:
                    await at.coordinator.register_backend(NewBackend(name="attic", url=one.url, weight=wrong))
                assert caught.value.param == "weight"

    asyncio.run(run())


def test_a_coordinator_without_anybody_to_run_backends_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        settings = CoordinatorSettings(grpc_port=0, state_dir=tmp_path, drain_s=0.2)
        async with running(settings, SystemClock()) as at:
            with pytest.raises(Unsupported):
                await at.coordinator.register_backend(NewBackend(name="attic", url="http://127.0.0.1:8000"))

    asyncio.run(run())


# F: addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:22", "http://127.0.0.1:8001", "http://[::1]:8001", "http://2130706433:8001"),
        *("http://0x7f.1:8001", "http://127.1:8001", "http://017700000001:8001", "http://localhost:8001"),
        *(
            "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11:8001",
            "http://[::ffff:127.0.0.1]:8001",
            "http://169.254.169.254/latest/meta-data",
        ),
        *("http://[fe80::1]:8001", "http://[64:ff9b::7f00:1]:8001", "http://0.0.0.0:8001", "http://224.0.0.1:8001"),
        *("http://10.0.0.1:8001", "http://192.168.1.5:8001", "http://100.64.0.1:8001", "http://[::]:8001"),
        *("https://8.8.8.8:22", "http://8.8.8.8:25", "http://[fd00::1]:8001"),
    ],
)
def test_an_address_that_nobody_allowed_is_refused(tmp_path: Path, url: str) -> None:
    async def run() -> None:
        async with hub(tmp_path, dataclasses.replace(QUICK, hosts=frozenset())) as at:
            with pytest.raises(AddressNotAllowed) as caught:
                await at.coordinator.register_backend(NewBackend(name="attic", url=url))
            assert caught.value.surface.http == 400
            assert await at.coordinator.backends() == ()

    asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8001", "ftp://127.0.0.1", "file:///etc/passwd", "http://", "http://127.0.0.1:99999"),
        *("http://user:secret@127.0.0.1:8001", "http://127.0.0.1:8001/?x=1", "http://127.0.0.1:8001/#x", "gopher://x"),
        *("http://127.0.0.1:8001\r\nX: y", "http://127.0.0.1:0", "http://a b", "http://" + "a" * 3_000),
        *("http://127.0.0.1\\@evil.example", "javascript:alert(1)", "http://[::1"),
    ],
)
def test_what_is_no_url_of_a_backend_is_refused(tmp_path: Path, url: str) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            with pytest.raises(InvalidRequest) as caught:
                await at.coordinator.register_backend(NewBackend(name="attic", url=url))
            assert caught.value.param == "url"
            assert await at.coordinator.backends() == ()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a" * 65, "é", "a\n"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            with pytest.raises(InvalidRequest):
                await at.coordinator.register_backend(NewBackend(name=name, url="http://127.0.0.1:8001"))

    asyncio.run(run())


def test_a_name_that_leads_home_a_moment_later_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when it is registered, ours when it is connected to."""
    real = socket.getaddrinfo
    answers = ["93.184.216.34"]

    def rebound(host: object, *rest: object, **more: object) -> object:
        if host != "rebind.example":
            return real(host, *rest, **more)  # pyright: ignore[reportArgumentType, reportCallIssue]  # passed on
        address = answers.pop(0) if answers else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, rest[0] if rest else 0))]

    monkeypatch.setattr(socket, "getaddrinfo", rebound)

    async def run() -> None:
        inner = FakeCluster()
        async with hub(tmp_path, dataclasses.replace(QUICK, hosts=frozenset())) as at, http_face(inner) as server:
            await at.coordinator.register_backend(NewBackend(name="trap", url=f"http://rebind.example:{server.port}"))
            down = await until(at.coordinator, is_in(BackendState.UNHEALTHY))
            assert "not on the internet" in down.health.detail
            with pytest.raises(AddressNotAllowed):
                await at.coordinator.register_backend(NewBackend(name="b", url=f"http://rebind.example:{server.port}"))

    asyncio.run(run())


async def redirecting(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    while True:
        writer.write(chunk)
        await writer.drain()


async def dripping(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.2)


async def garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")


@pytest.mark.parametrize(
    ("talk", "said"),
    [(redirecting, "302"), (endless, "over 8 MiB"), (dripping, "no answer"), (garbage, "no answer")],
)
def test_a_server_that_misbehaves_is_unhealthy_in_time_and_harms_nobody(
    tmp_path: Path, talk: Callable[[asyncio.StreamWriter], object], said: str
) -> None:
    async def talked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(writer)  # pyright: ignore[reportGeneralTypeIssues]  # the coroutines above
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        listener = await asyncio.start_server(talked, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with hub(tmp_path) as at:
            await at.coordinator.register_backend(NewBackend(name="odd", url=f"http://127.0.0.1:{port}"))
            down = await until(at.coordinator, is_in(BackendState.UNHEALTHY), within_s=5)
            assert said in down.health.detail
        listener.close()

    asyncio.run(run())


# The HTTP face ----------------------------------------------------------------------------------------------------


def test_only_an_admin_may_register_over_http_and_what_is_shown_holds_no_secret() -> None:
    async def run() -> None:
        cluster = FakeCluster()
        async with http_face(cluster, HttpSettings(http_port=0, drain_within_s=1.0, require_keys=True)) as server:
            asks, rules = cluster.add_key("ann", Scope.INFER, Scope.METRICS), cluster.add_key("root", Scope.ADMIN)
            wish = {
                "name": "attic",
                "url": "http://localhost:8001",
                "api_key": "sk-9",
                "model_type": "x",
                "weight": 0.5,
            }
            body = json.dumps(wish)

            async def send(path: str, key: str, content: str) -> tuple[int, dict[str, object]]:
                extra = f"Authorization: Bearer {key}\r\n"
                reply = await send_raw(server.port, post(path, content.encode(), extra=extra))
                return reply.status, reply.json()

            assert (await send("/backends/register", asks, body))[0] == 403
            assert cluster.registered == {}
            status, shown = await send("/backends/register", rules, body)
            assert status == 200 and "sk-9" not in json.dumps(shown)
            kept = cluster.registered["attic"][0]
            assert (kept.api_key, kept.weight) == ("sk-9", 0.5)
            head = f"Host: localhost\r\nConnection: close\r\nAuthorization: Bearer {rules}\r\n\r\n"
            listed = await send_raw(server.port, f"GET /backends HTTP/1.1\r\n{head}".encode())
            assert listed.json()["total"] == 1 and b"sk-9" not in listed.body
            for wrong in (
                '{"name": "a"}',
                '{"name": "a", "url": 1}',
                '{"name": "a", "url": "x", "slots": 0}',
                "[]",
                '{"name": "a", "url": "http://x", "weight": 0}',
            ):
                assert (await send("/backends/register", rules, wrong))[0] == 400
            assert (await send("/backends/unregister", asks, '{"name": "attic"}'))[0] == 403
            assert (await send("/backends/unregister", rules, '{"name": "attic"}'))[0] == 200
            assert (await send("/backends/unregister", rules, '{"name": "attic"}'))[0] == 404

    asyncio.run(run())
