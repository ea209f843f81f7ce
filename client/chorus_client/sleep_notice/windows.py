"""Windows' notice: `PowerRegisterSuspendResumeNotification`, which needs no window and waits for its callback."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

_DEVICE_NOTIFY_CALLBACK = 2
_SUSPEND = 4
"""PBT_APMSUSPEND of WM_POWERBROADCAST."""


class _Subscription(ctypes.Structure):
    _fields_ = (("callback", ctypes.c_void_p), ("context", ctypes.c_void_p))


class WindowsNotice:
    def __init__(self) -> None:
        self._stopped = threading.Event()

    def run(self, about_to_sleep: Callable[[], None]) -> None:
        """Raises OSError when Windows refuses."""
        if sys.platform != "win32":
            raise OSError("only Windows gives this notice")
        kind = ctypes.WINFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)

        def on_event(_context: int | None, event: int, _setting: int | None) -> int:
            return on_power_event(event, about_to_sleep)

        callback = kind(on_event)  # kept in this frame: Windows calls it until it is unregistered
        subscription = _Subscription(ctypes.cast(callback, ctypes.c_void_p), None)
        power, handle = ctypes.WinDLL("powrprof"), ctypes.c_void_p()
        refused = power.PowerRegisterSuspendResumeNotification(
            _DEVICE_NOTIFY_CALLBACK, ctypes.byref(subscription), ctypes.byref(handle)
        )
        if refused:
            raise ctypes.WinError(refused)
        try:
            self._stopped.wait()
        finally:
            power.PowerUnregisterSuspendResumeNotification(handle)

    def stop(self) -> None:
        self._stopped.set()


def on_power_event(event: int, about_to_sleep: Callable[[], None]) -> int:
    """What the callback does and returns; resumes are seen by the clocks."""
    if event == _SUSPEND:
        about_to_sleep()
    return 0
