from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from chorus_proto.cluster import CallFinished, CallOutput, MemberAnswer
from chorus_proto.errors import RateLimitExceeded
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.keys import ApiKey, KeyId, NewKey, Scope
from chorus_proto.values import Timings, Usage
from chorus_server.keys import Keys
from chorus_server.quotas import DAY_S, Quotas
from chorus_server.store import Store
from tests.support.clock import FakeClock

NOON_S = 1_700_000_000.0 - 1_700_000_000.0 % DAY_S + DAY_S / 2
ANN = ApiKey(
    key_id=KeyId("01234567"), name="ann", owner="ann", scopes=(Scope.INFER,), created_unix_s=0.0, tokens_per_day=100
)


def finished(prompt: int, completion: int) -> CallFinished:
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    return CallFinished(finish_reason="stop", usage=usage, timings=Timings())


def spend(quotas: Quotas, prompt: int, completion: int, key: ApiKey | None = ANN) -> None:
    with quotas.billed(key, prompt_tokens_estimate=5) as bill:
        bill.note(finished(prompt, completion))


def test_a_day_has_so_many_tokens_and_the_next_as_many_again() -> None:
    clock = FakeClock(unix_s=NOON_S)
    quotas = Quotas(clock)
    spend(quotas, 60, 30)
    spend(quotas, 1, 20)  # what began may end
    with pytest.raises(RateLimitExceeded) as caught:
        spend(quotas, 1, 1)
    assert caught.value.retry_after_s == pytest.approx(DAY_S / 2)
    assert quotas.today(ANN.key_id) == 111
    clock.advance(DAY_S / 2)
    assert quotas.today(ANN.key_id) == 0
    spend(quotas, 1, 1)


def test_without_a_key_or_without_a_limit_nothing_is_refused() -> None:
    quotas = Quotas(FakeClock())
    for key in (None, dataclasses.replace(ANN, tokens_per_day=None)):
        for _ in range(3):
            spend(quotas, 1_000, 1_000, key)


def test_an_answer_that_breaks_off_costs_what_was_shown_and_one_that_never_began_nothing() -> None:
    quotas = Quotas(FakeClock())
    with pytest.raises(RuntimeError), quotas.billed(ANN, prompt_tokens_estimate=5) as bill:
        bill.note(CallOutput(b"x", 3))
        raise RuntimeError
    assert quotas.today(ANN.key_id) == 8
    with pytest.raises(RuntimeError), quotas.billed(ANN, prompt_tokens_estimate=5):
        raise RuntimeError
    assert quotas.today(ANN.key_id) == 8


def test_a_council_costs_what_its_members_computed() -> None:
    quotas = Quotas(FakeClock())
    with quotas.billed(ANN, prompt_tokens_estimate=5) as bill:
        for _ in range(3):
            usage = Usage(prompt_tokens=4, completion_tokens=6)
            bill.note(MemberAnswer(node_id=NodeId("1"), node_name="a", model=ModelName("m"), usage=usage))
    assert quotas.today(ANN.key_id) == 30


def test_what_was_spent_outlives_a_restart(tmp_path: Path) -> None:
    clock = FakeClock(unix_s=NOON_S)

    async def opened() -> tuple[Store, Keys]:
        store = await asyncio.to_thread(Store.open, tmp_path / "coordinator.sqlite")
        keys = Keys(store.keys, clock)
        await keys.remember()
        return store, keys

    async def run() -> None:
        store, keys = await opened()
        made = await keys.create(NewKey(name="ann", scopes=(Scope.INFER,), tokens_per_day=10))
        with keys.billed(made.key.key_id, prompt_tokens_estimate=1) as bill:
            bill.note(finished(5, 6))
        await keys.save()
        store.close()
        store, keys = await opened()
        assert keys.list()[0].tokens_today == 11
        with pytest.raises(RateLimitExceeded), keys.billed(made.key.key_id, prompt_tokens_estimate=1):
            pass
        with keys.billed("ffffffff", prompt_tokens_estimate=1):
            pass
        store.close()

    asyncio.run(run())
