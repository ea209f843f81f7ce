"""What the policy makes of what is seen; memory of earlier looks is carried by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_client.activity.seen import Activity, Battery
from chorus_client.policy import Condition, Limits, Policy, Reaction, Stance, decide
from chorus_client.working_hours import LocalTime, working_hours
from chorus_proto.values import ALL_OURS

NOON = LocalTime(weekday=0, minute=12 * 60)
LIMITS = Limits(
    hours=working_hours(["22:00-06:00"]),
    away_s=300,
    battery_percent=30,
    cpu_percent=50,
    gpu_percent=60,
    gpu_memory_percent=70,
    memory_bytes=1000,
    settle_s=30,
)
NIGHT = LocalTime(weekday=0, minute=23 * 60)


def policy_of(**reactions: Reaction) -> Policy:
    return Policy(reactions={Condition(name): how for name, how in reactions.items()}, limits=LIMITS, lowered_slots=2)


def stance(policy: Policy, seen: Activity, before: Stance | None = None, now_s: float = 0.0) -> Stance:
    return decide(policy, seen, before or Stance(), now_s, NIGHT)


def on_battery(percent: float) -> Activity:
    return Activity(battery=Battery(on_mains=False, percent=percent))


@pytest.mark.parametrize(
    ("condition", "seen", "words"),
    [
        (Condition.OWNER, Activity(idle_s=299.9), "its owner is at the keyboard"),
        (Condition.BATTERY, on_battery(99), "on battery, 99 %"),
        (Condition.BATTERY_LOW, on_battery(29), "on battery, 29 %"),
        (Condition.CPU, Activity(foreign_cpu_percent=50), "other programs use 50 % of the CPU"),
        (Condition.GPU, Activity(foreign_gpu_percent=60), "other programs use 60 % of the GPU"),
        (Condition.GPU, Activity(foreign_gpu_memory_percent=70), "other programs hold 70 % of the GPU's memory"),
        (Condition.MEMORY, Activity(ram_available_bytes=999), "only 0 MB of memory are free"),
    ],
)
def test_each_condition_begins_at_its_limit_and_says_why(condition: Condition, seen: Activity, words: str) -> None:
    for reaction, paused, evict in (
        (Reaction.LOWER, False, False),
        (Reaction.PAUSE, True, False),
        (Reaction.EVICT, True, True),
    ):
        found = stance(policy_of(**{condition: reaction}), seen)
        assert (found.courtesy.paused, found.evict, found.courtesy.reason) == (paused, evict, words)
        assert found.courtesy.slots == (None if paused else 2)
    assert stance(policy_of(**{condition: Reaction.IGNORE}), seen) == Stance()
    assert stance(policy_of(), seen) == Stance()


@pytest.mark.parametrize(
    "seen",
    [
        Activity(),
        Activity(idle_s=300),
        Activity(battery=Battery(on_mains=True, percent=5)),
        Activity(foreign_cpu_percent=49.9, foreign_gpu_percent=59.9, foreign_gpu_memory_percent=69.9),
        Activity(ram_available_bytes=1000),
    ],
)
def test_what_is_below_its_limit_or_cannot_be_seen_is_not_there(seen: Activity) -> None:
    policy = policy_of(**{condition: Reaction.EVICT for condition in Condition if condition is not Condition.HOURS})
    assert stance(policy, seen).courtesy == ALL_OURS
    assert stance(replace(policy, reactions={Condition.BATTERY_LOW: Reaction.PAUSE}), on_battery(30)) == Stance()


def test_outside_its_hours_a_pc_rests_and_inside_it_works() -> None:
    policy = policy_of(hours=Reaction.PAUSE)
    resting = decide(policy, Activity(), Stance(), 0.0, NOON)
    assert resting.courtesy.reason == "outside its hours (22:00-06:00)"
    assert decide(policy, Activity(), resting, 1.0, NIGHT) == Stance()


def test_load_of_others_must_be_gone_for_its_time_before_it_counts_as_gone() -> None:
    policy = policy_of(cpu=Reaction.LOWER)
    busy = stance(policy, Activity(foreign_cpu_percent=80), now_s=100)
    below = Activity(foreign_cpu_percent=39)
    assert stance(policy, below, busy, now_s=129.9).courtesy == busy.courtesy
    assert stance(policy, below, busy, now_s=130) == Stance()
    quiet = stance(policy, below, busy, now_s=120)
    again = stance(policy, Activity(foreign_cpu_percent=80), quiet, now_s=125)
    assert stance(policy, below, again, now_s=150).courtesy != ALL_OURS, "the time counts from the last burst"


def test_load_that_only_just_falls_below_the_limit_still_holds() -> None:
    policy = policy_of(cpu=Reaction.LOWER, gpu=Reaction.LOWER, memory=Reaction.LOWER)
    seen = Activity(foreign_cpu_percent=50, foreign_gpu_percent=60, ram_available_bytes=999)
    before = stance(policy, seen)
    near = Activity(foreign_cpu_percent=41, foreign_gpu_percent=49, ram_available_bytes=1499)
    after = stance(policy, near, before, now_s=1000)
    assert set(after.held) == {Condition.CPU, Condition.GPU, Condition.MEMORY}
    assert "41 %" in after.courtesy.reason
    assert stance(policy, near, now_s=1000) == Stance(), "none of it would begin like this"


def test_a_battery_that_charges_a_little_does_not_make_the_node_come_and_go() -> None:
    policy = policy_of(battery_low=Reaction.PAUSE)
    low = stance(policy, on_battery(29))
    assert stance(policy, on_battery(34), low, now_s=1).courtesy.paused
    assert stance(policy, on_battery(35), low, now_s=1) == Stance()
    assert stance(policy, Activity(battery=Battery(on_mains=True, percent=10)), low, now_s=1) == Stance()


def test_an_owner_who_left_is_gone_at_once_because_being_away_was_waited_for_already() -> None:
    policy = policy_of(owner=Reaction.PAUSE)
    there = stance(policy, Activity(idle_s=0))
    assert stance(policy, Activity(idle_s=300), there, now_s=1) == Stance()


def test_the_strongest_reaction_wins_and_all_reasons_are_told_the_strongest_first() -> None:
    policy = policy_of(cpu=Reaction.LOWER, memory=Reaction.EVICT, owner=Reaction.PAUSE)
    found = stance(policy, Activity(idle_s=0, foreign_cpu_percent=90, ram_available_bytes=0))
    assert found.evict
    assert found.courtesy.paused
    assert found.courtesy.reason == (
        "only 0 MB of memory are free, its owner is at the keyboard, other programs use 90 % of the CPU"
    )
