"""Tells whether this is still the same PC, so that what was measured on it still holds."""

from __future__ import annotations

import hashlib

from chorus_proto.values import Hardware

_STEP_BYTES = 256 << 20


def fingerprint(hardware: Hardware) -> str:
    """16 hexadecimal digits from what identifies the PC: system, CPU, cores, memory and GPUs, never what is free now.

    Memory counts in steps of 256 MiB, because the amount that firmware and drivers keep differs between starts.
    """
    parts: list[object] = [
        hardware.os,
        hardware.arch,
        hardware.cpu_model,
        hardware.physical_cores,
        hardware.logical_cores,
        _steps(hardware.ram_bytes),
    ]
    parts += sorted((gpu.vendor, gpu.name, _steps(gpu.memory_bytes)) for gpu in hardware.gpus)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _steps(count: int | None) -> int:
    return -1 if count is None else round(count / _STEP_BYTES)
