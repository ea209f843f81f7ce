"""How NVML is kept open, by a stand-in for the driver's library."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import cast

import pytest

from chorus_client.hardware import nvidia
from chorus_client.hardware.nvidia import OpenDriver


class NVMLError(Exception):
    pass


@dataclass
class MemoryInfo:
    free: int


class Nvml:
    """As much of pynvml as is asked; counts how often it is opened and closed."""

    NVMLError = NVMLError

    def __init__(self, *cards: int | None) -> None:
        self.cards = cards
        self.gone = False
        self.opened = self.closed = 0

    def open(self) -> ModuleType:
        self.opened += 1
        return cast("ModuleType", self)

    def nvmlShutdown(self) -> None:
        self.closed += 1
        if self.gone:
            raise NVMLError

    def nvmlDeviceGetCount(self) -> int:
        if self.gone:
            raise NVMLError
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> MemoryInfo:
        free = self.cards[handle]
        if free is None:
            raise NVMLError
        return MemoryInfo(free)


def test_the_driver_stays_open_between_two_questions() -> None:
    nvml = Nvml(5, 6)
    driver = OpenDriver(nvml.open)
    assert driver.free_bytes() == driver.free_bytes() == (5, 6)
    assert (nvml.opened, nvml.closed) == (1, 0)
    driver.close()
    driver.close()
    assert nvml.closed == 1


def test_a_driver_that_was_replaced_is_opened_anew() -> None:
    nvml = Nvml(5)
    driver = OpenDriver(nvml.open)
    assert driver.free_bytes() == (5,)
    nvml.gone = True
    with pytest.raises(NVMLError):
        driver.free_bytes()
    nvml.gone = False
    assert driver.free_bytes() == (5,)
    assert (nvml.opened, nvml.closed) == (2, 1)


def test_one_lost_card_costs_only_its_own_figure() -> None:
    nvml = Nvml(5, None)
    driver = OpenDriver(nvml.open)
    assert driver.free_bytes() == driver.free_bytes() == (5, None)
    assert nvml.closed == 0
    nvml.cards = (None, None)
    assert driver.free_bytes() == (None, None)
    assert nvml.closed == 1


def test_who_asks_once_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(5)
    monkeypatch.setattr(nvidia, "driver", nvml.open)
    assert nvidia.free_bytes() == (5,)
    assert (nvml.opened, nvml.closed) == (1, 1)
