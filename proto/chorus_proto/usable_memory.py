"""How much of a PC's memory models may take; the rest stays with the PC."""

from __future__ import annotations

_MIB = 1 << 20
_GIB = 1 << 30

UNKNOWN_RAM_BYTES = 4 * _GIB


def usable_ram_bytes(ram_bytes: int | None) -> int:
    """Memory that models may take: all but 2 GiB or a quarter, whichever is more, and never less than half."""
    ram = ram_bytes if ram_bytes is not None and ram_bytes > 0 else UNKNOWN_RAM_BYTES
    return ram - min(max(2 * _GIB, ram // 4), ram // 2)


def usable_card_bytes(memory_bytes: int) -> int:
    """A card's memory less a margin for the display and for fragmentation: 512 MiB or 5 %, whichever is more."""
    return max(0, memory_bytes - max(512 * _MIB, memory_bytes // 20))
