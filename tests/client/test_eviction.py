from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest

from bench.pool_eviction import POOLS_BYTES, compared
from chorus_client.eviction import UseLog, WarmModel, evict
from chorus_proto.ids import ModelName

GB = 1_000_000_000


def warm(name: str, gigabytes: float, *, uses: float, load_s: float | None = None) -> WarmModel:
    size = int(gigabytes * GB)
    return WarmModel(
        model=ModelName(name), resident_bytes=size, uses=uses, load_s=gigabytes if load_s is None else load_s
    )


def test_a_use_counts_half_after_each_half_life() -> None:
    log = UseLog(half_life_s=100)
    log.record(ModelName("a"), 0)
    assert log.value(ModelName("a"), 0) == 1
    assert log.value(ModelName("a"), 100) == pytest.approx(0.5)
    assert log.value(ModelName("a"), 300) == pytest.approx(0.125)
    log.record(ModelName("a"), 100)
    assert log.value(ModelName("a"), 200) == pytest.approx(0.75)


def test_a_model_that_was_never_asked_for_counts_nothing() -> None:
    assert UseLog().value(ModelName("a"), 5) == 0


def test_the_log_forgets_the_least_used_of_too_many_names() -> None:
    log = UseLog(half_life_s=10)
    for index in range(4097):
        log.record(ModelName(f"m{index:05}"), index)
    assert log.value(ModelName("m00000"), 4097) == 0
    assert log.value(ModelName("m04096"), 4096) == 1


def test_yesterdays_favourite_goes_before_todays_model() -> None:
    log = UseLog(half_life_s=1800)
    for minute in range(50):
        log.record(ModelName("old"), minute * 60)
    log.record(ModelName("new"), 86_400)
    models = [warm(name, 4, uses=log.value(ModelName(name), 86_400)) for name in ("new", "old")]
    assert evict(models, GB).models == ("old",)


def test_of_two_models_used_alike_the_one_that_loads_faster_goes() -> None:
    slow, fast = warm("slow", 4, uses=2, load_s=40), warm("fast", 4, uses=2, load_s=4)
    assert evict([slow, fast], 3 * GB).models == ("fast",)


@pytest.mark.parametrize("kept", [{"pinned": True}, {"running": 1}, {"preloaded": True}])
def test_pinned_busy_and_preloaded_models_stay(kept: dict[str, int]) -> None:
    models = [replace(warm("a", 4, uses=0), **kept), warm("b", 4, uses=9)]
    assert evict(models, 3 * GB).models == ("b",)
    refused = evict(models, 5 * GB)
    assert (refused.models, refused.enough) == ((), False)


def test_nothing_is_evicted_when_nothing_is_missing() -> None:
    found = evict([warm("a", 4, uses=0)], 0)
    assert (found.models, found.freed_bytes, found.enough) == ((), 0, True)


def test_a_model_that_the_others_make_superfluous_is_spared() -> None:
    models = [warm("tiny", 1, uses=0.1), warm("big", 8, uses=1)]
    assert evict(models, 5 * GB).models == ("big",)


def test_one_dear_model_per_byte_goes_alone_when_that_costs_less_in_all() -> None:
    # Cheapest per byte are the two large ones, but the small one alone frees enough and is worth less than either.
    models = [warm("large", 10, uses=1), warm("small", 3, uses=1.2)]
    assert evict(models, 3 * GB).models == ("small",)


def test_equal_worth_is_settled_by_size_and_then_by_name() -> None:
    models = [warm("b", 2, uses=0), warm("a", 2, uses=0), warm("c", 3, uses=0)]
    for order in (models, models[::-1]):
        assert evict(order, GB).models == ("c",)
        assert evict(order, 4 * GB).models == ("c", "a")


def test_any_choice_frees_enough_needs_every_victim_and_costs_little_more_than_the_best() -> None:
    rng = random.Random(3)
    excess: list[float] = []
    for _ in range(400):
        models = [
            replace(warm(f"m{index}", rng.uniform(0.5, 20), uses=rng.random() * 5), pinned=rng.random() < 0.15)
            for index in range(rng.randint(1, 7))
        ]
        missing = int(rng.uniform(0.1, 30) * GB)
        found = evict(models, missing)
        by_name = {one.model: one for one in models}
        chosen = [by_name[name] for name in found.models]
        possible = [one for one in models if one.evictable]
        assert found.enough == (sum(one.resident_bytes for one in possible) >= missing)
        if not found.enough:
            continue
        assert found.freed_bytes == sum(one.resident_bytes for one in chosen) >= missing
        assert all(one.evictable for one in chosen)
        assert all(found.freed_bytes - one.resident_bytes < missing for one in chosen)
        best = min(
            sum(one.worth_s for one in group)
            for count in range(1, len(possible) + 1)
            for group in combinations(possible, count)
            if sum(one.resident_bytes for one in group) >= missing
        )
        excess.append(sum(one.worth_s for one in chosen) / best)
    assert sum(excess) / len(excess) < 1.05
    assert max(excess) < 2


def test_a_full_pool_loads_less_than_with_the_least_recently_used_rule() -> None:
    for pool_bytes, most in zip(POOLS_BYTES, (1.0, 0.93, 0.88), strict=True):
        _, by_last_use, ours = compared(pool_bytes, range(201, 204), reshuffle=False)
        assert ours <= most * by_last_use
