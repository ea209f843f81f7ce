"""Where a model is loaded that somebody waits for: costs, reasons, refusals."""

from __future__ import annotations

import pytest

from chorus_proto.errors import ErrorCode
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.load_time import expected_load_s
from chorus_proto.sizing import DeviceKind, LoadShape, estimate
from chorus_server.demand_choice import (
    ASSIGNED_FACTOR,
    IN_USE_S,
    LEAVING_S,
    STAY_S,
    TIGHT_S,
    Refusal,
    Resident,
    Site,
    choose,
    refused_error,
)

BIG, TINY, OTHER = ModelName("big"), ModelName("tiny"), ModelName("other")
GB = 10**9
NEEDS = estimate(None, 8 * GB, LoadShape(context_tokens=4096), DeviceKind.CPU)
TOO_BIG = Refusal(code=ErrorCode.INSUFFICIENT_MEMORY, words="answered: big needs 9.8 GB; free 8.6")
LOOPS = Refusal(code=ErrorCode.CRASH_LOOP, words="ended again and again: SIGSEGV")
FAILED = Refusal(code=ErrorCode.LOAD_FAILED, words="could not load it: bad magic", again_in_s=4.0)


def site(
    name: str,
    *,
    load_s: float = 5.0,
    answer_s: float = 2.0,
    free_gb: float | None = 64,
    total_gb: float | None = 64,
    residents: tuple[Resident, ...] = (),
    leaving: bool = False,
    refusal: Refusal | None = None,
) -> Site:
    return Site(
        node_id=NodeId(name),
        node_name=name,
        needs=NEEDS,
        needed_bytes=10 * GB,
        load_s=load_s,
        answer_s=answer_s,
        free_bytes=None if free_gb is None else round(free_gb * GB),
        total_bytes=None if total_gb is None else round(total_gb * GB),
        residents=residents,
        leaving=leaving,
        refusal=refusal,
    )


def resident(model: ModelName = TINY, gb: float = 10, **more: object) -> Resident:
    values = {"reload_s": 1.0, **more}
    return Resident(model=model, resident_bytes=round(gb * GB), **values)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass


def names(*sites: Site) -> list[str]:
    return [offer.site.node_name for offer in choose(sites).offers]


def test_the_least_time_until_the_answer_wins_and_ties_go_to_the_smallest_id() -> None:
    assert names(site("slow", load_s=9), site("quick", load_s=3), site("talker", load_s=3, answer_s=9)) == [
        "quick",
        "slow",
        "talker",
    ]
    assert names(site("b"), site("a")) == ["a", "b"]


def test_an_unmeasured_load_takes_what_reading_the_file_takes() -> None:
    assert expected_load_s(5 * GB) == pytest.approx(11.0)


def test_what_has_to_go_costs_more_the_more_it_is_used() -> None:
    idle = site("idle", residents=(resident(),), free_gb=2)
    busy = site("busy", residents=(resident(requests=2),), free_gb=2)
    home = site("home", residents=(resident(requests=2, assigned=True),), free_gb=2)
    free = site("free")
    assert names(home, busy, idle, free) == ["free", "idle", "busy", "home"]
    costs = {offer.site.node_name: offer.cost_s for offer in choose([home, busy, idle, free]).offers}
    assert costs["idle"] - costs["free"] == pytest.approx(1.0)
    assert costs["busy"] - costs["idle"] == pytest.approx(2 * IN_USE_S)
    assert costs["home"] - costs["free"] == pytest.approx(ASSIGNED_FACTOR * (1 + 2 * IN_USE_S))


def test_only_as_much_is_displaced_as_is_needed_and_the_cheapest_first() -> None:
    crowd = (resident(TINY, 4, requests=1), resident(OTHER, 4), resident(ModelName("third"), 4))
    best = choose([site("attic", free_gb=2, residents=crowd)]).best
    assert best is not None
    assert best.displaced == ("other", "third")
    assert "in place of other, third" in best.reason
    assert choose([site("attic", free_gb=None, residents=crowd)]).best is not None
    unknown = choose([site("attic", free_gb=None, residents=crowd)]).best
    assert unknown is not None
    assert unknown.displaced == ()


def test_a_model_that_came_for_somebody_is_not_displaced_before_its_turn_is_over() -> None:
    fresh = site("fresh", free_gb=2, residents=(resident(requests=1, stays_s=STAY_S),))
    best = choose([fresh]).best
    assert best is not None
    assert best.wait_s == STAY_S
    other_way_out = (resident(requests=1, stays_s=STAY_S), resident(OTHER, 10, requests=3))
    best = choose([site("fresh", free_gb=2, residents=other_way_out)]).best
    assert best is not None
    assert (best.wait_s, best.displaced) == (0, ("other",))
    assert names(fresh, site("elsewhere", load_s=20)) == ["elsewhere", "fresh"]


def test_a_node_that_unloads_the_model_is_waited_for_unless_another_is_quicker() -> None:
    best = choose([site("attic", leaving=True)]).best
    assert best is not None
    assert best.wait_s == LEAVING_S
    assert names(site("attic", leaving=True), site("cellar", load_s=6)) == ["cellar", "attic"]


def test_what_the_owner_keeps_is_not_counted_on_and_a_tight_node_is_asked_last() -> None:
    kept = site("kept", free_gb=2, residents=(resident(movable=False),))
    best = choose([kept]).best
    assert best is not None
    assert best.displaced == ()
    assert best.cost_s == pytest.approx(7 + TIGHT_S)


def test_a_model_larger_than_the_whole_memory_is_refused_with_the_sum() -> None:
    choice = choose([site("pi", total_gb=8), site("attic", refusal=LOOPS), site("unknown", total_gb=None)])
    assert [offer.site.node_name for offer in choice.offers] == ["unknown"]
    refused = dict(choice.refused)
    assert refused["attic"] is LOOPS
    assert refused["pi"].code is ErrorCode.INSUFFICIENT_MEMORY
    assert "needs 9.6 GB = 8.0 weights" in refused["pi"].words
    assert "it has 8.0 GB in all" in refused["pi"].words


def test_memory_everywhere_is_insufficient_memory_with_each_node_and_a_smaller_model() -> None:
    error = refused_error(BIG, [("attic", TOO_BIG), ("cellar", TOO_BIG)], smaller_ready=TINY)
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY
    assert error.message.count("needs 9.8 GB; free 8.6") == 2
    assert "attic answered" in error.message
    assert error.message.endswith("tiny is smaller and ready")
    assert error.retry_after_s


@pytest.mark.parametrize(
    ("refusals", "code"),
    [
        ([LOOPS], ErrorCode.CRASH_LOOP),
        ([LOOPS, TOO_BIG], ErrorCode.CRASH_LOOP),
        ([Refusal(code=ErrorCode.MODEL_DAMAGED, words="found the file damaged: sha256")], ErrorCode.MODEL_DAMAGED),
        ([LOOPS, FAILED], ErrorCode.LOAD_FAILED),
        ([Refusal(code=ErrorCode.NO_REPLICA, words="leaves it to its owner"), FAILED], ErrorCode.LOAD_FAILED),
        ([], ErrorCode.NO_REPLICA),
    ],
)
def test_other_reasons_keep_their_own_code_when_they_agree(refusals: list[Refusal], code: ErrorCode) -> None:
    error = refused_error(BIG, [(f"pc{n}", one) for n, one in enumerate(refusals)], smaller_ready=None)
    assert error.code is code
    assert all(f"pc{n} {one.words}" in error.message for n, one in enumerate(refusals))
    assert error.surface.http == 503
    assert error.retry_after_s


def test_the_first_time_to_ask_again_is_told_and_a_long_list_is_cut() -> None:
    error = refused_error(BIG, [(f"pc{n}", FAILED) for n in range(20)], smaller_ready=None)
    assert error.retry_after_s == 4.0
    assert "and 12 more nodes" in error.message
