"""How much of the NVIDIA cards programs use that are not Chorus's, by NVML's figures per process.

Only where the driver names processes of this PC: a driver without such figures, or one that numbers processes of
another namespace (containers), tells nothing, because our own work must never look like somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from chorus_client.activity.family import Family
from chorus_client.hardware import nvidia

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """Of the busiest card, in percent, by others."""

    work_percent: float | None = None
    memory_percent: float | None = None


class ForeignGpu:
    """`driver` opens NVML, or says None; it is asked at the first look."""

    def __init__(
        self,
        family: Family,
        driver: Callable[[], ModuleType | None] = nvidia.driver,
        exists: Callable[[int], bool] = psutil.pid_exists,
    ) -> None:
        self._family = family
        self._driver = driver
        self._nvml: ModuleType | None = None
        self._exists = exists
        self._last_us: dict[int, int] = {}

    def look(self) -> GpuUse:
        """Blocks for a millisecond on a healthy driver. Raises NVMLError when the driver is gone."""
        if self._nvml is None:
            self._nvml = self._driver()
        nvml = self._nvml
        if nvml is None:
            return GpuUse()
        cards = range(int(nvml.nvmlDeviceGetCount()))
        work = [used for card in cards if (used := self._work_percent(nvml, card)) is not None]
        memory = [used for card in cards if (used := self._memory_percent(nvml, card)) is not None]
        return GpuUse(work_percent=max(work, default=None), memory_percent=max(memory, default=None))

    def _work_percent(self, nvml: ModuleType, card: int) -> float | None:
        handle = nvml.nvmlDeviceGetHandleByIndex(card)
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, self._last_us.get(card, 0))
        except nvml.NVMLError as error:
            # No process has used the card since the last look, or this card has no such figures.
            return 0.0 if getattr(error, "value", None) == nvml.NVML_ERROR_NOT_FOUND else None
        newest: dict[int, tuple[int, int]] = {}
        for sample in samples:
            pid, at_us = int(sample.pid), int(sample.timeStamp)
            if at_us > newest.get(pid, (0, 0))[0]:
                newest[pid] = (at_us, int(sample.smUtil))
        first = card not in self._last_us
        self._last_us[card] = max([self._last_us.get(card, 0), *(at_us for at_us, _ in newest.values())])
        foreign = None if first else self._foreign(newest)
        # The first answer speaks of the past.
        return None if foreign is None else float(min(100, sum(newest[pid][1] for pid in foreign)))

    def _memory_percent(self, nvml: ModuleType, card: int) -> float | None:
        handle = nvml.nvmlDeviceGetHandleByIndex(card)
        held: dict[int, int] = {}
        try:
            total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
            for question in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
                for process in question(handle):
                    if process.usedGpuMemory is None:
                        return None
                    held[int(process.pid)] = max(held.get(int(process.pid), 0), int(process.usedGpuMemory))
        except nvml.NVMLError:
            return None
        foreign = self._foreign(held)
        return None if foreign is None or not total else 100 * sum(held[pid] for pid in foreign) / total

    def _foreign(self, pids: Iterable[int]) -> list[int] | None:
        """Those that are not ours; None when the driver numbers processes in another way than this PC does."""
        strange = [pid for pid in pids if pid not in self._family.members]
        if strange:
            self._family.refresh()
            strange = [pid for pid in strange if pid not in self._family.members]
        return strange if all(self._exists(pid) for pid in strange) else None
