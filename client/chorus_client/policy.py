"""How much of the PC is left to its owner: a pure decision over what is seen, with memory of what was seen before.

Every condition has a reaction. A condition that was seen holds until it has been gone for its time (hysteresis), so
that a program that works in bursts does not make the node come and go. What cannot be seen is taken as not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from chorus_client.activity.seen import Activity
from chorus_client.working_hours import ALWAYS, LocalTime, WorkingHours
from chorus_proto.values import Courtesy


class Reaction(StrEnum):
    """From nothing to everything: each does what those before it do."""

    IGNORE = "ignore"
    LOWER = "lower"
    """Fewer generations at once."""
    PAUSE = "pause"
    """No new work; what runs goes on."""
    EVICT = "evict"
    """And models are freed as soon as nothing runs on them."""


class Condition(StrEnum):
    HOURS = "hours"
    OWNER = "owner"
    BATTERY = "battery"
    BATTERY_LOW = "battery_low"
    CPU = "cpu"
    GPU = "gpu"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a condition begins. `hours`: in which the PC may work. `away_s`: the owner is away after so long without
    input. `settle_s`: load of other programs must be gone for so long."""

    hours: WorkingHours = ALWAYS
    away_s: float = 300.0
    battery_percent: float = 30.0
    cpu_percent: float = 50.0
    gpu_percent: float = 50.0
    gpu_memory_percent: float = 50.0
    memory_bytes: int = 256 * 1024 * 1024
    settle_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`lowered_slots`: generations at once on the whole PC while a condition asks for fewer."""

    reactions: Mapping[Condition, Reaction]
    limits: Limits = field(default_factory=Limits)
    lowered_slots: int = 1


@dataclass(frozen=True, slots=True)
class Held:
    """A condition that was seen: when last, on the monotonic clock, and what there was to say then."""

    seen_s: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stance:
    """What to do now. `held` goes into the next decision."""

    courtesy: Courtesy = field(default_factory=Courtesy)
    evict: bool = False
    held: Mapping[Condition, Held] = field(default_factory=dict[Condition, Held])


_ORDER = list(Reaction)
_SLACK = 0.8
"""A load must fall below this share of its limit to count as gone."""
_SLACK_PERCENT = 5.0
"""A battery must have this much more than its limit."""
_MEMORY_SLACK = 1.5


def decide(policy: Policy, seen: Activity, before: Stance, now_s: float, local: LocalTime) -> Stance:
    """`now_s` is monotonic, `local` the owner's clock."""
    held: dict[Condition, Held] = {}
    signs = {sign[0]: sign for sign in _signs(policy.limits, seen, local)}
    for condition in Condition:
        if policy.reactions.get(condition, Reaction.IGNORE) is Reaction.IGNORE:
            continue
        known = before.held.get(condition)
        _, begins, lasts, words = signs.get(condition, (condition, False, False, ""))
        if begins or (known is not None and lasts):
            held[condition] = Held(now_s, words)
        elif known is not None and now_s - known.seen_s < _settle_s(condition, policy.limits):
            held[condition] = known
    return _stance(policy, held)


def _stance(policy: Policy, held: Mapping[Condition, Held]) -> Stance:
    if not held:
        return Stance()
    by_weight = sorted(held, key=lambda one: -_ORDER.index(policy.reactions[one]))
    strongest = policy.reactions[by_weight[0]]
    paused = strongest in (Reaction.PAUSE, Reaction.EVICT)
    courtesy = Courtesy(
        paused=paused,
        slots=None if paused else policy.lowered_slots,
        reason=", ".join(held[condition].words for condition in by_weight),
    )
    return Stance(courtesy=courtesy, evict=strongest is Reaction.EVICT, held=held)


def _settle_s(condition: Condition, limits: Limits) -> float:
    """The others say by themselves when they are over."""
    return limits.settle_s if condition in (Condition.CPU, Condition.GPU, Condition.MEMORY) else 0.0


_Sign = tuple[Condition, bool, bool, str]
"""A condition, whether it begins, whether it lasts once it has begun, and its words."""


def _signs(limits: Limits, seen: Activity, local: LocalTime) -> Iterator[_Sign]:
    outside = not limits.hours.allow(local)
    yield Condition.HOURS, outside, outside, f"outside its hours ({limits.hours.words})"
    if seen.idle_s is not None:
        there = seen.idle_s < limits.away_s
        yield Condition.OWNER, there, there, "its owner is at the keyboard"
    if seen.battery is not None and not seen.battery.on_mains:
        percent = seen.battery.percent
        words = f"on battery, {percent:.0f} %"
        yield Condition.BATTERY, True, True, words
        low, lasts = percent < limits.battery_percent, percent < limits.battery_percent + _SLACK_PERCENT
        yield Condition.BATTERY_LOW, low, lasts, words
    if seen.foreign_cpu_percent is not None:
        used = seen.foreign_cpu_percent
        lasts = used >= _SLACK * limits.cpu_percent
        yield Condition.CPU, used >= limits.cpu_percent, lasts, f"other programs use {used:.0f} % of the CPU"
    yield from _gpu_signs(limits, seen)
    if seen.ram_available_bytes is not None:
        free = seen.ram_available_bytes
        words = f"only {free / 1e6:.0f} MB of memory are free"
        yield Condition.MEMORY, free < limits.memory_bytes, free < _MEMORY_SLACK * limits.memory_bytes, words


def _gpu_signs(limits: Limits, seen: Activity) -> Iterator[_Sign]:
    """Work or memory of others on a card, whichever is there."""
    used, held = seen.foreign_gpu_percent or 0.0, seen.foreign_gpu_memory_percent or 0.0
    works, fills = used >= limits.gpu_percent, held >= limits.gpu_memory_percent
    lasts = used >= _SLACK * limits.gpu_percent or held >= _SLACK * limits.gpu_memory_percent
    if fills and not works:
        words = f"other programs hold {held:.0f} % of the GPU's memory"
    else:
        words = f"other programs use {used:.0f} % of the GPU"
    yield Condition.GPU, works or fills, lasts, words
