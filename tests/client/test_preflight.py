from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from chorus_client.eviction import WarmModel
from chorus_client.ledger import RAM, Ledger, Place, gpu_place
from chorus_client.preflight import Fit, Memory, Need, Reserve, Verdict, preflight
from chorus_proto import catalogue
from chorus_proto.ids import ModelName
from chorus_proto.sizing import DeviceKind, LoadShape, estimate, host_bytes

GB = 1_000_000_000
CARD, OTHER_CARD = gpu_place(0), gpu_place(1)
NOTHING_KEPT = Reserve(least_bytes=0, share=0)


def need(
    name: str = "llama3.1:8b",
    *,
    context_tokens: int = 16_384,
    slots: int = 1,
    device: DeviceKind = DeviceKind.CPU,
    correction: float = 1.0,
) -> Need:
    entry = catalogue.entry(name)
    assert entry is not None
    return Need(
        model=entry.name,
        shape=entry.shape,
        file_bytes=entry.file_bytes,
        load=LoadShape(context_tokens=context_tokens, slots=slots),
        device=device,
        correction=correction,
    )


def memory(place: Place, free: float | None, total: float = 32) -> Memory:
    return Memory(place=place, total_bytes=int(total * GB), free_bytes=None if free is None else int(free * GB))


def warm(name: str, gigabytes: float, *, uses: float = 1.0, running: int = 0) -> WarmModel:
    size = int(gigabytes * GB)
    return WarmModel(model=ModelName(name), resident_bytes=size, uses=uses, load_s=gigabytes, running=running)


def judged(
    wanted: Need,
    memories: Sequence[Memory],
    *,
    ledger: Ledger | None = None,
    resident: Mapping[Place, Sequence[WarmModel]] | None = None,
    reserve: Reserve = NOTHING_KEPT,
) -> Verdict:
    return preflight(wanted, memories, ledger or Ledger(), resident or {}, reserve=reserve)


def test_a_model_smaller_than_what_is_free_fits_and_the_words_do_the_sum() -> None:
    verdict = judged(need(), [memory(RAM, 10)])
    assert verdict.fit is Fit.FITS
    assert verdict.needs == {RAM: verdict.needed_bytes}
    assert verdict.words == "needs 7.3 GB = 4.9 weights + 2.1 KV at 16k + 0.3 buffers; free 10.0"


def test_where_it_does_not_fit_the_largest_context_that_would_is_named() -> None:
    verdict = judged(need(context_tokens=32_768), [memory(RAM, 7)])
    assert verdict.fit is Fit.DOES_NOT_FIT
    found = verdict.fitting_context_tokens
    assert found is not None
    assert found % 256 == 0
    entry = catalogue.entry("llama3.1:8b")
    assert entry is not None

    def needs(tokens: int) -> int:
        load = LoadShape(context_tokens=tokens)
        return estimate(entry.shape, entry.file_bytes, load, DeviceKind.CPU).total_bytes

    assert needs(found) <= 7 * GB < needs(found + 256)
    assert verdict.words.startswith("needs 9.5 GB = 4.9 weights + 4.3 KV at 32k + 0.3 buffers; free 7.0 (")
    assert verdict.words.endswith("; fits at 13.5k")
    assert judged(need(context_tokens=found), [memory(RAM, 7)]).fit is Fit.FITS


def test_a_context_below_4096_is_never_proposed() -> None:
    verdict = judged(need(), [memory(RAM, 5.3)])
    assert verdict.fitting_context_tokens is None
    assert verdict.words.endswith("; does not fit at any context")
    assert judged(need(context_tokens=2048), [memory(RAM, 5.3)]).fitting_context_tokens is None


def test_the_least_context_of_a_model_trained_with_less_is_its_own() -> None:
    verdict = judged(need("demo-tiny", context_tokens=1024, slots=4), [memory(RAM, 0.02)])
    assert verdict.fit is Fit.DOES_NOT_FIT
    assert verdict.fitting_context_tokens is None


def test_idle_models_are_evicted_by_worth_and_a_smaller_context_is_offered_beside() -> None:
    resident = {RAM: [warm("often", 4, uses=9), warm("seldom", 4, uses=0.1), warm("busy", 9, uses=0, running=1)]}
    verdict = judged(need(context_tokens=32_768), [memory(RAM, 7)], resident=resident)
    assert verdict.fit is Fit.FITS_AFTER_EVICTING
    assert verdict.evict == ("seldom",)
    assert verdict.fitting_context_tokens is not None
    assert verdict.words.endswith("; fits after unloading seldom, or at 13.5k at once")


def test_a_context_that_needs_evictions_is_proposed_when_even_they_are_not_enough() -> None:
    resident = {RAM: [warm("idle", 2)]}
    verdict = judged(need(context_tokens=131_072), [memory(RAM, 4.5)], resident=resident)
    assert verdict.fit is Fit.DOES_NOT_FIT
    assert verdict.evict == ()
    assert verdict.fitting_context_tokens is not None
    retried = judged(need(context_tokens=verdict.fitting_context_tokens), [memory(RAM, 4.5)], resident=resident)
    assert retried.fit is Fit.FITS_AFTER_EVICTING


def test_two_loads_cannot_both_take_the_same_free_memory() -> None:
    ledger = Ledger()
    first = judged(need("llama3.1:8b"), [memory(RAM, 10)], ledger=ledger)
    ledger.reserve(ModelName("llama3.1:8b"), first.needs)
    second = judged(need("qwen3:8b"), [memory(RAM, 10)], ledger=ledger)
    assert first.fit is Fit.FITS
    assert second.fit is Fit.DOES_NOT_FIT
    assert "7.9 GB are promised to other loads" in second.words
    ledger.release(ModelName("llama3.1:8b"))
    assert judged(need("qwen3:8b"), [memory(RAM, 10)], ledger=ledger).fit is Fit.FITS


def test_a_loads_own_promise_does_not_stand_in_its_way() -> None:
    ledger = Ledger()
    ledger.reserve(ModelName("llama3.1:8b"), {RAM: 7 * GB})
    assert judged(need(), [memory(RAM, 8)], ledger=ledger).fit is Fit.FITS


@pytest.mark.parametrize(("total", "kept"), [(32.0, 1.6), (4.0, (512 << 20) / GB)])
def test_the_reserve_is_the_larger_of_half_a_gibibyte_and_a_twentieth(total: float, kept: float) -> None:
    small = need("llama3.2:1b", context_tokens=4096)
    needed = judged(small, [memory(RAM, 100)]).needed_bytes / GB
    for spare, fit in ((0.001, Fit.FITS), (-0.001, Fit.DOES_NOT_FIT)):
        verdict = judged(small, [memory(RAM, needed + kept + spare, total)], reserve=Reserve())
        assert verdict.fit is fit


def test_what_others_use_is_what_is_neither_free_nor_ours() -> None:
    words = judged(need(context_tokens=32_768), [memory(RAM, 5, 24)], resident={RAM: [warm("a", 3, running=1)]}).words
    assert "ram: 5.0 GB of 24.0 GB are unused" in words
    assert "models here hold 3.0 GB, other programs 16.0 GB" in words


def test_a_discrete_card_is_judged_by_its_own_memory_and_ram_by_its_own() -> None:
    on_card = need(device=DeviceKind.DISCRETE_GPU)
    verdict = judged(on_card, [memory(RAM, 1), memory(CARD, 9, 12)])
    assert verdict.fit is Fit.FITS
    assert verdict.needs == {CARD: verdict.needed_bytes, RAM: host_bytes(1)}
    assert judged(on_card, [memory(RAM, 30), memory(CARD, 5, 12)]).fit is Fit.DOES_NOT_FIT
    starved = judged(on_card, [memory(RAM, 0.001), memory(CARD, 9, 12)])
    assert starved.fit is Fit.DOES_NOT_FIT
    assert "ram is short" in starved.words


def test_the_card_with_the_most_room_is_taken() -> None:
    verdict = judged(
        need(device=DeviceKind.DISCRETE_GPU), [memory(RAM, 8), memory(CARD, 9, 12), memory(OTHER_CARD, 11, 12)]
    )
    assert OTHER_CARD in verdict.needs
    assert CARD not in verdict.needs


def test_a_model_too_large_for_each_card_is_spread_over_all() -> None:
    cards = [memory(RAM, 8), memory(CARD, 22, 24), memory(OTHER_CARD, 22, 24)]
    verdict = judged(need("qwen3:32b", context_tokens=32_768, device=DeviceKind.DISCRETE_GPU), cards)
    assert verdict.fit is Fit.FITS
    assert verdict.needs[CARD] == verdict.needs[OTHER_CARD] > 14 * GB
    alone = judged(need("qwen3:32b", context_tokens=32_768, device=DeviceKind.DISCRETE_GPU), cards[:2])
    assert verdict.needed_bytes > alone.needed_bytes


def test_evicting_happens_on_the_card_where_it_costs_least() -> None:
    resident = {CARD: [warm("dear", 8, uses=9)], OTHER_CARD: [warm("cheap", 8, uses=0.1)]}
    verdict = judged(
        need(device=DeviceKind.DISCRETE_GPU),
        [memory(RAM, 8), memory(CARD, 3, 12), memory(OTHER_CARD, 2, 12)],
        resident=resident,
    )
    assert verdict.fit is Fit.FITS_AFTER_EVICTING
    assert verdict.evict == ("cheap",)
    assert OTHER_CARD in verdict.needs


def test_a_model_in_two_places_is_evicted_once() -> None:
    both = warm("both", 9)
    resident = {CARD: [both], RAM: [warm("both", 1)]}
    verdict = judged(need(device=DeviceKind.DISCRETE_GPU), [memory(RAM, 0), memory(CARD, 1, 12)], resident=resident)
    assert verdict.evict == ("both",)


def test_unknown_free_memory_refuses_nothing() -> None:
    verdict = judged(need(), [memory(RAM, None)])
    assert (verdict.fit, verdict.free_bytes) == (Fit.FITS, None)
    assert verdict.words.endswith("free memory is unknown")
    assert judged(need(), []).fit is Fit.FITS


def test_earlier_loads_correct_the_prediction_and_show_in_the_words() -> None:
    verdict = judged(need(correction=1.2), [memory(RAM, 8)])
    assert verdict.fit is Fit.DOES_NOT_FIT
    assert "needs 8.8 GB = 4.9 weights + 2.1 KV at 16k + 0.3 buffers + 1.5 as measured before;" in verdict.words
    assert "- 0.7 as measured before" in judged(need(correction=0.9), [memory(RAM, 8)]).words


def test_a_model_of_unknown_shape_is_judged_without_proposing_a_context() -> None:
    unknown = Need(
        model=ModelName("x"),
        shape=None,
        file_bytes=5 * GB,
        load=LoadShape(context_tokens=8192),
        device=DeviceKind.CPU,
    )
    verdict = judged(unknown, [memory(RAM, 5)])
    assert verdict.fit is Fit.DOES_NOT_FIT
    assert verdict.fitting_context_tokens is None


def test_a_model_that_runs_elsewhere_always_fits() -> None:
    remote = Need(
        model=ModelName("x"), shape=None, file_bytes=0, load=LoadShape(context_tokens=8192), device=DeviceKind.CPU
    )
    assert judged(remote, [memory(RAM, 0)], reserve=Reserve()).fit is Fit.FITS


def test_random_verdicts_never_promise_more_than_there_is() -> None:
    rng = random.Random(11)
    names = [name for name, entry in catalogue.entries().items() if not entry.embedding]
    for _ in range(300):
        ledger = Ledger()
        ledger.reserve(ModelName("other"), {RAM: rng.randrange(3 * GB)})
        models = [warm(f"m{i}", rng.uniform(0.3, 9), uses=rng.random(), running=rng.random() < 0.3) for i in range(4)]
        free = rng.uniform(0, 30)
        wanted = need(rng.choice(names), context_tokens=rng.choice((4096, 8192, 32_768)), slots=rng.choice((1, 4)))
        verdict = judged(wanted, [memory(RAM, free, 64)], ledger=ledger, resident={RAM: models}, reserve=Reserve())
        if verdict.fit is Fit.DOES_NOT_FIT:
            continue
        freed = sum(one.resident_bytes for one in models if one.model in verdict.evict)
        kept = ledger.outstanding_bytes(RAM) + Reserve().of(64 * GB)
        assert verdict.needs[RAM] + kept <= int(free * GB) + freed
        assert (verdict.evict != ()) == (verdict.fit is Fit.FITS_AFTER_EVICTING)


def test_a_model_of_which_a_card_takes_half_needs_the_other_half_in_ram() -> None:
    whole = need(device=DeviceKind.DISCRETE_GPU)
    half = replace(whole, gpu_share=0.5)
    found = whole.at(16_384)
    split = judged(half, [memory(CARD, 24), memory(RAM, 24)])
    assert split.fit is Fit.FITS
    in_ram = (found.weights_bytes + found.kv_bytes) // 2
    assert split.needs[RAM] == pytest.approx(in_ram + host_bytes(1), rel=0.01)
    assert split.needs[CARD] == pytest.approx(found.total_bytes - in_ram, rel=0.01)
    assert judged(half, [memory(CARD, 5), memory(RAM, 24)]).fit is Fit.FITS
    assert judged(half, [memory(CARD, 5), memory(RAM, 1)]).fit is Fit.DOES_NOT_FIT
    in_host = judged(replace(whole, gpu_share=0.0), [memory(CARD, 1), memory(RAM, 24)])
    assert in_host.needs.keys() == {RAM}
