"""What changes from second to second on this PC, for heartbeats: cheap, and never held up by a driver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from chorus_client.hardware import amd, host, nvidia
from chorus_client.hardware.bounded import ask
from chorus_proto.values import Gpu, Hardware

_DRIVER_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReadings:
    """Free memory in bytes and the CPU's load in percent.

    `gpu_free_bytes` is in the order of `Hardware.gpus`, with None for a GPU without memory of its own and for one whose
    driver does not tell.
    """

    ram_available_bytes: int | None = None
    gpu_free_bytes: tuple[int | None, ...] = ()
    cpu_percent: float | None = None

    def free_on(self, gpu_index: int) -> int | None:
        """Bytes free on the GPU of this index in `Hardware.gpus`."""
        return self.gpu_free_bytes[gpu_index] if gpu_index < len(self.gpu_free_bytes) else None

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
    """Takes the readings. Asks drivers only where `hardware` has their GPUs, and no more after one stayed silent."""

    def __init__(self, hardware: Hardware) -> None:
        self._vendors = tuple(gpu.vendor for gpu in hardware.gpus)
        vendors = {gpu.vendor for gpu in hardware.gpus if gpu.memory_free_bytes is not None}
        self._questions = {
            name: question
            for name, question in (("nvidia", nvidia.free_bytes), ("amd", amd.free_bytes))
            if name in vendors
        }
        # The first call starts psutil's interval and always says 0.
        psutil.cpu_percent(interval=None)

    async def read(self) -> LiveReadings:
        """The readings now. The CPU's load is the mean since the call before. Takes well under 1 ms without GPUs."""
        told: dict[str, Iterator[int | None]] = {}
        for name, question in list(self._questions.items()):
            answer = await ask(f"free memory of {name}", question, _DRIVER_S)
            if answer is None:
                # A hanging driver would cost one thread for each heartbeat.
                del self._questions[name]
                continue
            # With fewer figures than cards nobody knows which one is missing.
            if len(answer) >= self._vendors.count(name):
                told[name] = iter(answer)
        return LiveReadings(
            ram_available_bytes=host.ram_available_bytes(),
            gpu_free_bytes=tuple(next(told[vendor], None) if vendor in told else None for vendor in self._vendors),
            cpu_percent=psutil.cpu_percent(interval=None),
        )
