"""logind's notice: `PrepareForSleep`, and a delay lock that holds the sleep back until the goodbye is sent.

Source: systemd's "Inhibitor Locks" page. The lock is an open file; closing it lets the PC sleep, and a new one is
taken after each sleep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from chorus_client.dbus import SYSTEM, Bus, BusError

_SERVICE = "org.freedesktop.login1"
_PATH = "/org/freedesktop/login1"
_MANAGER = "org.freedesktop.login1.Manager"


class _Lock(Protocol):
    def close(self) -> None: ...


class LogindNotice:
    """See `listening.Notice`."""

    def __init__(self, address: str = SYSTEM) -> None:
        self._address = address
        self._bus: Bus | None = None
        self._stopped = False

    def run(self, about_to_sleep: Callable[[], None]) -> None:
        """Raises BusError where there is no logind."""
        with Bus(self._address, with_files=True) as bus:
            self._bus = bus
            lock = _lock(bus)
            try:
                for (sleeps,) in bus.signals(_PATH, _MANAGER, "PrepareForSleep"):
                    if sleeps:
                        about_to_sleep()
                        lock.close()
                    else:
                        lock = _lock(bus)
            except BusError:
                if not self._stopped:
                    raise
            finally:
                lock.close()

    def stop(self) -> None:
        self._stopped = True
        if self._bus is not None:
            self._bus.interrupt()


def _lock(bus: Bus) -> _Lock:
    """Raises BusError."""
    words = ("sleep", "Chorus", "says goodbye to its coordinator", "delay")
    (lock,) = bus.call(_SERVICE, _PATH, _MANAGER, "Inhibit", *words, signature="ssss")
    return cast("_Lock", lock)
