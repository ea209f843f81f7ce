"""Who of a council is asked."""

from __future__ import annotations

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import Tier
from chorus_server.panel import Candidate, allowed, panel, racers

QUALITY = {Tier.SMALL: 0.38, Tier.MEDIUM: 0.62, Tier.LARGE: 0.8}


def candidate(
    name: str, tier: Tier | None = Tier.LARGE, *, model: str = "", busy: int = 0, speed: float | None = None
) -> Candidate:
    return Candidate(
        node_id=NodeId(name),
        node_name=name,
        model=ModelName(model or str(tier)),
        quality=QUALITY[tier] if tier else 0.5,
        tier=tier,
        slots=2,
        slots_busy=busy,
        tokens_per_s=speed,
    )


def names(members: list[Candidate]) -> list[str]:
    return [member.node_name for member in members]


MIXED = [
    candidate("s", Tier.SMALL),
    candidate("m2", Tier.MEDIUM, speed=9),
    candidate("m1", Tier.MEDIUM, speed=8),
    candidate("l", Tier.LARGE),
]


def test_the_best_are_asked_first_and_the_faster_of_equals() -> None:
    assert names(panel(MIXED, most=None, tiers_apart=None, yield_when_busy=False)) == ["l", "m2", "m1", "s"]
    assert names(panel(MIXED, most=2, tiers_apart=None, yield_when_busy=False)) == ["l", "m2"]


def test_models_far_below_the_best_of_the_panel_are_left_out() -> None:
    assert names(panel(MIXED, most=None, tiers_apart=1, yield_when_busy=False)) == ["l", "m2", "m1"]
    assert names(panel(MIXED, most=None, tiers_apart=0, yield_when_busy=False)) == ["l"]
    unknown = candidate("u", None)
    assert names(panel([*MIXED, unknown], most=None, tiers_apart=1, yield_when_busy=False)) == ["l", "m2", "m1"]
    assert names(panel([MIXED[0], unknown], most=None, tiers_apart=0, yield_when_busy=False)) == ["u", "s"]


def test_a_panel_shrinks_to_its_best_as_the_cluster_fills_up() -> None:
    assert [allowed(5, share) for share in (0.0, 0.5, 0.6, 0.69, 0.7, 1.0)] == [5, 5, 3, 1, 1, 1]
    busy = [candidate(name, busy=2) for name in ("a", "b", "c")]
    assert len(panel(busy, most=3, tiers_apart=None, yield_when_busy=True)) == 1
    assert len(panel(busy, most=3, tiers_apart=None, yield_when_busy=False)) == 3


def test_a_race_is_run_by_idle_replicas_of_the_best_model() -> None:
    field = [
        candidate("a", speed=5),
        candidate("b", speed=50),
        candidate("c", busy=2, speed=99),
        candidate("d", Tier.SMALL, speed=200),
    ]
    assert names(racers(field, None)) == ["b", "a"]
    assert names(racers(field, 1)) == ["b"]
    assert names(racers([candidate("c", busy=2)], None)) == ["c"]
