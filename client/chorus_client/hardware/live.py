"""What changes from second to second on this PC, for heartbeats: cheap, and never held up by a driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import psutil

from chorus_client.hardware import amd, host, nvidia
from chorus_client.hardware.free_memory import FreeMemory
from chorus_proto.clock import Clock, SystemClock
from chorus_proto.values import Gpu, Hardware

_DRIVER_S = 0.5
_WAKING_S = 5.0
"""A cold NVIDIA driver takes up to 3 s."""

Driver: TypeAlias = Callable[[], tuple[int | None, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReadings:
    """Free memory in bytes and the CPU's load in percent.

    `gpu_free_bytes` is in the order of `Hardware.gpus`, with None for a GPU without memory of its own and for one whose
    driver does not tell.
    """

    ram_available_bytes: int | None = None
    gpu_free_bytes: tuple[int | None, ...] = ()
    cpu_percent: float | None = None

    def told_of(self, gpus: Sequence[Gpu]) -> tuple[int, ...]:
        """`gpu_free_bytes` for a heartbeat, which has no sign for an unknown figure.

        0 for a GPU that nobody counts; nothing at all when a card that counts does not tell.
        """
        if len(self.gpu_free_bytes) != len(gpus) or all(free is None for free in self.gpu_free_bytes):
            return ()
        for gpu, free in zip(gpus, self.gpu_free_bytes, strict=True):
            if free is None and gpu.usable and not gpu.shares_host_memory:
                return ()
        return tuple(free or 0 for free in self.gpu_free_bytes)


class LiveReader:
    """Takes the readings. Asks drivers only where `hardware` has their GPUs; see `FreeMemory` for those that fail.

    `drivers` tell by maker the free memory of each GPU, in the order in which the probe found them.
    """

    def __init__(
        self, hardware: Hardware, clock: Clock | None = None, *, drivers: Mapping[str, Driver] | None = None
    ) -> None:
        clock = clock or SystemClock()
        if drivers is None:
            drivers = {"nvidia": nvidia.OpenDriver().free_bytes, "amd": amd.free_bytes}
        self._makers = tuple(gpu.vendor for gpu in hardware.gpus)
        makers = {gpu.vendor for gpu in hardware.gpus if gpu.memory_free_bytes is not None}
        self._drivers = {
            maker: FreeMemory(maker, self._makers.count(maker), question, clock)
            for maker, question in drivers.items()
            if maker in makers
        }
        # The first call starts psutil's interval and always says 0.
        psutil.cpu_percent(interval=None)

    async def wake(self) -> None:
        """Open the drivers before anybody waits for their answers. Takes some seconds where they sleep."""
        await self._free_bytes(_WAKING_S)

    async def read(self) -> LiveReadings:
        """The readings now. The CPU's load is the mean since the call before. Takes well under 1 ms without GPUs."""
        return LiveReadings(
            gpu_free_bytes=await self._free_bytes(_DRIVER_S),
            ram_available_bytes=host.ram_available_bytes(),
            cpu_percent=psutil.cpu_percent(interval=None),
        )

    async def _free_bytes(self, within_s: float) -> tuple[int | None, ...]:
        told = await asyncio.gather(*(driver.read(within_s) for driver in self._drivers.values()))
        figures = {maker: iter(free) for maker, free in zip(self._drivers, told, strict=True)}
        return tuple(next(figures[maker]) if maker in figures else None for maker in self._makers)
