"""Between the system's thread and the agent's loop, with a notice of the test's."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable

import pytest

from chorus_client.sleep_notice import listening
from chorus_client.sleep_notice.listening import listen, system_notice


class PlayedNotice:
    """`sleeps` is what the system does: it waits for the callback's return."""

    def __init__(self) -> None:
        self.about_to_sleep: Callable[[], None] | None = None
        self.running = threading.Event()
        self.stopped = threading.Event()
        self.error: Exception | None = None

    def run(self, about_to_sleep: Callable[[], None]) -> None:
        if self.error is not None:
            raise self.error
        self.about_to_sleep = about_to_sleep
        self.running.set()
        self.stopped.wait(30)

    def stop(self) -> None:
        self.stopped.set()

    async def sleeps(self) -> float:
        """Seconds that the system was held back."""
        await asyncio.to_thread(self.running.wait, 5)
        assert self.about_to_sleep is not None
        began_s = time.monotonic()
        await asyncio.to_thread(self.about_to_sleep)
        return time.monotonic() - began_s


def test_the_goodbye_is_said_on_the_loop_before_the_system_goes_on() -> None:
    async def scenario() -> None:
        notice = PlayedNotice()
        loop = asyncio.get_running_loop()
        goodbyes: list[bool] = []

        async def goodbye() -> None:
            await asyncio.sleep(0.01)
            goodbyes.append(asyncio.get_running_loop() is loop)

        task = asyncio.create_task(listen(goodbye, notice))
        for count in (1, 2):
            await notice.sleeps()
            assert goodbyes == [True] * count
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert notice.stopped.is_set()

    asyncio.run(scenario())


def test_a_goodbye_that_hangs_holds_the_system_back_no_longer_than_it_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening, "GOODBYE_WITHIN_S", 0.1)

    async def scenario() -> None:
        notice = PlayedNotice()
        task = asyncio.create_task(listen(lambda: asyncio.sleep(60), notice))
        assert await notice.sleeps() < 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert "before the goodbye was sent" in caplog.text


def test_a_goodbye_that_breaks_does_not_break_the_systems_thread(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        notice = PlayedNotice()

        async def goodbye() -> None:
            raise RuntimeError("no link")

        task = asyncio.create_task(listen(goodbye, notice))
        await notice.sleeps()
        await notice.sleeps()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert caplog.text.count("no link") == 2


def test_a_system_that_gives_no_notice_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    notice = PlayedNotice()
    notice.error = OSError("refused")

    async def scenario() -> None:
        async with asyncio.timeout(5):
            await listen(lambda: asyncio.sleep(0), notice)

    asyncio.run(scenario())
    assert [record.levelname for record in caplog.records if "refused" in record.message] == ["INFO"]


def test_each_system_has_its_notice() -> None:
    name = {"linux": "LogindNotice", "win32": "WindowsNotice", "darwin": "MacNotice"}.get(sys.platform)
    assert (None if name is None else name) == (type(found).__name__ if (found := system_notice()) else None)
