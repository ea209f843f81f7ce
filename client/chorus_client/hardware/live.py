"""What changes from second to second on this PC, for heartbeats: cheap, and never held up by a driver."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from chorus_client.hardware import amd, host, nvidia
from chorus_client.hardware.bounded import ask
from chorus_proto.values import Hardware

_DRIVER_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReadings:
    """Free memory in bytes (`gpu_free_bytes` in the order of the NVIDIA and AMD GPUs) and the CPU's load in percent."""

    ram_available_bytes: int | None = None
    gpu_free_bytes: tuple[int, ...] = ()
    cpu_percent: float | None = None


class LiveReader:
    """Takes the readings. Asks drivers only where `hardware` has their GPUs, and no more after one stayed silent."""

    def __init__(self, hardware: Hardware) -> None:
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
        free: list[int] = []
        for name, question in list(self._questions.items()):
            answer = await ask(f"free memory of {name}", question, _DRIVER_S)
            if answer is None:
                # A hanging driver would cost one thread for each heartbeat.
                del self._questions[name]
                continue
            free.extend(answer)
        return LiveReadings(
            ram_available_bytes=host.ram_available_bytes(),
            gpu_free_bytes=tuple(free),
            cpu_percent=psutil.cpu_percent(interval=None),
        )
