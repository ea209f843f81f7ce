"""Seconds since the last input on Windows: `GetLastInputInfo`, which speaks of the session that the agent runs in."""

from __future__ import annotations

import ctypes
import sys


class _LastInput(ctypes.Structure):
    _fields_ = (("size_bytes", ctypes.c_uint32), ("tick_ms", ctypes.c_uint32))


def idle_s() -> float | None:
    """None on other systems and when Windows refuses."""
    if sys.platform != "win32":
        return None
    last = _LastInput(ctypes.sizeof(_LastInput), 0)
    if not ctypes.windll.user32.GetLastInputInfo(ctypes.byref(last)):
        return None
    return since_s(ctypes.windll.kernel32.GetTickCount(), last.tick_ms)


def since_s(now_ms: int, then_ms: int) -> float:
    """Both are 32-bit counts of milliseconds, which begin anew after 49.7 days."""
    return ((now_ms - then_ms) & 0xFFFF_FFFF) / 1000
