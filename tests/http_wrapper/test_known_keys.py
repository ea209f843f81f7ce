from __future__ import annotations

import asyncio

import pytest

from chorus_http.known_keys import FRESH_S, KnownKeys
from chorus_proto.errors import CoordinatorUnavailable, InvalidApiKey
from chorus_proto.keys import ApiKey, KeyClaim, Scope, claim_of
from tests.support.clock import FakeClock
from tests.support.fake_cluster import FakeCluster


def claim_for(cluster: FakeCluster, name: str = "ann") -> KeyClaim:
    claim = claim_of(cluster.add_key(name, Scope.INFER).encode())
    assert claim is not None
    return claim


def test_the_coordinator_is_asked_again_only_when_its_word_is_old() -> None:
    async def run() -> None:
        clock, cluster = FakeClock(), FakeCluster()
        known, claim = KnownKeys(cluster, clock, within_s=1), claim_for(cluster)
        for _ in range(5):
            assert (await known.check(claim)).name == "ann"
        assert cluster.key_checks == 1
        clock.advance(FRESH_S)
        await known.check(claim)
        assert cluster.key_checks == 2

    asyncio.run(run())


def test_many_at_once_ask_once_and_one_of_them_who_leaves_does_not_spoil_it() -> None:
    async def run() -> None:
        cluster = FakeCluster()
        known, claim = KnownKeys(cluster, FakeClock(), within_s=1), claim_for(cluster)
        waiting = [asyncio.create_task(known.check(claim)) for _ in range(10)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert [key.name for key in found[1:] if isinstance(key, ApiKey)] == ["ann"] * 9
        assert cluster.key_checks == 1

    asyncio.run(run())


def test_a_revoked_key_is_bad_once_its_word_is_old_and_a_new_key_is_good_at_once() -> None:
    async def run() -> None:
        clock, cluster = FakeClock(), FakeCluster()
        known, claim = KnownKeys(cluster, clock, within_s=1), claim_for(cluster)
        await known.check(claim)
        await cluster.revoke_key("ann")
        clock.advance(FRESH_S)
        for _ in range(2):
            with pytest.raises(InvalidApiKey):
                await known.check(claim)
        assert (await known.check(claim_for(cluster, "ben"))).name == "ben"

    asyncio.run(run())


def test_a_coordinator_that_says_nothing_is_away() -> None:
    class Silent(FakeCluster):
        async def check_key(self, claim: KeyClaim) -> ApiKey:
            await asyncio.Event().wait()
            return await super().check_key(claim)

    async def run() -> None:
        cluster = Silent()
        with pytest.raises(CoordinatorUnavailable):
            await KnownKeys(cluster, FakeClock(), within_s=0.05).check(claim_for(cluster))

    asyncio.run(run())
