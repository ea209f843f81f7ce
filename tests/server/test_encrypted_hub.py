"""A hub with TLS on a real port: who is not its own hub, its member or its caller gets nowhere."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio

from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto import coordinator_pb2, membership_pb2, membership_pb2_grpc, node_pb2, node_pb2_grpc
from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.clock import Clock, SystemClock
from chorus_proto.convert import hello_message
from chorus_proto.convert_membership import join_message
from chorus_proto.errors import ClusterError, CoordinatorUnavailable, Forbidden
from chorus_proto.ids import NodeId, new_node_id
from chorus_proto.keys import LOCAL_KEY_FILE, NewKey, Scope, local_hub
from chorus_proto.membership import JoinWish, digest_of, join_token_of, new_node_secret, node_bearer
from chorus_proto.tls.authority import SERVER_DAYS, Authority
from chorus_proto.tls.dial import dial
from chorus_proto.tls.peer import pinned_authority, why_not
from chorus_server.app import RunningCoordinator, running
from chorus_server.guard import MEMBERS_TOO, RIGHTS, Proof
from chorus_server.settings import CoordinatorSettings
from tests.support.clock import FakeClock
from tests.support.fake_node import hello_of
from tests.support.http_face import until
from tests.support.patience import granted_s

WITHIN_S = granted_s(5.0)
Metadata = tuple[tuple[str, str], ...]


@asynccontextmanager
async def hub(folder: Path, clock: Clock | None = None) -> AsyncGenerator[RunningCoordinator]:
    settings = CoordinatorSettings(grpc_port=0, state_dir=folder, tls=True, require_keys=True, drain_s=0.5)
    async with asyncio.timeout(60), running(settings, clock or SystemClock()) as at:
        yield at


def methods() -> Iterator[str]:
    """Every method of every service of the protocol."""
    for file in (coordinator_pb2.DESCRIPTOR, membership_pb2.DESCRIPTOR, node_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}"


def shown(bearer: str) -> Metadata:
    return (("authorization", f"Bearer {bearer}"),)


def ca_of(at: RunningCoordinator) -> bytes:
    assert at.authority is not None
    return at.authority.pem


async def ended_by(channel: aio.Channel, method: str, metadata: Metadata = ()) -> tuple[grpc.StatusCode, str]:
    """Status and error code of a call that sends nothing."""

    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    multi: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    call = multi(nothing(), metadata=metadata, timeout=WITHIN_S)
    try:
        async for _ in call:
            pass
    except aio.AioRpcError:
        pass
    return await call.code(), str(dict(await call.trailing_metadata()).get(ERROR_CODE_KEY, ""))


async def joined(at: RunningCoordinator, name: str = "attic") -> tuple[NodeId, str]:
    """A member, by the wire: its id and what it shows."""
    assert at.roster is not None
    _, text = await at.roster.create_token()
    token = join_token_of(text)
    assert token is not None
    node_id, secret = new_node_id(), new_node_secret()
    wish = JoinWish(
        token_id=token.token_id, token_secret=token.secret, node_id=node_id, name=name, digest=digest_of(secret)
    )
    async with dial(at.grpc_address, ca_of(at)) as channel:
        await membership_pb2_grpc.MembershipServiceStub(channel).Join(join_message(wish), timeout=WITHIN_S)
    return node_id, node_bearer(node_id, secret)


@asynccontextmanager
async def linked(
    channel: aio.Channel, node_id: NodeId, metadata: Metadata
) -> AsyncGenerator[aio.StreamStreamCall[node_pb2.AgentBatch, node_pb2.CoordinatorBatch]]:
    """A link that has said Hello and nothing since."""
    over = asyncio.Event()

    async def batches() -> AsyncIterator[node_pb2.AgentBatch]:
        hello = node_pb2.AgentFrame(hello=hello_message(hello_of("attic", node_id=node_id)))
        yield node_pb2.AgentBatch(frames=[hello])
        await over.wait()

    call = node_pb2_grpc.NodeServiceStub(channel).Link(batches(), metadata=metadata)
    try:
        yield call
    finally:
        over.set()
        call.cancel()


# The walk -----------------------------------------------------------------------------------------------------------


def test_without_proof_every_method_is_refused_over_tls_but_joining_which_reads_its_token_itself(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, dial(at.grpc_address, ca_of(at)) as channel:
            for method in methods():
                right = RIGHTS[method]
                if right is Proof.TOKEN:
                    assert method.endswith("/Join")
                    continue
                expected = (grpc.StatusCode.UNAUTHENTICATED, "invalid_api_key")
                if right is Proof.MEMBER:
                    expected = (grpc.StatusCode.PERMISSION_DENIED, "forbidden")
                assert await ended_by(channel, method) == expected, method

    asyncio.run(run())


def test_an_admins_key_is_no_node_and_a_nodes_secret_is_no_key(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, dial(at.grpc_address, ca_of(at)) as channel:
            admin = await at.coordinator.create_key(NewKey(name="root", scopes=(Scope.ADMIN,)))
            _, bearer = await joined(at)
            for method in methods():
                right = RIGHTS[method]
                if right is Proof.MEMBER:
                    status, _ = await ended_by(channel, method, shown(admin.text))
                    assert status is grpc.StatusCode.PERMISSION_DENIED, method
                elif right is not Proof.TOKEN and method not in MEMBERS_TOO:
                    status, _ = await ended_by(channel, method, shown(bearer))
                    assert status is grpc.StatusCode.UNAUTHENTICATED, method
            assert {method.rpartition("/")[2] for method in MEMBERS_TOO} == {"GetState"}

    asyncio.run(run())


def test_who_does_not_speak_tls_or_trusts_another_authority_gets_no_connection(tmp_path: Path) -> None:
    other = Authority.made(now_unix_s=SystemClock().unix_s())

    async def run() -> None:
        async with hub(tmp_path) as at:
            for ca_pem in (None, other.pem):
                async with dial(at.grpc_address, ca_pem) as channel:
                    for method in methods():
                        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
                        with pytest.raises(aio.AioRpcError) as caught:
                            await call(b"", metadata=shown(at.coordinator.keys.local_text), timeout=WITHIN_S)
                        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, method
            cluster = GrpcCluster(at.grpc_address, within_s=WITHIN_S, ca_pem=lambda: other.pem)
            with pytest.raises(CoordinatorUnavailable):
                await cluster.state()
            await cluster.aclose()

    asyncio.run(run())


# The hub's identity -------------------------------------------------------------------------------------------------


def test_a_hub_is_known_by_the_fingerprint_of_its_authority_and_another_one_is_not(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            assert at.authority is not None
            address, right = at.grpc_address, at.authority.fingerprint

            def look(fingerprint: str) -> bytes:
                return pinned_authority(address, fingerprint, within_s=WITHIN_S)

            assert await asyncio.to_thread(look, right) == at.authority.pem
            for wrong in ("0" * 64, right[:-1] + ("0" if right[-1] != "0" else "1")):
                with pytest.raises(Forbidden, match="another hub"):
                    await asyncio.to_thread(look, wrong)

    asyncio.run(run())


def test_people_are_told_why_there_is_no_connection(tmp_path: Path) -> None:
    other = Authority.made(now_unix_s=SystemClock().unix_s())

    async def run() -> None:
        async with hub(tmp_path / "hub") as at:

            def ask(ca_pem: bytes | None) -> str:
                return why_not(at.grpc_address, ca_pem, within_s=WITHIN_S)

            assert await asyncio.to_thread(ask, ca_of(at)) == ""
            assert "chorus join-token create" in await asyncio.to_thread(ask, None)
            assert "certificate is not of the hub" in await asyncio.to_thread(ask, other.pem)
        plain = CoordinatorSettings(grpc_port=0, state_dir=tmp_path / "plain", drain_s=0.1)
        async with running(plain, SystemClock()) as clear:
            for ca_pem, words in ((other.pem, "does not speak TLS"), (None, "")):
                told = await asyncio.to_thread(why_not, clear.grpc_address, ca_pem, within_s=WITHIN_S)
                assert words in told and bool(words) == bool(told)
            with pytest.raises(CoordinatorUnavailable):
                await asyncio.to_thread(pinned_authority, clear.grpc_address, "0" * 64, within_s=WITHIN_S)

    asyncio.run(run())


def test_what_the_hub_leaves_for_its_own_pc_holds_key_and_authority_and_goes_with_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            found = local_hub(tmp_path, at.grpc_address)
            assert found is not None and found.ca_pem.encode() == ca_of(at)
            cluster = GrpcCluster(
                at.grpc_address, within_s=WITHIN_S, key=lambda: found.text, ca_pem=lambda: found.ca_pem.encode()
            )
            assert (await cluster.state()).nodes == ()
            await cluster.aclose()
        assert not (tmp_path / LOCAL_KEY_FILE).exists()

    asyncio.run(run())


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus_proto.tls.shown.LOOK_EVERY_S", 0.02)
    # OpenSSL knows only the real time: both certificates must be good now.
    clock = FakeClock(unix_s=SystemClock().unix_s() - (SERVER_DAYS - 5) * 86_400)

    async def run() -> None:
        async with hub(tmp_path, clock) as at:
            host, _, port = at.grpc_address.rpartition(":")

            def certificate() -> str:
                return ssl.get_server_certificate((host, int(port)), timeout=WITHIN_S)

            first = await asyncio.to_thread(certificate)
            clock.advance(SERVER_DAYS * 86_400 * 2 / 3 + 1)
            async with asyncio.timeout(WITHIN_S):
                while await asyncio.to_thread(certificate) == first:
                    await asyncio.sleep(0.02)
            async with dial(at.grpc_address, ca_of(at)) as channel:
                status, _ = await ended_by(channel, "/chorus.v1.CoordinatorService/GetState")
                assert status is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(run())


# Members ------------------------------------------------------------------------------------------------------------


def test_a_member_links_and_is_cut_off_by_its_revocation(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, dial(at.grpc_address, ca_of(at)) as channel:
            assert at.roster is not None
            node_id, bearer = await joined(at)
            async with linked(channel, node_id, shown(bearer)) as call:
                welcome = await call.read()
                assert isinstance(welcome, node_pb2.CoordinatorBatch) and welcome.frames[0].HasField("welcome")
                await at.roster.revoke_member("attic")
                async with asyncio.timeout(granted_s(1.0)):
                    with pytest.raises(aio.AioRpcError) as caught:
                        while await call.read() is not aio.EOF:
                            pass  # what was on its way before
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            for method in (method for method, right in RIGHTS.items() if right is Proof.MEMBER):
                status, _ = await ended_by(channel, method, shown(bearer))
                assert status is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(run())


def test_a_member_can_be_no_other_node_than_itself(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, dial(at.grpc_address, ca_of(at)) as channel:
            victim, _ = await joined(at, "cellar")
            _, bearer = await joined(at)
            async with linked(channel, victim, shown(bearer)) as call:
                assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert (await at.coordinator.state()).nodes == ()

    asyncio.run(run())


def test_agents_of_the_hubs_own_pc_need_no_token(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, dial(at.grpc_address, ca_of(at)) as channel:
            metadata = shown(at.coordinator.keys.local_text)
            async with linked(channel, new_node_id(), metadata) as call:
                assert isinstance(await call.read(), node_pb2.CoordinatorBatch)

    asyncio.run(run())


def test_wrong_tokens_over_the_wire_are_permission_denied_and_then_resource_exhausted(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, dial(at.grpc_address, ca_of(at)) as channel:
            stub = membership_pb2_grpc.MembershipServiceStub(channel)
            codes: list[grpc.StatusCode] = []
            for _ in range(20):
                request = membership_pb2.JoinRequest(
                    token_id="zzzzzz", token_secret="a" * 26, node_id=new_node_id(), name="x", digest=bytes(32)
                )
                try:
                    await stub.Join(request, timeout=WITHIN_S)
                except aio.AioRpcError as error:
                    codes.append(error.code())
            assert codes == [grpc.StatusCode.PERMISSION_DENIED] * 10 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 10

    asyncio.run(run())


def test_a_revoked_key_ends_its_stream_over_tls(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at, dial(at.grpc_address, ca_of(at)) as channel:
            made = await at.coordinator.create_key(NewKey(name="ann", scopes=(Scope.INFER,)))
            over = asyncio.Event()

            async def frames() -> AsyncIterator[bytes]:
                await over.wait()
                yield b""

            multi: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                "/chorus.v1.CoordinatorService/Calls"
            )
            call = multi(frames(), metadata=shown(made.text))
            watched = at.coordinator.keys
            await until(lambda: made.key.key_id in watched._endings)  # pyright: ignore[reportPrivateUsage]  # the stream has begun, which nothing else tells
            await at.coordinator.revoke_key("ann")
            async with asyncio.timeout(granted_s(1.0)):
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            over.set()

    asyncio.run(run())


def test_a_silent_connection_is_closed_though_it_never_shakes_hands(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            host, _, port = at.grpc_address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            async with asyncio.timeout(15):
                while await reader.read(1024):
                    pass
            writer.close()

    asyncio.run(run())


def test_a_hub_in_clear_says_that_it_takes_no_tokens(tmp_path: Path) -> None:
    async def run() -> None:
        settings = CoordinatorSettings(grpc_port=0, state_dir=tmp_path, drain_s=0.1)
        async with running(settings, SystemClock()) as at:
            assert at.authority is None and at.roster is None
            cluster = GrpcCluster(at.grpc_address, within_s=WITHIN_S)
            try:
                with pytest.raises(ClusterError, match="without a token"):
                    await cluster.asked(
                        lambda channel: membership_pb2_grpc.MembershipServiceStub(channel).CreateJoinToken(
                            membership_pb2.CreateJoinTokenRequest(), timeout=WITHIN_S
                        )
                    )
            finally:
                await cluster.aclose()

    asyncio.run(run())
