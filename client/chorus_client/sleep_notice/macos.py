"""macOS's notice: `IORegisterForSystemPower` on a run loop of its own thread; the sleep waits for `IOAllowPowerChange`.

Source: Apple's Technical Q&A QA1340.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

_IO_KIT = "/System/Library/Frameworks/IOKit.framework/IOKit"
_CORE_FOUNDATION = "/System/Library/Frameworks/CoreFoundation.framework/CoreFoundation"
_CAN_SLEEP = 0xE0000270
_WILL_SLEEP = 0xE0000280


class MacNotice:
    def __init__(self) -> None:
        self._loop: ctypes.c_void_p | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, about_to_sleep: Callable[[], None]) -> None:
        """Raises OSError when macOS refuses."""
        if sys.platform != "darwin":
            raise OSError("only macOS gives this notice")
        kit, foundation = ctypes.CDLL(_IO_KIT), ctypes.CDLL(_CORE_FOUNDATION)
        kit.IORegisterForSystemPower.restype = ctypes.c_uint32
        kit.IONotificationPortGetRunLoopSource.restype = ctypes.c_void_p
        kit.IONotificationPortGetRunLoopSource.argtypes = (ctypes.c_void_p,)
        kit.IOAllowPowerChange.argtypes = (ctypes.c_uint32, ctypes.c_long)
        foundation.CFRunLoopGetCurrent.restype = ctypes.c_void_p
        foundation.CFRunLoopAddSource.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        foundation.CFRunLoopStop.argtypes = (ctypes.c_void_p,)
        root = 0

        def on_message(_context: int | None, _service: int, message: int, argument: int | None) -> None:
            if on_power_message(message & 0xFFFF_FFFF, about_to_sleep):
                kit.IOAllowPowerChange(root, argument or 0)

        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
        callback = kind(on_message)  # kept in this frame for as long as the loop runs
        port, notifier = ctypes.c_void_p(), ctypes.c_uint32()
        root = kit.IORegisterForSystemPower(None, ctypes.byref(port), callback, ctypes.byref(notifier))
        if not root:
            raise OSError("macOS gives no notice of sleep here")
        mode = ctypes.c_void_p.in_dll(foundation, "kCFRunLoopDefaultMode")
        with self._lock:
            self._loop = ctypes.c_void_p(foundation.CFRunLoopGetCurrent())
            foundation.CFRunLoopAddSource(self._loop, kit.IONotificationPortGetRunLoopSource(port), mode)
        if not self._stopped:
            foundation.CFRunLoopRun()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._loop is not None and sys.platform == "darwin":
                foundation = ctypes.CDLL(_CORE_FOUNDATION)
                foundation.CFRunLoopStop.argtypes = (ctypes.c_void_p,)
                foundation.CFRunLoopStop(self._loop)


def on_power_message(message: int, about_to_sleep: Callable[[], None]) -> bool:
    """What a message asks for; True when the system waits for an answer to it."""
    if message == _WILL_SLEEP:
        about_to_sleep()
    return message in (_CAN_SLEEP, _WILL_SLEEP)
