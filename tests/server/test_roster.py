"""Join tokens and members on a real store, with a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chorus_proto.errors import ErrorCode, Forbidden, InvalidRequest, NotFound, RateLimitExceeded
from chorus_proto.ids import NodeId, new_node_id
from chorus_proto.membership import (
    JoinWish,
    NodeClaim,
    TokenId,
    digest_of,
    join_token_of,
    new_node_secret,
)
from chorus_server.roster import TOKEN_LIVES_S, WRONG_PER_MINUTE, WRONG_SECRETS_LIMIT, Roster
from chorus_server.store import Store
from tests.support.clock import FakeClock

PIN = "ab" * 32
ATTIC = "10.0.0.7"


@asynccontextmanager
async def roster(folder: Path, clock: FakeClock | None = None) -> AsyncGenerator[Roster]:
    store = await asyncio.to_thread(Store.open, folder / "hub.sqlite")
    try:
        one = Roster(store.members, clock or FakeClock(), fingerprint=PIN)
        await one.remember()
        yield one
    finally:
        await asyncio.to_thread(store.close)


def wish(text: str, *, node_id: NodeId | None = None, secret: str = "", name: str = "attic") -> JoinWish:
    token = join_token_of(text)
    assert token is not None
    return JoinWish(
        token_id=token.token_id,
        token_secret=token.secret,
        node_id=node_id or new_node_id(),
        name=name,
        digest=digest_of(secret or new_node_secret()),
    )


def claim(of: JoinWish) -> NodeClaim:
    return NodeClaim(of.node_id, of.digest)


async def refused(one: Roster, asked: JoinWish, address: str = ATTIC) -> ErrorCode:
    try:
        await one.join(asked, address)
    except (Forbidden, RateLimitExceeded) as error:
        return error.code
    raise AssertionError("it was let in")


def test_a_token_admits_one_pc_and_is_gone(tmp_path: Path) -> None:
    async def run() -> None:
        async with roster(tmp_path) as one:
            token, text = await one.create_token()
            asked = wish(text)
            await one.join(asked, ATTIC)
            assert one.check(claim(asked)) == asked.node_id
            (member,) = one.members()
            assert (member.name, member.address, member.token_id) == ("attic", ATTIC, token.token_id)
            assert one.tokens() == ()
            assert await refused(one, wish(text)) is ErrorCode.FORBIDDEN

    asyncio.run(run())


def test_a_token_for_several_pcs_counts_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with roster(tmp_path) as one:
            _, text = await one.create_token(uses=2)
            await one.join(wish(text), ATTIC)
            assert [token.uses_left for token in one.tokens()] == [1]
            await one.join(wish(text), ATTIC)
            assert await refused(one, wish(text)) is ErrorCode.FORBIDDEN

    asyncio.run(run())


def test_a_lost_answer_costs_no_token(tmp_path: Path) -> None:
    async def run() -> None:
        async with roster(tmp_path) as one:
            _, text = await one.create_token()
            asked = wish(text)
            await one.join(asked, ATTIC)
            await one.join(asked, ATTIC)
            assert len(one.members()) == 1

    asyncio.run(run())


def test_an_expired_and_a_revoked_token_admit_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        clock = FakeClock()
        async with roster(tmp_path, clock) as one:
            _, text = await one.create_token()
            other, other_text = await one.create_token(expires_in_s=2 * TOKEN_LIVES_S)
            clock.advance(TOKEN_LIVES_S)
            assert await refused(one, wish(text)) is ErrorCode.FORBIDDEN
            assert one.tokens() == (other,)
            await one.revoke_token(other.token_id)
            assert await refused(one, wish(other_text)) is ErrorCode.FORBIDDEN
            with pytest.raises(NotFound):
                await one.revoke_token(other.token_id)

    asyncio.run(run())


def test_a_token_whose_secret_is_guessed_at_is_gone_even_for_who_knows_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with roster(tmp_path) as one:
            token, text = await one.create_token()
            for number in range(WRONG_SECRETS_LIMIT):
                guess = f"chorus1.{PIN}.{token.token_id}.{'a' * 25}{'abcdefgh'[number]}"
                assert await refused(one, wish(guess), f"10.0.1.{number}") is ErrorCode.FORBIDDEN
            assert one.tokens() == ()
            assert await refused(one, wish(text)) is ErrorCode.FORBIDDEN

    asyncio.run(run())


def test_an_address_that_guesses_must_wait_and_others_need_not(tmp_path: Path) -> None:
    async def run() -> None:
        clock = FakeClock()
        async with roster(tmp_path, clock) as one:
            _, good = await one.create_token()
            guess = f"chorus1.{PIN}.zzzzzz.{'a' * 26}"
            codes = [await refused(one, wish(guess)) for _ in range(2 * WRONG_PER_MINUTE)]
            assert codes[:WRONG_PER_MINUTE] == [ErrorCode.FORBIDDEN] * WRONG_PER_MINUTE
            assert codes[WRONG_PER_MINUTE:] == [ErrorCode.RATE_LIMIT_EXCEEDED] * WRONG_PER_MINUTE
            assert await refused(one, wish(good)) is ErrorCode.RATE_LIMIT_EXCEEDED
            await one.join(wish(good), "10.0.0.8")
            clock.advance(60)
            assert await refused(one, wish(guess)) is ErrorCode.FORBIDDEN

    asyncio.run(run())


def test_a_node_id_has_one_owner_until_it_is_revoked(tmp_path: Path) -> None:
    async def run() -> None:
        async with roster(tmp_path) as one:
            _, text = await one.create_token(uses=3)
            first = wish(text)
            await one.join(first, ATTIC)
            thief = wish(text, node_id=first.node_id)
            assert await refused(one, thief) is ErrorCode.FORBIDDEN
            assert one.check(claim(first)) == first.node_id
            with pytest.raises(Forbidden):
                one.check(claim(thief))
            await one.revoke_member("attic")
            with pytest.raises(Forbidden):
                one.check(claim(first))
            await one.join(thief, ATTIC)
            assert one.check(claim(thief)) == first.node_id

    asyncio.run(run())


def test_who_works_for_a_node_is_told_when_it_is_revoked(tmp_path: Path) -> None:
    async def run() -> None:
        async with roster(tmp_path) as one:
            _, text = await one.create_token()
            asked = wish(text)
            await one.join(asked, ATTIC)
            told: list[str] = []
            one.watch(asked.node_id, lambda: told.append("kept"))
            undo = one.watch(asked.node_id, lambda: told.append("taken back"))
            undo()
            await one.revoke_member(asked.node_id)
            await one.revoke_member(asked.node_id)
            assert told == ["kept", "kept"]
            with pytest.raises(NotFound):
                await one.revoke_member("cellar")

    asyncio.run(run())


def test_of_two_members_of_one_name_one_is_named_by_its_id(tmp_path: Path) -> None:
    async def run() -> None:
        async with roster(tmp_path) as one:
            _, text = await one.create_token(uses=2)
            both = [wish(text), wish(text)]
            for asked in both:
                await one.join(asked, ATTIC)
            with pytest.raises(InvalidRequest, match="2 members"):
                await one.revoke_member("attic")
            await one.revoke_member(both[0].node_id)
            assert (await one.revoke_member("attic")).node_id == both[1].node_id

    asyncio.run(run())


def test_tokens_members_and_revocations_outlive_a_restart_and_secrets_are_not_on_the_disk(tmp_path: Path) -> None:
    async def run() -> None:
        secret = new_node_secret()
        async with roster(tmp_path) as one:
            _, text = await one.create_token(uses=3)
            stays, goes = wish(text, secret=secret), wish(text, name="cellar")
            await one.join(stays, ATTIC)
            await one.join(goes, ATTIC)
            await one.revoke_member("cellar")
        async with roster(tmp_path) as one:
            assert one.check(claim(stays)) == stays.node_id
            with pytest.raises(Forbidden):
                one.check(claim(goes))
            assert [token.uses_left for token in one.tokens()] == [1]
            await one.join(wish(text), ATTIC)
        hidden.extend((secret.encode(), text[-26:].encode()))

    hidden: list[bytes] = []
    asyncio.run(run())
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert content and not any(one in content for one in hidden)


@pytest.mark.parametrize(
    ("field", "more"),
    [("node_id", {"node_id": "../../x"}), ("name", {"name": ""}), ("name", {"name": "a\nb"}), ("digest", {})],
)
def test_a_wish_that_makes_no_sense_is_refused_by_the_name_of_its_field(
    tmp_path: Path, field: str, more: dict[str, str]
) -> None:
    asked = JoinWish(
        token_id=TokenId("abcdef"),
        token_secret="x",
        node_id=NodeId(more.get("node_id", new_node_id())),
        name=more.get("name", "attic"),
        digest=digest_of("x") if more else b"short",
    )

    async def run() -> None:
        async with roster(tmp_path) as one:
            with pytest.raises(InvalidRequest) as caught:
                await one.join(asked, ATTIC)
            assert caught.value.param == field

    asyncio.run(run())


@pytest.mark.parametrize("expires_in_s", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_token_lives_for_some_time_and_not_for_ever(tmp_path: Path, expires_in_s: float) -> None:
    async def run() -> None:
        async with roster(tmp_path) as one:
            with pytest.raises(InvalidRequest):
                await one.create_token(expires_in_s=expires_in_s)
            with pytest.raises(InvalidRequest):
                await one.create_token(uses=0)

    asyncio.run(run())
