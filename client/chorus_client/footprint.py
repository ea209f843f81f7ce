"""The memory that a process really takes from this PC: what would be free again if it ended.

Resident set size is not that: it counts pages of program files, which the kernel shares, drops at will and maps by
whole neighbourhoods when they are cached, so that two equal engines differ by 10 MB. On Linux the footprint is the
anonymous pages and the mapped pages of model files; elsewhere the resident set is the best there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

MODEL_SUFFIXES = (".gguf", ".safetensors")


def footprint_bytes(processes: Iterable[psutil.Process]) -> int | None:
    """Footprint of several processes together; None when all are gone. Blocks for some milliseconds."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            smaps = Path(f"/proc/{process.pid}/smaps")
            total += of_smaps(smaps.read_text(errors="replace")) if smaps.exists() else process.memory_info().rss
    return total or None


def of_smaps(text: str) -> int:
    """The footprint in the kernel's account of one process (proc(5), `smaps`; values are in kB)."""
    total_kb = 0
    is_model = False
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == ("Rss" if is_model else "Anonymous"):
            total_kb += int(value.split()[0])
        elif " " in name:
            # A mapping's first line: `55d0…-55d1… r--p 00000000 fd:00 1234   /path`.
            is_model = line.rstrip().endswith(MODEL_SUFFIXES)
    return total_kb * 1024
