"""All senses of the agent for its PC's owner: asked every few seconds, each bounded in time, each may know nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

from chorus_client.activity import idle_macos, idle_windows
from chorus_client.activity.family import Family
from chorus_client.activity.foreign_cpu import ForeignCpu
from chorus_client.activity.foreign_gpu import ForeignGpu, GpuUse
from chorus_client.activity.idle_linux import LinuxIdle
from chorus_client.activity.seen import Activity, Battery
from chorus_client.hardware import host
from chorus_client.hardware.bounded import ask
from chorus_proto.clock import Clock

T = TypeVar("T")

_WITHIN_S = 1.0
_REST_S = 300.0
"""After a silence or a failure: a sense that hangs costs one thread each time."""


class Sensors:
    """`idle`, `cpu`, `gpu`: which of the dearer senses are wanted at all. `also`: see `Family`."""

    def __init__(self, clock: Clock, *, idle: bool, cpu: bool, gpu: bool, also: Iterable[str] = ()) -> None:
        self._clock = clock
        family = Family(also)
        self._idle = idle_sense() if idle else None
        self._cpu = ForeignCpu(family) if cpu else None
        self._gpu = ForeignGpu(family).look if gpu else None
        self._rests_until_s: dict[str, float] = {}

    async def look(self) -> Activity:
        """Now. Each sense answers within a second or not at all."""
        idle_s, cpu_percent, gpu, battery = await asyncio.gather(
            self._ask("idle time", self._idle),
            self._ask("CPU use of others", None if self._cpu is None else self._cpu.percent),
            self._ask("GPU use of others", self._gpu),
            self._ask("battery", battery_now),
        )
        gpu = gpu or GpuUse()
        return Activity(
            idle_s=idle_s,
            battery=battery,
            foreign_cpu_percent=cpu_percent,
            foreign_gpu_percent=gpu.work_percent,
            foreign_gpu_memory_percent=gpu.memory_percent,
            ram_available_bytes=host.ram_available_bytes(),
        )

    async def _ask(self, what: str, sense: Callable[[], T | None] | None) -> T | None:
        now_s = self._clock.monotonic_s()
        if sense is None or now_s < self._rests_until_s.get(what, 0.0):
            return None
        answered = False

        def asked() -> T | None:
            nonlocal answered
            answer = sense()
            answered = True
            return answer

        answer = await ask(what, asked, _WITHIN_S)
        if not answered:
            self._rests_until_s[what] = now_s + _REST_S
        return answer


def battery_now() -> Battery | None:
    """None on a PC without one."""
    told = psutil.sensors_battery()
    if told is None or told.power_plugged not in (True, False):
        return None
    return Battery(on_mains=bool(told.power_plugged), percent=float(told.percent))


def idle_sense() -> Callable[[], float | None]:
    """This system's way to tell since when nobody touched the PC."""
    if sys.platform == "win32":
        return idle_windows.idle_s
    if sys.platform == "darwin":
        return idle_macos.idle_s
    return LinuxIdle()
