"""NVIDIA GPUs through NVML. A PC without the driver is normal and has none."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from chorus_client.hardware.known_gpus import known_gpu
from chorus_proto.values import Gpu

if TYPE_CHECKING:
    from types import ModuleType

_T = TypeVar("_T")

_FLOPS_PER_BYTE = {6: 28.0, 7: 55.0, 8: 75.0, 9: 45.0, 10: 110.0, 12: 110.0}
"""Effective FLOPS per byte/s of bandwidth by major compute capability, from cards in `known_gpus`."""


def gpus() -> tuple[Gpu, ...]:
    """The cards that the driver shows; none without a driver. Blocks: ask under `bounded.ask`."""
    nvml = driver()
    if nvml is None:
        return ()
    try:
        return tuple(_gpu(nvml, index) for index in range(int(nvml.nvmlDeviceGetCount())))
    finally:
        nvml.nvmlShutdown()


def free_bytes() -> tuple[int | None, ...]:
    """See `OpenDriver`, for who asks once. Waking the driver may take seconds."""
    opened = OpenDriver()
    try:
        return opened.free_bytes()
    finally:
        opened.close()


class OpenDriver:
    """The driver for who asks often. It stays open: one that nobody has open falls asleep, and waking takes seconds."""

    def __init__(self, open_driver: Callable[[], ModuleType | None] | None = None) -> None:
        self._open_driver = open_driver or driver
        self._nvml: ModuleType | None = None
        self._one_at_a_time = threading.Lock()

    def free_bytes(self) -> tuple[int | None, ...]:
        """Free memory of each card now, in the order of `gpus`, None for one that does not tell; none without a driver.

        Blocks for well under a millisecond on a healthy driver that is open. Raises NVMLError. After that, and when no
        card tells, the next call opens the driver anew: maybe it was replaced by a newer one.
        """
        with self._one_at_a_time:
            self._nvml = nvml = self._nvml or self._open_driver()
            if nvml is None:
                return ()
            told: list[int | None] = []
            try:
                for index in range(int(nvml.nvmlDeviceGetCount())):
                    told.append(_asked(nvml, partial(_free_bytes, nvml, index)))
            finally:
                if all(free is None for free in told):
                    self._close()
            return tuple(told)

    def close(self) -> None:
        with self._one_at_a_time:
            self._close()

    def _close(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def driver() -> ModuleType | None:
    """NVML, initialised; None where there is no NVIDIA driver. Initialising is counted, so calls may overlap."""
    if sys.platform == "darwin":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        normal = (
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
            pynvml.NVML_ERROR_NO_PERMISSION,
        )
        if getattr(error, "value", None) in normal:
            return None
        raise
    return pynvml


def _gpu(nvml: ModuleType, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    raw_name = nvml.nvmlDeviceGetName(handle)
    name = raw_name.decode(errors="replace") if isinstance(raw_name, bytes) else str(raw_name)
    total, free = _asked(nvml, lambda: _memory(nvml, handle)) or (None, None)
    known = known_gpu(name)
    measured = _asked(nvml, lambda: _bandwidth_bytes_per_s(nvml, handle))
    bandwidth = known.bandwidth_bytes_per_s if known is not None else measured
    flops = known.flops_per_s if known is not None else None
    if flops is None and bandwidth is not None:
        major = _asked(nvml, lambda: int(nvml.nvmlDeviceGetCudaComputeCapability(handle)[0]))
        per_byte = _FLOPS_PER_BYTE.get(major) if major is not None else None
        flops = bandwidth * per_byte if per_byte is not None else None
    return Gpu(
        name=name,
        vendor="nvidia",
        memory_bytes=total,
        memory_free_bytes=free,
        bandwidth_bytes_per_s=bandwidth,
        flops_per_s=flops,
        # Grace-Blackwell and Jetson boards have no memory of their own, and NVML then cannot tell a size.
        shares_host_memory=total is None,
    )


def _free_bytes(nvml: ModuleType, index: int) -> int:
    return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index)).free)


def _memory(nvml: ModuleType, handle: object) -> tuple[int, int]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return int(memory.total), int(memory.free)


def _bandwidth_bytes_per_s(nvml: ModuleType, handle: object) -> float | None:
    """Nominal: the memory clock, both edges, times the width of the bus (NVML device queries)."""
    clock_mhz = int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM))
    bits = int(nvml.nvmlDeviceGetMemoryBusWidth(handle))
    return clock_mhz * 1e6 * bits / 8 * 2 or None


def _asked(nvml: ModuleType, question: Callable[[], _T]) -> _T | None:
    """The answer, or None where this card or driver does not support the question."""
    try:
        return question()
    except nvml.NVMLError:
        return None
