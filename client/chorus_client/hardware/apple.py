"""The GPU of Apple silicon, which works in the host's memory up to the system's wired limit."""

from __future__ import annotations

import sys
from collections.abc import Callable

from chorus_client.hardware.host import sysctl
from chorus_client.hardware.known_gpus import known_gpu
from chorus_proto.values import Gpu

_GIB = 1 << 30


def gpus(platform: str = sys.platform, read: Callable[[str], str | None] = sysctl) -> tuple[Gpu, ...]:
    """The GPU of an Apple-silicon Mac; none on Intel Macs and other systems. Blocks: ask under `bounded.ask`."""
    chip = read("machdep.cpu.brand_string") if platform == "darwin" else None
    memory = read("hw.memsize") if chip is not None else None
    if chip is None or memory is None or not memory.isdigit() or not chip.startswith("Apple"):
        return ()
    known = known_gpu(chip)
    return (
        Gpu(
            name=chip,
            vendor="apple",
            memory_bytes=wired_limit_bytes(int(memory), read("iogpu.wired_limit_mb")),
            bandwidth_bytes_per_s=known.bandwidth_bytes_per_s if known is not None else None,
            flops_per_s=known.flops_per_s if known is not None else None,
            shares_host_memory=True,
        ),
    )


def wired_limit_bytes(ram_bytes: int, setting_mb: str | None) -> int:
    """Memory that the GPU may hold: what the owner set, else the system's two thirds, three quarters above 36 GiB."""
    if setting_mb is not None and setting_mb.isdigit() and int(setting_mb) > 0:
        return min(ram_bytes, int(setting_mb) << 20)
    return ram_bytes * 3 // 4 if ram_bytes > 36 * _GIB else ram_bytes * 2 // 3
