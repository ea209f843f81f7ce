"""logind's notice and its delay lock, on a message bus of the test's."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chorus_client.dbus import BusError
from chorus_client.sleep_notice.linux import LogindNotice
from tests.support.message_bus import Answer, FakeBus, fake_bus

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs POSIX: logind is Linux's")

MANAGER = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager", "PrepareForSleep")


class Logind:
    """Hands out delay locks: pipes whose other end tells when they are let go."""

    def __init__(self) -> None:
        self.locks: list[int] = []
        self.asked: list[tuple[str, ...]] = []

    def Inhibit(self, *words: str) -> Answer:  # D-Bus' name
        mine, theirs = os.pipe()
        self.locks.append(mine)
        self.asked.append(words)
        return "h", (theirs,)

    def is_held(self, number: int) -> bool:
        readable, _, _ = select.select([self.locks[number]], [], [], 0)
        return not readable  # the end of the file is readable

    def close(self) -> None:
        for lock in self.locks:
            os.close(lock)


def until(what: str, met: Callable[[], object]) -> None:
    ends_s = time.monotonic() + 5
    while not met():
        assert time.monotonic() < ends_s, what
        time.sleep(0.005)


def prepare(bus: FakeBus, *, sleeps: bool) -> None:
    bus.emit(*MANAGER, "b", sleeps)


def test_the_pc_is_held_back_for_the_goodbye_and_then_let_go(tmp_path: Path) -> None:
    logind = Logind()
    held: list[bool] = []
    with fake_bus(tmp_path, Inhibit=logind.Inhibit) as bus:
        notice = LogindNotice(bus.address)
        thread = threading.Thread(target=notice.run, args=(lambda: held.append(logind.is_held(-1)),))
        thread.start()
        until("it listens", lambda: any("AddMatch" in call for call in bus.calls))
        assert logind.asked == [("sleep", "Chorus", "says goodbye to its coordinator", "delay")]
        for round_number in (1, 2):
            prepare(bus, sleeps=True)
            until("the lock is let go", lambda: not logind.is_held(-1))
            assert held == [True] * round_number, "during the goodbye it was still held"
            prepare(bus, sleeps=False)
            until("a new lock after the sleep", lambda n=round_number: len(logind.locks) == n + 1)
            assert logind.is_held(-1)
        notice.stop()
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert not logind.is_held(-1), "nobody holds the PC back after the end"
    logind.close()


def test_an_engine_that_is_started_while_the_lock_is_held_does_not_hold_it_too(tmp_path: Path) -> None:
    logind = Logind()
    with fake_bus(tmp_path, Inhibit=logind.Inhibit) as bus:
        notice = LogindNotice(bus.address)
        thread = threading.Thread(target=notice.run, args=(lambda: None,))
        thread.start()
        until("it listens", lambda: any("AddMatch" in call for call in bus.calls))
        # uvloop closes no files in its children, whatever it is asked for.
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
        prepare(bus, sleeps=True)
        until("the lock is let go", lambda: not logind.is_held(-1))
        assert child.poll() is None
        child.communicate(b"\n", timeout=10)
        notice.stop()
        thread.join(timeout=5)
    logind.close()


def test_a_bus_that_goes_away_ends_it_with_the_reason(tmp_path: Path) -> None:
    logind = Logind()
    errors: list[BusError] = []

    def run(notice: LogindNotice) -> None:
        try:
            notice.run(lambda: None)
        except BusError as error:
            errors.append(error)

    with fake_bus(tmp_path, Inhibit=logind.Inhibit) as bus:
        thread = threading.Thread(target=run, args=(LogindNotice(bus.address),))
        thread.start()
        until("it listens", lambda: any("AddMatch" in call for call in bus.calls))
        bus.hang_up()
        thread.join(timeout=5)
    assert "gone" in str(errors[0])
    logind.close()


def test_a_system_without_logind_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BusError):
        LogindNotice(f"unix:path={tmp_path / 'nowhere'}").run(lambda: None)
    with fake_bus(tmp_path) as bus, pytest.raises(BusError, match="Inhibit"):
        LogindNotice(bus.address).run(lambda: None)
