"""Seconds since the last input on macOS: `CGEventSourceSecondsSinceLastEventType` of Quartz, over all devices."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

_APPLICATION_SERVICES = "/System/Library/Frameworks/ApplicationServices.framework/ApplicationServices"
_HID_SYSTEM_STATE = 1
_ANY_INPUT = 0xFFFF_FFFF


@lru_cache(maxsize=1)
def _quartz() -> ctypes.CDLL:
    library = ctypes.CDLL(_APPLICATION_SERVICES)
    library.CGEventSourceSecondsSinceLastEventType.restype = ctypes.c_double
    library.CGEventSourceSecondsSinceLastEventType.argtypes = (ctypes.c_int32, ctypes.c_uint32)
    return library


def idle_s() -> float | None:
    """None on other systems."""
    if sys.platform != "darwin":
        return None
    return float(_quartz().CGEventSourceSecondsSinceLastEventType(_HID_SYSTEM_STATE, _ANY_INPUT))
