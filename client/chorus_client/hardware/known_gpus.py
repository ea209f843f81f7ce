"""Memory bandwidth and effective FLOPS of GPUs by name, where the driver does not tell.

Bandwidth: the makers' data sheets. FLOPS: what llama.cpp reaches in prefill, 2 * 6.74e9 * the pp512 tokens/s of Llama 2
7B Q4_0 in its scoreboards (discussions 4167, 10879 and 15013); figures marked `about` are scaled from a sister card.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownGpu:
    bandwidth_bytes_per_s: float
    flops_per_s: float


def _row(gigabytes_per_s: float, teraflops: float) -> KnownGpu:
    return KnownGpu(bandwidth_bytes_per_s=gigabytes_per_s * 1e9, flops_per_s=teraflops * 1e12)


# The first pattern found in the lower-cased name wins, so longer names stand first.
_TABLE: tuple[tuple[str, KnownGpu], ...] = (
    (r"rtx 5090 laptop", _row(896, 90)),  # about
    (r"rtx 5090", _row(1792, 201.8)),
    (r"rtx 5080", _row(960, 127.9)),
    (r"rtx 5070 ti", _row(896, 95)),  # about
    (r"rtx 5070", _row(672, 68)),  # about
    (r"rtx 5060", _row(448, 45)),  # about
    (r"rtx 4090 laptop", _row(576, 90)),  # about
    (r"rtx 4090", _row(1008, 199.1)),
    (r"rtx 4080", _row(717, 118)),  # about
    (r"rtx 4070 ti", _row(504, 95)),  # about
    (r"rtx 4070", _row(504, 70)),  # about
    (r"rtx 4060 ti", _row(288, 50)),  # about
    (r"rtx 4060", _row(272, 36)),  # about
    (r"rtx 3090 ti", _row(1008, 76)),  # about
    (r"rtx 3090", _row(936, 69.8)),
    (r"rtx 3080", _row(760, 58)),  # about
    (r"rtx 3070", _row(448, 40)),  # about
    (r"rtx 3060 ti", _row(448, 34)),  # about
    (r"rtx 3060", _row(360, 28.8)),
    (r"rtx 3050", _row(224, 18)),  # about
    (r"rtx 2080 ti", _row(616, 38)),  # about
    (r"rtx 20[678]0", _row(448, 24)),  # about
    (r"gtx 1080 ti", _row(484, 14.4)),
    (r"gtx 1080", _row(320, 9.5)),  # about
    (r"gtx 1070", _row(256, 7.5)),  # about
    (r"gtx 1060", _row(192, 5.6)),  # about
    (r"\bp40\b", _row(347, 12.6)),
    (r"\bh100\b", _row(3350, 151.8)),
    (r"\bh200\b", _row(4800, 151.8)),
    (r"\ba100\b", _row(1935, 71.3)),
    (r"\bgb10\b", _row(273, 41.3)),
    (r"orin", _row(205, 13.4)),
    (r"apple m1 ultra", _row(800, 13.9)),
    (r"apple m1 max", _row(400, 7.1)),
    (r"apple m1 pro", _row(200, 3.6)),
    (r"apple m1", _row(68, 1.6)),
    (r"apple m2 ultra", _row(800, 16.7)),
    (r"apple m2 max", _row(400, 9.0)),
    (r"apple m2 pro", _row(200, 4.6)),
    (r"apple m2", _row(100, 2.4)),
    (r"apple m3 ultra", _row(800, 19.8)),
    (r"apple m3 max", _row(400, 10.2)),
    (r"apple m3 pro", _row(150, 4.6)),
    (r"apple m3", _row(100, 2.5)),
    (r"apple m4 max", _row(546, 11.9)),
    (r"apple m4 pro", _row(273, 5.9)),
    (r"apple m4", _row(120, 3.0)),
    (r"apple m5 max", _row(614, 13.3)),
    (r"apple m5", _row(153, 3.0)),  # about
    (r"rx 7900 xtx", _row(960, 45)),  # about
    (r"rx 7900", _row(800, 36)),  # about
    (r"rx 7800", _row(624, 24)),  # about
    (r"rx 7600", _row(288, 14)),  # about
    (r"rx 6900|rx 6800", _row(512, 18)),  # about
    (r"rx 6700", _row(384, 12)),  # about
    (r"rx 6600", _row(224, 8)),  # about
    (r"rx 9070", _row(640, 40)),  # about
    (r"arc.*b580", _row(456, 14)),  # about
    (r"arc.*a770", _row(560, 12)),  # about
    (r"arc.*a7\d0", _row(512, 10)),  # about
)
_PATTERNS = tuple((re.compile(pattern), known) for pattern, known in _TABLE)


def known_gpu(name: str) -> KnownGpu | None:
    """What is known of a GPU by its name, such as `NVIDIA GeForce RTX 3060`; None for a name not in the table."""
    plain = name.lower()
    return next((known for pattern, known in _PATTERNS if pattern.search(plain)), None)
