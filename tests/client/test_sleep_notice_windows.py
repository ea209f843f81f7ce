"""What Windows' power events mean, and where there are any."""

from __future__ import annotations

import sys
import threading

import pytest

from chorus_client.sleep_notice.windows import WindowsNotice, on_power_event

PBT_APMSUSPEND, PBT_APMRESUMEAUTOMATIC, PBT_APMPOWERSTATUSCHANGE = 4, 18, 10


def test_only_going_to_sleep_is_told() -> None:
    told: list[int] = []
    for event in (PBT_APMRESUMEAUTOMATIC, PBT_APMSUSPEND, PBT_APMPOWERSTATUSCHANGE):
        assert on_power_event(event, lambda event=event: told.append(event)) == 0
    assert told == [PBT_APMSUSPEND]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: elsewhere there is no such notice")
def test_elsewhere_it_is_refused() -> None:
    with pytest.raises(OSError, match="Windows"):
        WindowsNotice().run(lambda: None)


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: its power notifications")
def test_windows_takes_the_subscription_and_lets_it_go() -> None:
    notice = WindowsNotice()
    thread = threading.Thread(target=notice.run, args=(lambda: None,))
    thread.start()
    notice.stop()
    thread.join(timeout=5)
    assert not thread.is_alive()
