"""The memory that a process really takes from this PC: what would be free again if it ended.

Resident set size is not that: it counts pages of program files, which the kernel shares, drops at will and maps by
whole neighbourhoods when they are cached, so that two equal engines differ by 10 MB. On Linux the footprint is the
anonymous pages and the mapped pages of model files; elsewhere the resident set is the best there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

MODEL_SUFFIXES = (".gguf", ".safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A footprint. `mapped_bytes`: the part of it that is pages of model files. The kernel counts them as available,
    since it could read them again, but whoever computes with them needs them. 0 where it cannot be told."""

    total_bytes: int
    mapped_bytes: int = 0

    def __add__(self, other: Resident) -> Resident:
        return Resident(
            total_bytes=self.total_bytes + other.total_bytes, mapped_bytes=self.mapped_bytes + other.mapped_bytes
        )


def footprint(processes: Iterable[psutil.Process]) -> Resident | None:
    """Footprint of several processes together; None when all are gone. Blocks for some milliseconds."""
    total = Resident(total_bytes=0)
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            smaps = Path(f"/proc/{process.pid}/smaps")
            if smaps.exists():
                total += of_smaps(smaps.read_text(errors="replace"))
            else:
                total += Resident(total_bytes=process.memory_info().rss)
    return total if total.total_bytes else None


def of_smaps(text: str) -> Resident:
    """The footprint in the kernel's account of one process (proc(5), `smaps`; values are in kB)."""
    total_kb = mapped_kb = 0
    is_model = False
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == ("Rss" if is_model else "Anonymous"):
            total_kb += int(value.split()[0])
            mapped_kb += int(value.split()[0]) if is_model else 0
        elif " " in name:
            # A mapping's first line: `55d0…-55d1… r--p 00000000 fd:00 1234   /path`.
            is_model = line.rstrip().endswith(MODEL_SUFFIXES)
    return Resident(total_bytes=total_kb * 1024, mapped_bytes=mapped_kb * 1024)
