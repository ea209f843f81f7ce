"""What others use of NVIDIA cards, by a stand-in for the driver's library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import cast

from chorus_client.activity.family import Family
from chorus_client.activity.foreign_gpu import ForeignGpu, GpuUse

OURS, GAME, BROWSER, ELSEWHERE = os.getpid(), 900_001, 900_002, 900_003


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value


@dataclass
class Sample:
    pid: int
    timeStamp: int  # noqa: N815  # NVML's name
    smUtil: int  # noqa: N815  # NVML's name


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None  # noqa: N815  # NVML's name


@dataclass
class MemoryInfo:
    total: int


@dataclass
class Card:
    samples: list[Sample] = field(default_factory=list[Sample])
    compute: list[Process] = field(default_factory=list[Process])
    graphics: list[Process] = field(default_factory=list[Process])
    utilization_error: int | None = None
    memory_error: int | None = None


class Nvml:
    """As much of pynvml as is asked."""

    NVML_ERROR_NOT_FOUND = 6
    NVMLError = NVMLError

    def __init__(self, *cards: Card) -> None:
        self.cards = cards

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetProcessUtilization(self, card: Card, since_us: int) -> Sequence[Sample]:
        found = [sample for sample in card.samples if sample.timeStamp > since_us]
        if card.utilization_error is not None or not found:
            raise NVMLError(card.utilization_error or self.NVML_ERROR_NOT_FOUND)
        return found

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> MemoryInfo:
        return MemoryInfo(total=1000)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Process]:
        if card.memory_error is not None:
            raise NVMLError(card.memory_error)
        return card.compute

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: Card) -> list[Process]:
        return card.graphics


def sense(*cards: Card) -> ForeignGpu:
    nvml = Nvml(*cards)
    return ForeignGpu(
        Family(), driver=lambda: cast("ModuleType", nvml), exists=lambda pid: pid in (OURS, GAME, BROWSER)
    )


def test_a_pc_without_the_driver_tells_nothing() -> None:
    assert ForeignGpu(Family(), driver=lambda: None).look() == GpuUse()


def test_work_of_others_is_added_up_and_ours_is_left_out() -> None:
    card = Card(samples=[Sample(GAME, 5, 99)])
    gpu = sense(card)
    assert gpu.look().work_percent is None, "the first answer speaks of the past"
    card.samples = [Sample(OURS, 10, 90), Sample(GAME, 10, 20), Sample(GAME, 11, 30), Sample(BROWSER, 11, 5)]
    assert gpu.look().work_percent == 35, "the newest of each"
    card.samples = []
    assert gpu.look().work_percent == 0, "nobody has used it since"


def test_the_busiest_card_counts() -> None:
    quiet, busy = Card(samples=[Sample(GAME, 1, 10)]), Card(samples=[Sample(BROWSER, 1, 10)])
    gpu = sense(quiet, busy)
    gpu.look()
    quiet.samples, busy.samples = [Sample(GAME, 2, 10)], [Sample(BROWSER, 2, 80)]
    busy.graphics = [Process(BROWSER, 300)]
    quiet.compute = [Process(GAME, 200)]
    assert gpu.look() == GpuUse(work_percent=80, memory_percent=30)


def test_memory_of_a_process_that_computes_and_draws_counts_once() -> None:
    card = Card(compute=[Process(GAME, 400), Process(OURS, 500)], graphics=[Process(GAME, 300)])
    assert sense(card).look().memory_percent == 40


def test_a_card_or_driver_without_such_figures_tells_nothing() -> None:
    blind = Card(utilization_error=3, memory_error=3)
    assert sense(blind).look() == GpuUse()
    assert sense(Card(graphics=[Process(GAME, None)])).look().memory_percent is None


def test_a_driver_that_numbers_processes_in_another_way_tells_nothing() -> None:
    """In a container our own work has numbers of the host, which must not look like somebody else's."""
    card = Card(samples=[Sample(OURS, 1, 1)], compute=[Process(ELSEWHERE, 900)])
    gpu = sense(card)
    gpu.look()
    card.samples = [Sample(ELSEWHERE, 2, 99)]
    assert gpu.look() == GpuUse()
