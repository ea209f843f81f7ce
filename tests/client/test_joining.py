"""An agent's way into an encrypted hub, against a real one."""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from chorus_client.joining import HUB_FILE, HubFile, Joining, read_hub_file
from chorus_client.link import Refused
from chorus_client.membership import IN_CLEAR, Membership
from chorus_proto.clock import SystemClock
from chorus_proto.errors import CoordinatorUnavailable
from chorus_proto.ids import NodeId, new_node_id
from chorus_proto.membership import JoinToken, JoinWish, join_token_of, new_join_token, node_claim_of
from chorus_proto.settings import SettingsError
from chorus_server.app import RunningCoordinator, running
from chorus_server.roster import Roster
from chorus_server.settings import CoordinatorSettings


@asynccontextmanager
async def hub(folder: Path, *, tls: bool = True) -> AsyncGenerator[RunningCoordinator]:
    settings = CoordinatorSettings(grpc_port=0, state_dir=folder / "hub", tls=tls, drain_s=0.1)
    async with asyncio.timeout(60), running(settings, SystemClock()) as at:
        yield at


def roster_of(at: RunningCoordinator) -> Roster:
    assert at.roster is not None
    return at.roster


async def token_of(at: RunningCoordinator) -> JoinToken:
    _, text = await roster_of(at).create_token()
    token = join_token_of(text)
    assert token is not None
    return token


def joining(
    folder: Path, address: str, token: JoinToken | None = None, *, node_id: NodeId | None = None, name: str = "attic"
) -> Joining:
    """Of a PC with a state folder of its own."""
    agent = folder / "pc" / "agents" / name
    agent.mkdir(parents=True, exist_ok=True)
    return Joining(
        address,
        state_dir=folder / "pc",
        folder=agent,
        node_id=node_id or new_node_id(),
        name=name,
        token=token,
        within_s=5.0,
    )


def hub_file(folder: Path, name: str = "attic") -> Path:
    return folder / "pc" / "agents" / name / HUB_FILE


def admits(at: RunningCoordinator, membership: Membership) -> NodeId:
    claim = node_claim_of(membership.bearer.encode())
    assert claim is not None
    return roster_of(at).check(claim)


def test_a_pc_joins_once_and_needs_its_token_never_again(tmp_path: Path) -> None:
    async def run() -> None:
        node_id = new_node_id()
        async with hub(tmp_path) as at:
            token = await token_of(at)
            first = joining(tmp_path, at.grpc_address, token, node_id=node_id)
            came, again = await asyncio.gather(first.membership(), first.membership())
            assert came == again and admits(at, came) == node_id
            assert at.authority is not None and came.ca_pem == at.authority.pem
            for later in (None, token):
                restarted = joining(tmp_path, at.grpc_address, later, node_id=node_id)
                assert await restarted.membership() == came
            assert len(roster_of(at).members()) == 1

    asyncio.run(run())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX modes")
def test_what_it_remembers_only_its_owner_can_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            await joining(tmp_path, at.grpc_address, await token_of(at)).membership()

    asyncio.run(run())
    assert stat.S_IMODE(hub_file(tmp_path).stat().st_mode) == 0o600


def test_a_hub_of_another_authority_hears_nothing_of_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[JoinWish] = []

    async def join(_self: Roster, wish: JoinWish, _address: str) -> None:
        heard.append(wish)

    monkeypatch.setattr(Roster, "join", join)

    async def run() -> None:
        async with hub(tmp_path) as at:
            stranger = joining(tmp_path, at.grpc_address, new_join_token("ab" * 32))
            with pytest.raises(Refused, match="another hub"):
                await stranger.membership()

    asyncio.run(run())
    assert heard == [] and not hub_file(tmp_path).exists()


def test_a_used_token_is_refused_for_good_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            token = await token_of(at)
            await joining(tmp_path, at.grpc_address, token).membership()
            with pytest.raises(Refused, match="used up"):
                await joining(tmp_path, at.grpc_address, token, name="cellar").membership()

    asyncio.run(run())
    assert not hub_file(tmp_path, "cellar").exists()


def test_a_hub_that_is_away_or_in_clear_is_no_refusal(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(CoordinatorUnavailable):
            await joining(tmp_path, "127.0.0.1:9", new_join_token("ab" * 32)).membership()
        async with hub(tmp_path, tls=False) as at:
            with pytest.raises(CoordinatorUnavailable, match="does not speak TLS"):
                await joining(tmp_path, at.grpc_address, new_join_token("ab" * 32)).membership()
            assert await joining(tmp_path, at.grpc_address).membership() == IN_CLEAR

    asyncio.run(run())


def test_after_a_lost_answer_the_same_secret_is_offered_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with hub(tmp_path) as at:
            token = await token_of(at)
            one = joining(tmp_path, at.grpc_address, token)
            before = await one.membership()
            kept = read_hub_file(hub_file(tmp_path))
            assert kept is not None and kept.joined
            hub_file(tmp_path).write_bytes(msgspec.json.encode(msgspec.structs.replace(kept, joined=False)))
            assert await one.membership() == before
            hub_file(tmp_path).write_bytes(msgspec.json.encode(msgspec.structs.replace(kept, joined=False)))
            with pytest.raises(Refused, match="join token again"):
                await joining(tmp_path, at.grpc_address).membership()

    asyncio.run(run())


def test_a_revoked_pc_comes_back_by_a_new_token_with_a_new_secret(tmp_path: Path) -> None:
    async def run() -> None:
        node_id = new_node_id()
        async with hub(tmp_path) as at:
            first = await joining(tmp_path, at.grpc_address, await token_of(at), node_id=node_id).membership()
            await roster_of(at).revoke_member("attic")
            again = joining(tmp_path, at.grpc_address, await token_of(at), node_id=node_id)
            second = await again.membership()
            assert second.bearer != first.bearer and admits(at, second) == node_id

    asyncio.run(run())


def test_an_agent_on_the_hubs_own_state_folder_needs_nothing(tmp_path: Path) -> None:
    async def run(*, tls: bool) -> Membership:
        async with hub(tmp_path, tls=tls) as at:
            own = Joining(
                at.grpc_address,
                state_dir=tmp_path / "hub",
                folder=tmp_path,
                node_id=new_node_id(),
                name="own",
                token=None,
                within_s=5.0,
            )
            return await own.membership()

    encrypted = asyncio.run(run(tls=True))
    assert encrypted.ca_pem is not None and encrypted.metadata
    assert asyncio.run(run(tls=False)) == IN_CLEAR


def test_a_secret_never_travels_in_clear() -> None:
    assert Membership(bearer="secret").metadata == ()


def test_a_damaged_memory_is_named(tmp_path: Path) -> None:
    (tmp_path / HUB_FILE).write_bytes(b"{")
    with pytest.raises(SettingsError, match="damaged"):
        read_hub_file(tmp_path / HUB_FILE)
    whole = HubFile(address="a:1", ca_pem="", secret="s", token_id="t", joined=True)
    (tmp_path / HUB_FILE).write_bytes(msgspec.json.encode(whole))
    assert read_hub_file(tmp_path / HUB_FILE) == whole
