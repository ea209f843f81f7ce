"""Watches a server that is not our child: nobody tells us when it ends, so it is asked now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chorus_client.engines.base import Ending
from chorus_proto.errors import ClusterError

MISSES_BEFORE_CLOSED = 2
"""One unanswered question may be a moment of load."""


async def until_gone(
    name: str, unloaded: asyncio.Event, ask: Callable[[], Awaitable[object]], *, every_s: float
) -> Ending:
    """Return once the model `name` was unloaded, or `ask` failed twice in a row (ClusterError)."""
    misses = 0
    while True:
        try:
            async with asyncio.timeout(every_s):
                await unloaded.wait()
            return Ending(reason=f"{name} was unloaded")
        except TimeoutError:
            pass
        try:
            await ask()
            misses = 0
        except ClusterError as error:
            misses += 1
            if misses >= MISSES_BEFORE_CLOSED:
                return Ending(reason=error.message)
