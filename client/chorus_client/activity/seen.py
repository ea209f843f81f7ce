"""What the PC's owner and the other programs do, as one frozen value. None: nobody can tell here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    on_mains: bool
    percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """`idle_s`: since the last key, mouse or terminal input. `battery`: None on a PC without one. `foreign_*`: what
    programs use that are not Chorus's, in percent of all cores, of the busiest card, and of that card's memory."""

    idle_s: float | None = None
    battery: Battery | None = None
    foreign_cpu_percent: float | None = None
    foreign_gpu_percent: float | None = None
    foreign_gpu_memory_percent: float | None = None
    ram_available_bytes: int | None = None
