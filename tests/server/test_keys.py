from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chorus_proto.errors import InvalidApiKey, InvalidRequest, NotFound
from chorus_proto.keys import ApiKey, KeyClaim, KeyId, NewKey, Scope, claim_of, key_text
from chorus_server.keys import Keys
from chorus_server.store import Store
from tests.support.clock import FakeClock
from tests.support.key_secret import secret_of

ANN = NewKey(name="ann", scopes=(Scope.INFER, Scope.METRICS))


@asynccontextmanager
async def opened(folder: Path, clock: FakeClock) -> AsyncGenerator[Keys]:
    store = await asyncio.to_thread(Store.open, folder / "coordinator.sqlite")
    try:
        keys = Keys(store.keys, clock)
        await keys.remember()
        yield keys
        await keys.save()
    finally:
        await asyncio.to_thread(store.close)


def claimed(text: str) -> KeyClaim:
    claim = claim_of(text.encode())
    assert claim is not None
    return claim


def test_a_key_outlives_a_restart_and_its_secret_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    clock = FakeClock()

    async def run() -> str:
        async with opened(tmp_path, clock) as keys:
            made = await keys.create(ANN)
            clock.advance(5)
            keys.check(claimed(made.text))
        async with opened(tmp_path, clock) as keys:
            again = keys.check(claimed(made.text))
            assert again == dataclasses.replace(made.key, last_used_unix_s=clock.unix_s())
            assert made.text not in repr(made)
        return made.text

    text = asyncio.run(run())
    secret = secret_of(text).encode()
    assert all(secret not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_wrong_revoked_and_expired_keys_are_refused_and_told_apart(tmp_path: Path) -> None:
    clock = FakeClock()

    async def run() -> None:
        async with opened(tmp_path, clock) as keys:
            made = await keys.create(dataclasses.replace(ANN, expires_in_s=60))
            other = await keys.create(dataclasses.replace(ANN, name="ben"))
            wrong = KeyClaim(made.key.key_id, claimed(other.text).digest)
            for claim in (
                wrong,
                claimed(key_text()[1]),
                KeyClaim(made.key.key_id, b""),
                KeyClaim(KeyId(""), bytes(32)),
            ):
                with pytest.raises(InvalidApiKey, match="unknown"):
                    keys.check(claim)
            assert keys.any_live
            await keys.revoke("ben")
            with pytest.raises(InvalidApiKey, match="revoked"):
                keys.check(claimed(other.text))
            clock.advance(59)
            keys.check(claimed(made.text))
            clock.advance(2)
            with pytest.raises(InvalidApiKey, match="expired"):
                keys.check(claimed(made.text))
            assert not keys.any_live

    asyncio.run(run())


def test_a_revocation_outlives_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path, FakeClock()) as keys:
            made = await keys.create(ANN)
            await keys.revoke(made.key.key_id)
            assert await keys.revoke("ann") == dataclasses.replace(made.key, revoked_unix_s=FakeClock().unix_s())
        async with opened(tmp_path, FakeClock()) as keys:
            with pytest.raises(InvalidApiKey, match="revoked"):
                keys.check(claimed(made.text))

    asyncio.run(run())


def test_who_works_for_a_key_is_told_once_when_it_is_revoked_and_when_it_expires(tmp_path: Path) -> None:
    clock = FakeClock()
    told: list[str] = []

    async def run() -> None:
        async with opened(tmp_path, clock) as keys:
            one = await keys.create(dataclasses.replace(ANN, expires_in_s=60))
            two = await keys.create(dataclasses.replace(ANN, name="ben"))
            undo = [keys.watch(made.key.key_id, lambda made=made: told.append(made.key.name)) for made in (one, two)]
            keys.sweep()
            assert told == []
            clock.advance(61)
            keys.sweep()
            assert told == ["ann"]
            undo[0]()
            keys.sweep()
            await keys.revoke("ben")
            undo[1]()
            await keys.revoke("ben")
            assert told == ["ann", "ben"]

    asyncio.run(run())


def test_a_name_may_be_used_again_after_its_key_was_revoked(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path, FakeClock()) as keys:
            first = await keys.create(ANN)
            with pytest.raises(InvalidRequest, match="already"):
                await keys.create(ANN)
            await keys.revoke("ann")
            second = await keys.create(ANN)
            assert (await keys.revoke("ann")).key_id == second.key.key_id
            assert [key.key_id for key in keys.list()] == [first.key.key_id, second.key.key_id]
            with pytest.raises(NotFound):
                await keys.revoke("nobody")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": " ann"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "@192.0.2.1"}, "name"),
        ({"owner": "a/b"}, "owner"),
        ({"scopes": ()}, "scopes"),
        ({"expires_in_s": 0.0}, "expires_in_s"),
        ({"expires_in_s": -1.0}, "expires_in_s"),
        ({"expires_in_s": float("nan")}, "expires_in_s"),
        ({"expires_in_s": float("inf")}, "expires_in_s"),
        ({"expires_in_s": 1e12}, "expires_in_s"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"parallel": -1}, "parallel"),
        ({"tokens_per_day": 2**32}, "tokens_per_day"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_by_the_name_of_its_field(
    tmp_path: Path, change: dict[str, object], param: str
) -> None:
    async def run() -> None:
        async with opened(tmp_path, FakeClock()) as keys:
            with pytest.raises(InvalidRequest) as caught:
                await keys.create(dataclasses.replace(ANN, **change))  # pyright: ignore[reportArgumentType]  # any field
            assert caught.value.param == param
            assert keys.list() == ()

    asyncio.run(run())


def test_a_scope_that_a_newer_version_gave_allows_nothing_here(tmp_path: Path) -> None:
    async def run() -> ApiKey:
        async with opened(tmp_path, FakeClock()) as keys:
            made = await keys.create(ANN)
        with sqlite3.connect(tmp_path / "coordinator.sqlite") as connection:
            connection.execute("UPDATE api_key SET scopes = ?", ('["infer", "teleport"]',))
        connection.close()
        async with opened(tmp_path, FakeClock()) as keys:
            return keys.check(claimed(made.text))

    assert asyncio.run(run()).scopes == (Scope.INFER,)


def test_the_key_of_this_pc_is_an_admin_in_no_list_and_another_one_each_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(tmp_path, FakeClock()) as keys:
            own = keys.check(claimed(keys.local_text))
            assert own.may(frozenset()) and own.trusted
            assert keys.list() == () and not keys.any_live
            text = keys.local_text
        async with opened(tmp_path, FakeClock()) as keys:
            with pytest.raises(InvalidApiKey):
                keys.check(claimed(text))

    asyncio.run(run())
