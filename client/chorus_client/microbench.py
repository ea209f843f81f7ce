"""Measures once what tables get wrong: the memory's bandwidth, and what the CPU does on a bundled model.

Data sheets promise the bandwidth of two modules at their best clock; half the PCs have one module or never switched its
profile on. Everything together takes about two seconds and is kept by hardware fingerprint in the agent's state folder.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from chorus_proto import catalogue
from chorus_proto.errors import ClusterError
from chorus_proto.files import write_atomically
from chorus_proto.generation import Done, Generation
from chorus_proto.ids import ModelName
from chorus_proto.values import Hardware

log = logging.getLogger(__name__)

BENCH_MODEL = ModelName("demo-medium")
"""The largest bundled model: its matrices come closest to those of real models."""

Generate: TypeAlias = Callable[[Generation], Awaitable[Done]]
"""Runs one generation on `BENCH_MODEL`, loaded with one thread and one slot of at least 1024 tokens."""

_PROMPT_WORDS = 300
_DECODED_TOKENS = 64
_GENERATIONS = 3
_GENERATE_S = 10.0

_BUFFER_BYTES = 64 << 20
_SMALL_BUFFER_BYTES = 16 << 20
_BANDWIDTH_S = 0.8
_REPEATS = 5

CORE_SCALING = 0.85
"""Prefill grows with cores by about this share of the ideal: memory and last-level cache are shared."""


class _Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the cache file holds."""

    fingerprint: str
    memory_bandwidth_bytes_per_s: float | None = None
    cpu_flops_per_s: float | None = None
    bench_tokens_per_s: float | None = None


async def measured(hardware: Hardware, cache_path: Path, generate: Generate | None) -> Hardware:
    """`hardware` with its measured fields filled: from the cache if it is of this PC, else measured now.

    Fields that are present already are believed and not measured. Without `generate`, or when it fails, the fields that
    need it stay None and are measured at the next start. Never raises for a measurement or a cache that failed.
    """
    hardware = _with(hardware, _cached(cache_path, hardware.fingerprint))
    missing_bandwidth = hardware.memory_bandwidth_bytes_per_s is None
    missing_rates = hardware.cpu_flops_per_s is None or hardware.bench_tokens_per_s is None
    if missing_bandwidth:
        cores = hardware.physical_cores or os.cpu_count() or 1
        bandwidth = await asyncio.to_thread(memory_bandwidth_bytes_per_s, cores, hardware.ram_available_bytes)
        hardware = dataclasses.replace(hardware, memory_bandwidth_bytes_per_s=bandwidth)
    if missing_rates and generate is not None:
        hardware = _with(hardware, await _rates(generate, hardware))
    if missing_bandwidth or missing_rates:
        await asyncio.to_thread(_keep, cache_path, hardware)
    return hardware


def bench_generation() -> Generation:
    """About 600 prompt tokens on the bundled models, new each time so that no prefix cache answers, then 64 tokens."""
    words = " ".join(secrets.choice(_WORDS) for _ in range(_PROMPT_WORDS))
    return Generation(prompt=words, max_tokens=_DECODED_TOKENS, temperature=0.0, ignore_end=True)


_WORDS = ("capital", "France", "is", "Paris", "seven", "plus", "two", "equals", "nine", "green", "grass", "hello")


def cpu_flops_per_s(prefill_tokens_per_s: float, parameters: int, physical_cores: int) -> float:
    """Effective FLOPS of all cores from the prefill rate of one: two operations for each parameter and token.

    No correction for the model's size: 57 GFLOPS were measured on a server core whose known figure with 7B models is
    50-60.
    """
    return 2.0 * parameters * prefill_tokens_per_s * max(1.0, physical_cores * CORE_SCALING)


def memory_bandwidth_bytes_per_s(cores: int, ram_available_bytes: int | None = None) -> float:
    """The memory's bandwidth: the best of some copies far larger than the caches, with one thread and up to `cores`.

    A copy of n bytes moves 2n. ctypes lets go of the interpreter's lock, so the threads copy at the same time. Takes
    under a second and 128 MiB, or 32 MiB on a PC with little memory left. Blocks.
    """
    small = ram_available_bytes is not None and ram_available_bytes < 8 * _BUFFER_BYTES
    size = _SMALL_BUFFER_BYTES if small else _BUFFER_BYTES
    source, target = bytearray(size), bytearray(size)
    from_address = ctypes.addressof((ctypes.c_char * size).from_buffer(source))
    to_address = ctypes.addressof((ctypes.c_char * size).from_buffer(target))
    ctypes.memset(from_address, 1, size)  # untouched pages may all be one page of zeros
    counts = sorted({1, 2, 4, max(1, cores // 2), max(1, cores)})
    deadline = time.perf_counter() + _BANDWIDTH_S
    best = 0.0
    for threads in (count for count in counts if count <= max(1, cores)):
        for _ in range(_REPEATS):
            best = max(best, 2 * size / _copy_s(to_address, from_address, size, threads))
            if time.perf_counter() > deadline:
                return best
    return best


def _copy_s(to_address: int, from_address: int, size: int, threads: int) -> float:
    """Seconds until `threads` threads have copied `size` bytes, each its own part, from a common start."""
    if threads == 1:
        started = time.perf_counter()
        ctypes.memmove(to_address, from_address, size)
        return time.perf_counter() - started
    part = size // threads
    start = threading.Barrier(threads + 1)

    def copy(index: int) -> None:
        start.wait()
        ctypes.memmove(to_address + index * part, from_address + index * part, part)

    workers = [threading.Thread(target=copy, args=(index,), name=f"bandwidth:{index}") for index in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    # What the division of `size` leaves over is not copied; it is under one part in a million.
    return time.perf_counter() - started


async def _rates(generate: Generate, hardware: Hardware) -> _Measured:
    """FLOPS and decode rate from the best of some generations; empty when the engine does not tell or fails."""
    prefill: list[float] = []
    decode: list[float] = []
    try:
        async with asyncio.timeout(_GENERATE_S):
            for _ in range(_GENERATIONS):
                done = await generate(bench_generation())
                prefill += [done.prefill_tokens_per_s] if done.prefill_tokens_per_s else []
                decode += [done.decode_tokens_per_s] if done.decode_tokens_per_s else []
    except (TimeoutError, ClusterError) as error:
        log.warning("benchmark on %s left out: %r", BENCH_MODEL, error)
    model = catalogue.entry(BENCH_MODEL)
    flops = None
    if prefill and model is not None:
        flops = cpu_flops_per_s(max(prefill), model.shape.parameters, hardware.physical_cores or 1)
    return _Measured(fingerprint="", cpu_flops_per_s=flops, bench_tokens_per_s=max(decode, default=None))


def _with(hardware: Hardware, found: _Measured | None) -> Hardware:
    """`hardware` with what was `found` where it has nothing yet."""
    if found is None:
        return hardware
    return dataclasses.replace(
        hardware,
        memory_bandwidth_bytes_per_s=hardware.memory_bandwidth_bytes_per_s or found.memory_bandwidth_bytes_per_s,
        cpu_flops_per_s=hardware.cpu_flops_per_s or found.cpu_flops_per_s,
        bench_tokens_per_s=hardware.bench_tokens_per_s or found.bench_tokens_per_s,
    )


def _cached(path: Path, fingerprint: str) -> _Measured | None:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Measured)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("measurements in %s cannot be used and are taken anew: %s", path, error)
        return None
    return found if found.fingerprint == fingerprint else None


def _keep(path: Path, hardware: Hardware) -> None:
    record = {
        "fingerprint": hardware.fingerprint,
        "memory_bandwidth_bytes_per_s": hardware.memory_bandwidth_bytes_per_s,
        "cpu_flops_per_s": hardware.cpu_flops_per_s,
        "bench_tokens_per_s": hardware.bench_tokens_per_s,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record, indent=2).encode())
    except OSError as error:
        log.warning("measurements cannot be kept in %s: %s", path, error)
