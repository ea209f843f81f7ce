"""Finds out what this PC is. Nothing here can stop the agent's start: what cannot be found out is None."""

from __future__ import annotations

import asyncio
import dataclasses
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from chorus_client.hardware import amd, apple, host, nvidia, windows
from chorus_client.hardware.bounded import ask
from chorus_client.hardware.fingerprint import fingerprint
from chorus_proto.values import Gpu, Hardware

PROBE_S = 5.0
"""A cold NVIDIA driver takes up to 3 s to wake."""

GPU_PROBES: Mapping[str, Callable[[], tuple[Gpu, ...]]] = {
    "nvidia": nvidia.gpus,
    "amd": amd.gpus,
    "apple": apple.gpus,
    "windows adapters": windows.gpus,
}


async def probe(
    disk_path: Path,
    *,
    gpu_probes: Mapping[str, Callable[[], tuple[Gpu, ...]]] = GPU_PROBES,
    within_s: float = PROBE_S,
) -> Hardware:
    """This PC's hardware; `disk_path` lies on the disk where models are kept. Takes at most `within_s` seconds."""
    found_gpus = asyncio.gather(*(ask(name, read, within_s) for name, read in gpu_probes.items()))
    cpu_model, physical, logical, ram, available, disk_free = await asyncio.gather(
        ask("CPU model", host.cpu_model, within_s),
        ask("physical cores", lambda: psutil.cpu_count(logical=False), within_s),
        ask("logical cores", lambda: psutil.cpu_count(logical=True), within_s),
        ask("memory", host.ram_bytes, within_s),
        ask("free memory", host.ram_available_bytes, within_s),
        ask("disk", lambda: _disk_free_bytes(disk_path), within_s),
    )
    hardware = Hardware(
        os=platform.system() or "unknown",
        arch=platform.machine() or "unknown",
        cpu_model=cpu_model,
        physical_cores=physical,
        logical_cores=logical,
        ram_bytes=ram,
        ram_available_bytes=available,
        disk_free_bytes=disk_free,
        gpus=tuple(gpu for gpus in await found_gpus for gpu in gpus or ()),
    )
    return dataclasses.replace(hardware, fingerprint=fingerprint(hardware))


def _disk_free_bytes(path: Path) -> int:
    """Free space where `path` is or will be."""
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return psutil.disk_usage(str(existing)).free
