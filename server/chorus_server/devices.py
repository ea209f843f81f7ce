"""What of a PC computes tokens: its GPUs as one device, or its CPU, with memory, bandwidth, FLOPS and overheads.

Every number that is missing is replaced here by a cautious one, in one place, so that any PC can be scored and given a
model. Efficiencies come from fits to the llama.cpp scoreboards (discussions 4167 and 15013, Llama 2 7B): the share of
the nominal bandwidth that decoding reaches, and the seconds each layer costs beside reading its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from chorus_proto.sizing import DeviceKind
from chorus_proto.usable_memory import usable_card_bytes, usable_ram_bytes
from chorus_proto.values import Gpu, Hardware

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Share of the nominal bandwidth that is reached, and seconds of launch overhead for each layer."""

    efficiency: float
    layer_overhead_s: float


_CUDA = Backend(efficiency=0.82, layer_overhead_s=26e-6)
_CUDA_DATACENTER = Backend(efficiency=0.82, layer_overhead_s=80e-6)
_CUDA_JETSON = Backend(efficiency=0.82, layer_overhead_s=257e-6)
_METAL = Backend(efficiency=0.91, layer_overhead_s=189e-6)
_OTHER_GPU = Backend(efficiency=0.70, layer_overhead_s=80e-6)
_INTEGRATED_GPU = Backend(efficiency=0.80, layer_overhead_s=200e-6)
_CPU = Backend(efficiency=0.85, layer_overhead_s=30e-6)

_DATACENTER = ("a100", "h100", "h200", "a30", "a40", "l40", "b200", "v100")
_JETSON = ("orin", "jetson", "xavier", "tegra")

UNKNOWN_CORES = 2
UNKNOWN_CPU_BANDWIDTH_BYTES_PER_S = 12e9
UNKNOWN_ARM_BANDWIDTH_BYTES_PER_S = 8e9
UNKNOWN_CORE_FLOPS_PER_S = 40e9
"""An AVX2 core multiplying 8-bit weights; 50-57 GFLOPS were measured on desktop and server cores."""
UNKNOWN_ARM_CORE_FLOPS_PER_S = 20e9
UNKNOWN_GPU_BANDWIDTH_BYTES_PER_S = 100e9
GPU_FLOPS_PER_BYTE = 25
"""Effective FLOPS per byte/s of bandwidth of the older cards (GTX 10 series 28-30, later ones 60-200)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One place where a model can run. `usable_bytes` is its memory less what the PC keeps for itself."""

    kind: DeviceKind
    usable_bytes: int
    bandwidth_bytes_per_s: float
    flops_per_s: float
    backend: Backend


def devices_of(hardware: Hardware) -> tuple[Device, ...]:
    """The usable GPUs together (layers split by memory), if their memory is known, and the CPU, which every PC has."""
    found: list[Device] = []
    gpus = [gpu for gpu in hardware.gpus if gpu.usable]
    discrete = [gpu for gpu in gpus if _known(gpu.memory_bytes) and not gpu.shares_host_memory]
    # An integrated GPU of unknown speed is hardly faster than the CPU, and most engines cannot use it.
    shared = [gpu for gpu in gpus if gpu.shares_host_memory and _known(gpu.flops_per_s)]
    if discrete:
        found.append(_together(discrete))
    found.extend(_shared(gpu, hardware) for gpu in shared[:1])
    found.append(_cpu(hardware))
    return tuple(found)


def _together(gpus: list[Gpu]) -> Device:
    """Cards work one after another on their share of the layers: seconds per byte and per operation add up."""
    memory = [gpu.memory_bytes or 0 for gpu in gpus]
    total = sum(memory)
    return Device(
        kind=DeviceKind.DISCRETE_GPU,
        usable_bytes=sum(usable_card_bytes(each) for each in memory),
        bandwidth_bytes_per_s=total / sum(each / _bandwidth(gpu) for each, gpu in zip(memory, gpus, strict=True)),
        flops_per_s=total / sum(each / _flops(gpu) for each, gpu in zip(memory, gpus, strict=True)),
        backend=max((_backend(gpu) for gpu in gpus), key=lambda backend: backend.layer_overhead_s),
    )


def _shared(gpu: Gpu, hardware: Hardware) -> Device:
    """A GPU in the host's memory, bounded by its own limit and by the RAM; it reads no faster than the RAM does.

    The CPU's measured bandwidth does not bound Apple's GPUs: the CPU cores alone cannot draw the whole of it.
    """
    backend = _backend(gpu)
    usable = usable_ram_bytes(hardware.ram_bytes)
    limit = _known(gpu.memory_bytes)
    if limit is not None:
        # A known limit (Apple's wired limit) is already what the system leaves to the GPU.
        usable = min(limit, _known(hardware.ram_bytes) or limit)
    bandwidth = _known(gpu.bandwidth_bytes_per_s) or _ram_bandwidth(hardware)
    return Device(
        kind=DeviceKind.SHARED_GPU,
        usable_bytes=usable,
        bandwidth_bytes_per_s=bandwidth,
        flops_per_s=_known(gpu.flops_per_s) or bandwidth * GPU_FLOPS_PER_BYTE,
        backend=backend,
    )


def _cpu(hardware: Hardware) -> Device:
    cores = _known(hardware.physical_cores) or UNKNOWN_CORES
    per_core = UNKNOWN_ARM_CORE_FLOPS_PER_S if _is_arm(hardware) else UNKNOWN_CORE_FLOPS_PER_S
    return Device(
        kind=DeviceKind.CPU,
        usable_bytes=usable_ram_bytes(hardware.ram_bytes),
        bandwidth_bytes_per_s=_ram_bandwidth(hardware),
        flops_per_s=_known(hardware.cpu_flops_per_s) or cores * per_core,
        backend=_CPU,
    )


def _bandwidth(gpu: Gpu) -> float:
    return _known(gpu.bandwidth_bytes_per_s) or UNKNOWN_GPU_BANDWIDTH_BYTES_PER_S


def _flops(gpu: Gpu) -> float:
    return _known(gpu.flops_per_s) or _bandwidth(gpu) * GPU_FLOPS_PER_BYTE


def _backend(gpu: Gpu) -> Backend:
    vendor, name = gpu.vendor.lower(), gpu.name.lower()
    if "apple" in vendor:
        return _METAL
    if "nvidia" in vendor:
        if any(word in name for word in _JETSON):
            return _CUDA_JETSON
        return _CUDA_DATACENTER if any(word in name for word in _DATACENTER) else _CUDA
    return _INTEGRATED_GPU if gpu.shares_host_memory else _OTHER_GPU


def _ram_bandwidth(hardware: Hardware) -> float:
    unknown = UNKNOWN_ARM_BANDWIDTH_BYTES_PER_S if _is_arm(hardware) else UNKNOWN_CPU_BANDWIDTH_BYTES_PER_S
    return _known(hardware.memory_bandwidth_bytes_per_s) or unknown


def _known(number: _Number | None) -> _Number | None:
    """The number if it can be one of a PC: an agent may send anything, and zero, infinite or NaN is unknown."""
    return number if number is not None and math.isfinite(number) and number > 0 else None


def _is_arm(hardware: Hardware) -> bool:
    return hardware.arch.lower().startswith(("arm", "aarch"))
