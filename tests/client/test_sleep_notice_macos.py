"""What macOS' power messages mean, and where there are any."""

from __future__ import annotations

import sys
import threading

import pytest

from chorus_client.sleep_notice.macos import MacNotice, on_power_message

CAN_SLEEP, WILL_SLEEP, HAS_POWERED_ON = 0xE000_0270, 0xE000_0280, 0xE000_0300


def test_only_going_to_sleep_is_told_and_both_questions_are_answered() -> None:
    told: list[int] = []
    answers = [
        on_power_message(message, lambda message=message: told.append(message))
        for message in (CAN_SLEEP, WILL_SLEEP, HAS_POWERED_ON)
    ]
    assert answers == [True, True, False]
    assert told == [WILL_SLEEP]


@pytest.mark.skipif(sys.platform == "darwin", reason="needs POSIX that is not macOS: there is no such notice")
def test_elsewhere_it_is_refused() -> None:
    with pytest.raises(OSError, match="macOS"):
        MacNotice().run(lambda: None)


def test_stopping_before_the_start_is_no_error() -> None:
    notice = MacNotice()
    notice.stop()
    if sys.platform == "darwin":
        thread = threading.Thread(target=notice.run, args=(lambda: None,))
        thread.start()
        thread.join(timeout=5)
        assert not thread.is_alive()
