"""How long a load takes: the one guess that the coordinator, the wrapper and people are told."""

from __future__ import annotations

READ_BYTES_PER_S = 500e6
"""A SATA disk. Assumed, with `START_S`, until a load of the model has been measured on the node."""
START_S = 1.0


def expected_load_s(file_bytes: int) -> float:
    """Seconds to load a file that has never been loaded on the node."""
    return file_bytes / READ_BYTES_PER_S + START_S


def load_left_s(whole_s: float, progress: float | None) -> float:
    """Seconds until a load that takes `whole_s` is done, at least a moment; `progress` is its share 0-1, if known."""
    return max(START_S, whole_s * (1.0 - (progress or 0.0)))


def seconds_in_words(seconds: float) -> str:
    """`12 s`, `4 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
