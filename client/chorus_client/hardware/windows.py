"""AMD and Intel GPUs on Windows, from the registry: WMI reports no more than 4 GiB of a card's memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TypeAlias

from chorus_client.hardware.known_gpus import known_gpu
from chorus_proto.values import Gpu

_DISPLAY_ADAPTERS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"

Adapter: TypeAlias = tuple[str, int | None]
"""A display adapter's name and its own memory in bytes."""


def _registry_adapters() -> list[Adapter]:
    """Adapters in the registry; those without `HardwareInformation.qwMemorySize` have no known memory."""
    if sys.platform != "win32":
        return []
    import winreg

    found: list[Adapter] = []
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _DISPLAY_ADAPTERS) as adapters:
        for index in range(winreg.QueryInfoKey(adapters)[0]):
            try:
                with winreg.OpenKey(adapters, winreg.EnumKey(adapters, index)) as adapter:
                    name = str(winreg.QueryValueEx(adapter, "DriverDesc")[0])
                    try:
                        memory = int(winreg.QueryValueEx(adapter, "HardwareInformation.qwMemorySize")[0])
                    except OSError:
                        memory = None
            except OSError:
                # Keys such as `Properties` are closed to users, and old adapters lack a name.
                continue
            found.append((name, memory))
    return found


def gpus(adapters: Callable[[], Iterable[Adapter]] = _registry_adapters) -> tuple[Gpu, ...]:
    """AMD and Intel GPUs; NVIDIA's come from NVML. None on other systems. Blocks: ask under `bounded.ask`."""
    found: dict[str, Gpu] = {}
    for name, memory in adapters():
        plain = name.lower()
        vendor = "amd" if "amd" in plain or "radeon" in plain else "intel" if "intel" in plain else None
        if vendor is None or name in found:
            continue
        known = known_gpu(name)
        # Integrated graphics show a small or no memory of their own.
        shares = memory is None or memory < 2 << 30
        found[name] = Gpu(
            name=name,
            vendor=vendor,
            memory_bytes=None if shares else memory,
            bandwidth_bytes_per_s=known.bandwidth_bytes_per_s if known is not None else None,
            flops_per_s=known.flops_per_s if known is not None else None,
            shares_host_memory=shares,
        )
    return tuple(found.values())
