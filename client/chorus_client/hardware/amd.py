"""AMD GPUs from Linux's sysfs (amdgpu driver), without ROCm."""

from __future__ import annotations

import re
from pathlib import Path

from chorus_client.hardware.known_gpus import known_gpu
from chorus_proto.values import Gpu

_DRM = Path("/sys/class/drm")
_AMD_VENDOR = "0x1002"
_INTEGRATED_BELOW_BYTES = 2 << 30
"""An integrated GPU shows the part of the RAM set aside for it, mostly 512 MiB; cards have 2 GiB and more."""


def gpus(root: Path = _DRM) -> tuple[Gpu, ...]:
    """The AMD GPUs of this PC; none on a PC without the amdgpu driver. Blocks on file reads only."""
    return tuple(_gpu(device) for device in _devices(root))


def free_bytes(root: Path = _DRM) -> tuple[int | None, ...]:
    """Free memory of each GPU now, in the order of `gpus`; None where it has none of its own or nobody tells."""
    return tuple(_free_bytes(device) for device in _devices(root))


def _devices(root: Path) -> list[Path]:
    try:
        cards = sorted(card for card in root.iterdir() if re.fullmatch(r"card\d+", card.name))
    except OSError:
        return []
    devices = [card / "device" for card in cards]
    return [device for device in devices if _text(device / "vendor") == _AMD_VENDOR]


def _gpu(device: Path) -> Gpu:
    total = _number(device / "mem_info_vram_total")
    name = _text(device / "product_name") or f"AMD GPU {_text(device / 'device')}"
    known = known_gpu(name)
    shares = _shares_host_memory(total)
    return Gpu(
        name=name,
        vendor="amd",
        memory_bytes=None if shares else total,
        memory_free_bytes=_free_bytes(device),
        bandwidth_bytes_per_s=known.bandwidth_bytes_per_s if known is not None else _bandwidth_bytes_per_s(device),
        flops_per_s=known.flops_per_s if known is not None else None,
        shares_host_memory=shares,
    )


def _shares_host_memory(total_bytes: int | None) -> bool:
    return total_bytes is not None and total_bytes < _INTEGRATED_BELOW_BYTES


def _free_bytes(device: Path) -> int | None:
    """Of its own memory."""
    total, used = _number(device / "mem_info_vram_total"), _number(device / "mem_info_vram_used")
    return None if total is None or used is None or _shares_host_memory(total) else max(0, total - used)


def _bandwidth_bytes_per_s(device: Path) -> float | None:
    """Nominal: the highest memory clock of pp_dpm_mclk times 16 transfers (GDDR6) on the narrowest common bus.

    The driver does not tell the width; 128 bits is what the smallest cards have, so the figure is a lower bound.
    """
    clocks = [int(found) for found in re.findall(r"(\d+)\s*mhz", _text(device / "pp_dpm_mclk").lower())]
    return max(clocks) * 1e6 * 16 * 128 / 8 if clocks else None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
