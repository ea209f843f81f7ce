"""Seconds since the last input on Linux: what the desktop, logind and the terminals know, the shortest of them.

- GNOME's compositor tells to the millisecond (`org.gnome.Mutter.IdleMonitor`), on the session bus of the agent's user.
- logind keeps a hint for each session, which desktops set after some minutes; one that never does is not believed.
- A terminal's device remembers when somebody typed on it (as `w` shows), to 8 s; ssh sessions are terminals too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import psutil

from chorus_client.dbus import SESSION, SYSTEM, Bus, BusError

_LOGIND = "org.freedesktop.login1"
_MUTTER = "org.gnome.Mutter.IdleMonitor"
_ASK_AGAIN_S = 60.0
"""A bus that is not there may come: somebody logs in."""


class LinuxIdle:
    """Keeps its connections. Blocks for about a millisecond; ask on a thread."""

    def __init__(
        self,
        *,
        session_bus: str = SESSION,
        system_bus: str = SYSTEM,
        terminals: Callable[[], Iterable[Path]] | None = None,
    ) -> None:
        self._sources = (_OnBus(session_bus, mutter_idle_s), _OnBus(system_bus, _Logind().idle_s))
        self._terminals = terminals or used_terminals

    def __call__(self) -> float | None:
        told = [source() for source in self._sources]
        told.append(terminals_idle_s(self._terminals(), time.time()))
        return min((seconds for seconds in told if seconds is not None), default=None)

    def close(self) -> None:
        for source in self._sources:
            source.close()


class _OnBus:
    """One question to a bus, asked again later when the bus is not there or has no answer."""

    def __init__(self, address: str, question: Callable[[Bus], float | None]) -> None:
        self._address = address
        self._question = question
        self._bus: Bus | None = None
        self._not_before_s = 0.0

    def __call__(self) -> float | None:
        if time.monotonic() < self._not_before_s:
            return None
        try:
            if self._bus is None:
                self._bus = Bus(self._address)
            return self._question(self._bus)
        except BusError:
            self._not_before_s = time.monotonic() + _ASK_AGAIN_S
            self.close()
            return None

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None


def mutter_idle_s(bus: Bus) -> float:
    """Raises BusError, also on a desktop that is not GNOME."""
    (idle_ms,) = bus.call(_MUTTER, "/org/gnome/Mutter/IdleMonitor/Core", _MUTTER, "GetIdletime")
    return cast("int", idle_ms) / 1000


class _Logind:
    """The hints of all people's sessions."""

    def __init__(self) -> None:
        self._believed: set[str] = set()

    def idle_s(self, bus: Bus) -> float | None:
        """Raises BusError."""
        (sessions,) = bus.call(_LOGIND, "/org/freedesktop/login1", f"{_LOGIND}.Manager", "ListSessions")
        told: list[float] = []
        for *_, path in cast("list[tuple[object, ...]]", sessions):
            try:
                session = bus.properties(_LOGIND, str(path), f"{_LOGIND}.Session")
            except BusError:
                continue  # it ended between the two questions
            if session.get("Class") != "user":
                continue
            if session.get("IdleHint"):
                self._believed.add(str(path))
                since_s = cast("int", session.get("IdleSinceHintMonotonic", 0)) / 1e6
                told.append(max(0.0, time.monotonic() - since_s))
            elif str(path) in self._believed:
                told.append(0.0)
        return min(told, default=None)


def used_terminals() -> list[Path]:
    """The devices of those who are logged in on a terminal."""
    names = (user.terminal for user in psutil.users())
    return [Path("/dev") / name for name in names if name and not name.startswith(":")]


def terminals_idle_s(terminals: Iterable[Path], now_unix_s: float) -> float | None:
    """Since anybody typed on one of them; None without any."""
    told: list[float] = []
    for terminal in terminals:
        try:
            told.append(max(0.0, now_unix_s - terminal.stat().st_atime))
        except OSError:
            continue
    return min(told, default=None)
