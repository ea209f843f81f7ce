"""All senses together: what breaks or hangs is left out, and left alone for a while."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import NamedTuple

import psutil
import pytest

from chorus_client.activity import sensors
from chorus_client.activity.seen import Battery
from chorus_client.activity.sensors import Sensors, battery_now
from tests.support.clock import FakeClock


def test_this_pc_can_be_looked_at() -> None:
    async def scenario() -> None:
        senses = Sensors(FakeClock(), idle=True, cpu=True, gpu=True)
        await senses.look()
        seen = await senses.look()
        assert seen.ram_available_bytes is not None and seen.ram_available_bytes > 0
        assert seen.foreign_cpu_percent is None or 0 <= seen.foreign_cpu_percent <= 100
        assert seen.idle_s is None or seen.idle_s >= 0

    asyncio.run(scenario())


def test_what_is_not_wanted_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> float:
        raise AssertionError("nobody wants to know")

    monkeypatch.setattr(sensors, "idle_sense", lambda: never)

    async def scenario() -> None:
        seen = await Sensors(FakeClock(), idle=False, cpu=False, gpu=False).look()
        assert (seen.idle_s, seen.foreign_cpu_percent, seen.foreign_gpu_percent) == (None, None, None)

    asyncio.run(scenario())


class Sense:
    """Of the owner's input."""

    def __init__(self) -> None:
        self.asked = 0
        self.breaks = False
        self.let_go = threading.Event()
        self.hangs = False

    def __call__(self) -> float:
        self.asked += 1
        if self.breaks:
            raise OSError("the driver is gone")
        if self.hangs:
            self.let_go.wait(30)
        return 7.0


@pytest.mark.parametrize("fault", ["breaks", "hangs"])
def test_a_sense_that_fails_costs_a_second_and_is_asked_again_much_later(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    sense = Sense()
    monkeypatch.setattr(sensors, "idle_sense", lambda: sense)

    async def scenario() -> None:
        clock = FakeClock()
        senses = Sensors(clock, idle=True, cpu=False, gpu=False)
        assert (await senses.look()).idle_s == 7.0
        setattr(sense, fault, True)
        began_s = time.monotonic()
        seen = await senses.look()
        assert time.monotonic() - began_s < 2
        assert seen.idle_s is None
        assert seen.ram_available_bytes is not None, "the others are not held up"
        clock.advance(100)
        assert (await senses.look()).idle_s is None
        assert sense.asked == 2
        setattr(sense, fault, False)
        clock.advance(300)
        assert (await senses.look()).idle_s == 7.0

    try:
        asyncio.run(scenario())
    finally:
        sense.let_go.set()


class PsutilBattery(NamedTuple):
    percent: float
    secsleft: int
    power_plugged: bool | None


@pytest.mark.parametrize(
    ("told", "battery"),
    [
        (None, None),
        (PsutilBattery(50, -1, None), None),
        (PsutilBattery(50, 3600, False), Battery(on_mains=False, percent=50)),
        (PsutilBattery(100, -2, True), Battery(on_mains=True, percent=100)),
    ],
)
def test_a_battery_is_what_psutil_knows(
    monkeypatch: pytest.MonkeyPatch, told: PsutilBattery | None, battery: Battery | None
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: told, raising=False)
    assert battery_now() == battery
