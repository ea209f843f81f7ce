"""The connection to a message bus, with a bus of the test's at the other end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chorus_client.dbus import Bus, BusError
from tests.support.message_bus import Answer, fake_bus

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs POSIX: message buses are Linux's")

CALL = ("org.example", "/org/example", "org.example.Adder")


def add(one: int, other: int) -> Answer:
    return "i", (one + other,)


def a_users_session(_interface: str) -> Answer:
    return "a{sv}", ({"Class": ("s", "user"), "IdleHint": ("b", True)},)


def test_a_call_brings_the_answers_values(tmp_path: Path) -> None:
    with fake_bus(tmp_path, Add=add) as served, Bus(served.address) as bus:
        assert bus.call(*CALL, "Add", 1, 2, signature="ii") == (3,)
        assert bus.call(*CALL, "Add", 3, 4, signature="ii") == (7,)


def test_properties_come_without_their_types(tmp_path: Path) -> None:
    with fake_bus(tmp_path, GetAll=a_users_session) as served, Bus(served.address) as bus:
        assert bus.properties(*CALL) == {"Class": "user", "IdleHint": True}


def test_a_refusal_names_the_method_and_the_reason(tmp_path: Path) -> None:
    with fake_bus(tmp_path) as served, Bus(served.address) as bus, pytest.raises(BusError, match=r"refused Add.*knows"):
        bus.call(*CALL, "Add")


def test_a_bus_that_is_not_there_or_hangs_up_or_says_nothing_is_said_in_time(tmp_path: Path) -> None:
    with pytest.raises(BusError, match="bus"):
        Bus(f"unix:path={tmp_path / 'nowhere'}")
    with fake_bus(tmp_path) as served:
        with Bus(served.address, within_s=0.1) as bus:
            served.silent = True
            began_s = time.monotonic()
            with pytest.raises(BusError, match="no answer"):
                bus.call(*CALL, "Add")
            assert time.monotonic() - began_s < 2
        with pytest.raises(BusError, match="no unix"):
            Bus(served.address, within_s=0.1)
        served.silent = False
        with Bus(served.address) as bus:
            served.hang_up()
            with pytest.raises(BusError, match="no answer"):
                bus.call(*CALL, "Add")


def test_without_a_session_there_is_no_session_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(BusError, match="SESSION"):
        Bus("SESSION")


def test_signals_arrive_until_somebody_interrupts(tmp_path: Path) -> None:
    got: list[tuple[object, ...]] = []
    ended: list[BusError] = []

    def listen(bus: Bus) -> None:
        try:
            for values in bus.signals("/org/example", "org.example.Adder", "Added"):
                got.append(values)
        except BusError as error:
            ended.append(error)

    def until(what: str, met: Callable[[], object]) -> None:
        ends_s = time.monotonic() + 5
        while not met():
            assert time.monotonic() < ends_s, what
            time.sleep(0.005)

    with fake_bus(tmp_path) as served, Bus(served.address) as bus:
        thread = threading.Thread(target=listen, args=(bus,))
        thread.start()
        until("it listens", lambda: any("AddMatch" in call for call in served.calls))
        served.emit("/org/example", "org.example.Adder", "Added", "i", 7)
        served.emit("/org/example", "org.example.Adder", "Other", "i", 8)
        until("the first signal", lambda: got)
        served.emit("/org/example", "org.example.Adder", "Added", "i", 9)
        until("the second signal", lambda: len(got) == 2)
        bus.interrupt()
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert got == [(7,), (9,)]
        assert "gone" in str(ended[0])
        bus.interrupt()
