"""When the owner last touched a Linux PC; desktop and logind are played on a message bus of the test's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from chorus_client.activity.idle_linux import LinuxIdle, terminals_idle_s, used_terminals
from tests.support.message_bus import Answer, RefusedCall, fake_bus

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs POSIX: buses and terminals as Linux has them")

SESSION = "/org/freedesktop/login1/session/_31"


class Desktop:
    """What GNOME and logind would say."""

    def __init__(self) -> None:
        self.mutter_ms: int | None = None
        self.hint = False
        self.hint_since_s = 0.0
        self.kind = "user"
        self.asked = 0

    def GetIdletime(self) -> Answer:  # D-Bus' name
        self.asked += 1
        if self.mutter_ms is None:
            raise RefusedCall("no such service")
        return "t", (self.mutter_ms,)

    def ListSessions(self) -> Answer:  # D-Bus' name
        return "a(susso)", ([("1", 1000, "ann", "seat0", SESSION), ("2", 1001, "bob", "", f"{SESSION}gone")],)

    def GetAll(self, _interface: str) -> Answer:  # D-Bus' name
        since_us = int(self.hint_since_s * 1e6)
        found = {
            "Class": ("s", self.kind),
            "IdleHint": ("b", self.hint),
            "IdleSinceHintMonotonic": ("t", since_us),
        }
        return "a{sv}", (found,)

    def services(self) -> dict[str, Callable[..., Answer]]:
        return {
            "GetIdletime": self.GetIdletime,
            "ListSessions": self.ListSessions,
            f"{SESSION} GetAll": self.GetAll,  # of the other session nobody knows anything: it ended just now
        }


def idle(address: str, *terminals: Path) -> closing[LinuxIdle]:
    return closing(LinuxIdle(session_bus=address, system_bus=address, terminals=lambda: terminals))


def test_gnome_tells_to_the_millisecond(tmp_path: Path) -> None:
    desktop = Desktop()
    with fake_bus(tmp_path, **desktop.services()) as bus, idle(bus.address) as sense:
        desktop.mutter_ms = 12_345
        assert sense() == 12.345
        desktop.mutter_ms = 10
        assert sense() == 0.01


def test_a_session_that_logind_calls_idle_is_idle_since_then(tmp_path: Path) -> None:
    desktop = Desktop()
    desktop.hint, desktop.hint_since_s = True, time.monotonic() - 500
    with fake_bus(tmp_path, **desktop.services()) as bus, idle(bus.address) as sense:
        assert sense() == pytest.approx(500, abs=5)


def test_a_session_that_never_gave_a_hint_is_not_taken_for_busy(tmp_path: Path) -> None:
    desktop = Desktop()
    with fake_bus(tmp_path, **desktop.services()) as bus, idle(bus.address) as sense:
        assert sense() is None
        desktop.hint = True
        assert sense() is not None
        desktop.hint = False
        assert sense() == 0.0, "now it is known that this desktop gives hints"


def test_the_login_screen_is_nobody(tmp_path: Path) -> None:
    desktop = Desktop()
    desktop.kind, desktop.hint = "greeter", True
    with fake_bus(tmp_path, **desktop.services()) as bus, idle(bus.address) as sense:
        assert sense() is None


def test_the_shortest_of_all_counts(tmp_path: Path) -> None:
    desktop = Desktop()
    desktop.mutter_ms = 900_000
    terminal = tmp_path / "pts"
    terminal.touch()
    os.utime(terminal, (time.time() - 60, time.time()))
    with fake_bus(tmp_path, **desktop.services()) as bus, idle(bus.address, terminal) as sense:
        assert sense() == pytest.approx(60, abs=5)


def test_a_desktop_that_has_no_answer_is_not_asked_again_and_again(tmp_path: Path) -> None:
    desktop = Desktop()
    with fake_bus(tmp_path, **desktop.services()) as bus, idle(bus.address) as sense:
        for _ in range(5):
            sense()
        assert desktop.asked == 1


def test_without_any_bus_and_terminal_nobody_can_tell(tmp_path: Path) -> None:
    with idle(f"unix:path={tmp_path / 'nowhere'}") as sense:
        assert sense() is None


def test_a_terminal_that_is_gone_is_left_out(tmp_path: Path) -> None:
    terminal = tmp_path / "pts"
    terminal.touch()
    os.utime(terminal, (1000, 1000))
    assert terminals_idle_s([tmp_path / "gone", terminal], 1030) == 30
    assert terminals_idle_s([terminal], 900) == 0, "a clock that was set back"
    assert terminals_idle_s([tmp_path / "gone"], 1030) is None


def test_terminals_are_devices() -> None:
    assert all(terminal.is_relative_to("/dev") for terminal in used_terminals())
