"""One task between the system's notice, which comes on a thread of its own, and the agent's loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Protocol

log = logging.getLogger(__name__)

GOODBYE_WITHIN_S = 2.0
"""Systems wait a little longer than this for those who asked to be heard (logind 5 s, Windows 2 s, macOS 30 s)."""


class Notice(Protocol):
    """One system's way. Its callback runs on a thread of the notice, and the system waits for its return."""

    def run(self, about_to_sleep: Callable[[], None]) -> None:
        """Block as long as notices may come; raises OSError or a subclass's own when the system gives none."""
        ...

    def stop(self) -> None:
        """Let `run` return; from any thread."""
        ...


def system_notice() -> Notice | None:
    """This system's; None where there is no way."""
    if sys.platform == "linux":
        from chorus_client.sleep_notice.linux import LogindNotice

        return LogindNotice()
    if sys.platform == "win32":
        from chorus_client.sleep_notice.windows import WindowsNotice

        return WindowsNotice()
    if sys.platform == "darwin":
        from chorus_client.sleep_notice.macos import MacNotice

        return MacNotice()
    return None


async def listen(about_to_sleep: Callable[[], Awaitable[None]], notice: Notice | None = None) -> None:
    """Call `about_to_sleep` on this loop each time before the PC sleeps, until cancelled.

    Ends early, with one log line, on a system that gives no notice: a sleep is then noticed after it.
    """
    source = notice or system_notice()
    if source is None:
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    async def leave() -> None:
        await about_to_sleep()

    def on_thread() -> None:
        told: Future[None] = asyncio.run_coroutine_threadsafe(leave(), loop)
        try:
            told.result(GOODBYE_WITHIN_S)
        except NotInTime:
            log.warning("the PC sleeps before the goodbye was sent")
        except Exception as error:  # noqa: BLE001  # an edge: the system's thread must go on whatever broke
            log.warning("no goodbye before the PC's sleep: %r", error)

    def run() -> None:
        reason = "it ended"
        try:
            source.run(on_thread)
        except Exception as error:  # noqa: BLE001  # an edge: a system's library raises anything; sleep is seen afterwards
            reason = repr(error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, reason)

    def settle(reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)

    # A daemon: a system that does not let go of the thread must not keep the agent from ending.
    threading.Thread(target=run, name="sleep-notice", daemon=True).start()
    try:
        log.info("no notice of the PC's sleep on this system: %s", await ended)
    finally:
        source.stop()
