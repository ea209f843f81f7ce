"""The gate of the gRPC port, on a real one: every method of the protocol is walked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio

from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto import coordinator_pb2, membership_pb2, node_pb2
from chorus_proto.channel import DIALER_OPTIONS
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import Call
from chorus_proto.errors import CoordinatorUnavailable, Forbidden, InvalidApiKey, NoNodes
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.keys import NewKey, Scope, key_text, local_key
from chorus_proto.values import Dialect
from chorus_server.app import RunningCoordinator, running
from chorus_server.guard import RIGHTS, Proof
from chorus_server.settings import CoordinatorSettings
from tests.support.patience import granted_s

StreamStream = aio.StreamStreamMultiCallable[bytes, bytes]


@asynccontextmanager
async def hub(folder: Path, *, require_keys: bool | None = True) -> AsyncGenerator[RunningCoordinator]:
    settings = CoordinatorSettings(grpc_port=0, state_dir=folder, require_keys=require_keys, drain_s=0.5)
    async with asyncio.timeout(30), running(settings, SystemClock()) as coordinator:
        yield coordinator


@asynccontextmanager
async def dialled(at: RunningCoordinator, key: str = "") -> AsyncGenerator[GrpcCluster]:
    cluster = GrpcCluster(at.grpc_address, within_s=5, key=lambda: key)
    try:
        yield cluster
    finally:
        await cluster.aclose()


async def key_of(at: RunningCoordinator, *scopes: Scope, trusted: bool = False) -> str:
    wish = NewKey(name=f"{'-'.join(scopes)}{trusted}", scopes=scopes, trusted=trusted)
    return (await at.coordinator.create_key(wish)).text


def methods() -> Iterator[str]:
    """Every method of every service of the protocol."""
    for file in (coordinator_pb2.DESCRIPTOR, membership_pb2.DESCRIPTOR, node_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}"


async def status_of(address: str, method: str, metadata: tuple[tuple[str, str | bytes], ...] = ()) -> grpc.StatusCode:
    """Of a call that sends nothing."""

    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    async with aio.insecure_channel(address, options=DIALER_OPTIONS) as channel:
        multi: StreamStream = channel.stream_stream(method)
        call = multi(nothing(), metadata=metadata, timeout=5)
        try:
            async for _ in call:
                pass
        except aio.AioRpcError:
            pass
        return await call.code()


def call_of(user: str) -> Call:
    generation = Generation(messages=(Message(role="user", content="hi"),))
    return Call(
        request_id=new_request_id(),
        model=ModelName("nobody-has-it"),
        dialect=Dialect.OPENAI_CHAT,
        stream=False,
        generation=generation.encoded(),
        prompt_tokens_estimate=1,
        within_s=5,
        user=user,
    )


async def submit(cluster: GrpcCluster, user: str = "") -> None:
    async for _ in cluster.submit(call_of(user)):
        pass


def test_every_method_has_its_right_and_no_right_is_left_without_its_method() -> None:
    assert set(methods()) == set(RIGHTS)


def test_without_a_key_every_method_is_refused_but_those_of_agents(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            for method in methods():
                if not isinstance(RIGHTS[method], Proof):
                    assert await status_of(at.grpc_address, method) is grpc.StatusCode.UNAUTHENTICATED, method

    asyncio.run(run())


def test_a_key_of_the_wrong_scope_is_refused_by_every_method(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            for scope in Scope:
                shown = (("authorization", f"Bearer {await key_of(at, scope)}"),)
                for method, allowed in RIGHTS.items():
                    if isinstance(allowed, Proof) or scope in allowed or scope is Scope.ADMIN:
                        continue
                    status = await status_of(at.grpc_address, method, shown)
                    assert status is grpc.StatusCode.PERMISSION_DENIED, (method, scope)

    asyncio.run(run())


def test_a_method_that_nobody_declared_is_refused_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {method: right for method, right in RIGHTS.items() if not method.endswith("/GetState")}
    monkeypatch.setattr("chorus_server.guard.RIGHTS", declared)

    async def run() -> None:
        async with hub(tmp_path, require_keys=False) as at:
            shown = (("authorization", f"Bearer {at.coordinator.keys.local_text}"),)
            for metadata in ((), shown):
                status = await status_of(at.grpc_address, "/chorus.v1.CoordinatorService/GetState", metadata)
                assert status is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/chorus.v1.CoordinatorService/Nope", "/chorus.v1.coordinatorservice/GetState", "/"])
def test_a_path_that_is_no_method_is_unimplemented(tmp_path: Path, path: str) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            assert await status_of(at.grpc_address, path) is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(run())


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer x", "bearer chorus_", "chorus_00000000_", "Basic eHg=", "Bearer " + "x" * 4_000]
)
def test_what_is_no_key_is_unauthenticated(tmp_path: Path, value: str) -> None:
    async def run() -> None:
        for require_keys in (True, False):
            async with hub(tmp_path, require_keys=require_keys) as at:
                shown = (("authorization", value),)
                method = "/chorus.v1.CoordinatorService/GetState"
                assert await status_of(at.grpc_address, method, shown) is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(run())


def test_the_words_of_a_refusal_reach_the_caller_as_typed_errors(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            async with dialled(at) as nobody:
                with pytest.raises(InvalidApiKey, match="needed"):
                    await nobody.state()
                with pytest.raises(InvalidApiKey, match="needed"):
                    await submit(nobody)
            async with dialled(at, key_text()[1]) as stranger:
                with pytest.raises(InvalidApiKey, match="unknown"):
                    await stranger.state()
            async with dialled(at, await key_of(at, Scope.METRICS)) as watcher:
                assert await watcher.metrics()
                with pytest.raises(Forbidden, match="scope"):
                    await submit(watcher)

    asyncio.run(run())


def test_keys_are_made_listed_and_revoked_across_the_wire(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            own = local_key(tmp_path, at.grpc_address)
            async with dialled(at, own) as admin:
                wish = NewKey(name="ann", scopes=(Scope.INFER,), expires_in_s=60, parallel=3, tokens_per_day=2**31)
                made = await admin.create_key(wish)
                assert made.key.parallel == 3 and made.key.tokens_per_day == 2**31
                async with dialled(at, made.text) as ann:
                    with pytest.raises(NoNodes):
                        await submit(ann)
                    (shown,) = await admin.list_keys()
                    assert shown.last_used_unix_s is not None and shown.key_id == made.key.key_id
                    assert (await admin.revoke_key("ann")).revoked_unix_s is not None
                    with pytest.raises(InvalidApiKey, match="revoked"):
                        await ann.state()

    asyncio.run(run())


def test_a_revoked_key_ends_the_stream_that_it_opened_within_a_second(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            await key_of(at, Scope.ADMIN)
            shown = (("authorization", f"Bearer {await key_of(at, Scope.INFER)}"),)
            ended = asyncio.Event()

            async def silent() -> AsyncIterator[bytes]:
                await ended.wait()
                return
                yield b""

            async with aio.insecure_channel(at.grpc_address, options=DIALER_OPTIONS) as channel:
                method: StreamStream = channel.stream_stream("/chorus.v1.CoordinatorService/Calls")
                call = method(silent(), metadata=shown)
                reading = asyncio.ensure_future(call.code())
                done, _ = await asyncio.wait({reading}, timeout=0.3)
                assert not done, "the stream stays open as long as the key is good"
                await at.coordinator.revoke_key("inferFalse")
                async with asyncio.timeout(granted_s(1.0)):
                    assert await reading is not grpc.StatusCode.OK
                ended.set()

    asyncio.run(run())


def test_only_a_trusted_key_may_ask_for_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users: list[str] = []

    async def run() -> None:
        async with hub(tmp_path) as at:
            real = at.coordinator.submit

            def noting(call: Call):  # what `submit` returns
                users.append(call.user)
                return real(call)

            monkeypatch.setattr(at.coordinator, "submit", noting)
            keys = [await key_of(at, Scope.INFER), await key_of(at, Scope.INFER, trusted=True)]
            for key in (*keys, at.coordinator.keys.local_text):
                async with dialled(at, key) as cluster:
                    with pytest.raises(NoNodes):
                        await submit(cluster, "webui/eve")

    asyncio.run(run())
    assert users == ["inferFalse", "webui/eve", "webui/eve"]


def test_on_loopback_nothing_is_asked_and_the_key_of_this_pc_dies_with_its_coordinator(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path, require_keys=None) as at:
            async with dialled(at) as nobody:
                await nobody.state()
            old = local_key(tmp_path, at.grpc_address)
            assert old and local_key(tmp_path, "192.0.2.1:" + at.grpc_address.rpartition(":")[2]) == ""
            assert local_key(tmp_path, "127.0.0.1:1") == ""
        assert local_key(tmp_path, at.grpc_address) == ""
        async with hub(tmp_path) as again, dialled(again, old) as ghost:
            with pytest.raises(InvalidApiKey):
                await ghost.state()

    asyncio.run(run())


def test_a_coordinator_that_is_away_is_still_told_as_such() -> None:
    async def run() -> None:
        cluster = GrpcCluster("127.0.0.1:9", within_s=1, key=lambda: key_text()[1])
        with pytest.raises(CoordinatorUnavailable):
            await cluster.state()
        await cluster.aclose()

    asyncio.run(run())
