"""Runs one blocking question to the system or a driver so that neither its failure nor its silence does harm."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


async def ask(what: str, question: Callable[[], T], within_s: float) -> T | None:
    """The answer to `question`, or None with one log line when it fails or takes longer than `within_s` seconds.

    The thread is a daemon of its own: a driver that hangs would keep asyncio's executor, and the process, from ending.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(value)  # pyright: ignore[reportArgumentType]  # T may be None itself

    def run() -> None:
        value: T | None = None
        failure: Exception | None = None
        try:
            value = question()
        except Exception as error:  # noqa: BLE001  # an edge: drivers and their bindings raise anything
            failure = error
        try:
            loop.call_soon_threadsafe(settle, value, failure)
        except RuntimeError:
            # The loop ended while the driver was thinking; nobody waits for this answer any more.
            return

    threading.Thread(target=run, name=f"probe:{what}", daemon=True).start()
    try:
        async with asyncio.timeout(within_s):
            return await answer
    except TimeoutError:
        log.warning("hardware probe %s: no answer within %.1f s, left out", what, within_s)
    except Exception as error:  # noqa: BLE001  # an edge: a failing probe must never stop the start
        log.warning("hardware probe %s: left out: %s", what, error)
    return None
