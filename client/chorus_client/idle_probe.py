"""Tries an engine that nobody uses with a token or two: one that wedged in silence is found before its next caller.

The probe is no use of the model: it takes no hold, and whoever keeps count of uses does not hear of it. It makes way
as soon as somebody asks for real, because then the watchdog of that generation knows more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from chorus_client.engines.base import LoadedModel
from chorus_proto.errors import ClusterError, EngineFailed
from chorus_proto.generation import Generation, Prefilled

log = logging.getLogger(__name__)

PROBE = Generation(prompt="1", max_tokens=2, temperature=0.0)

_LOOK_S = 0.1
"""While a probe runs, a caller waits for its slot at most this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLimits:
    """`every_s`: idle for so long, and between two probes; 0 for no probes. `within_s`: a token must come."""

    every_s: float = 300.0
    within_s: float = 30.0


async def probe_when_idle(
    loaded: LoadedModel, limits: ProbeLimits, *, idle_s: Callable[[], float], on_hung: Callable[[str], None]
) -> None:
    """Probe as long as the model lives, the caller cancels it; ends after `on_hung` heard that nothing came.

    `idle_s`: seconds since the last real use ended, 0 while there is one. Not for models that only embed.
    """
    if not limits.every_s:
        return
    wait_s = limits.every_s
    while True:
        await asyncio.sleep(wait_s)
        wait_s = limits.every_s - idle_s()
        if wait_s > 0:
            continue
        failure = await _probed(loaded, limits, idle_s)
        if failure:
            on_hung(failure)
            return
        wait_s = limits.every_s


async def _probed(loaded: LoadedModel, limits: ProbeLimits, idle_s: Callable[[], float]) -> str:
    """Why the engine hangs; empty when it lives or somebody came."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + limits.within_s
    probe = asyncio.create_task(_first_token(loaded), name="idle-probe")
    try:
        while not probe.done():
            left_s = until_s - loop.time()
            if left_s <= 0:
                return f"idle, it was asked for a token and gave none within {limits.within_s:g} s"
            await asyncio.wait((probe,), timeout=min(_LOOK_S, left_s))
            if idle_s() < limits.every_s:
                return ""
        return probe.result()
    finally:
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)


async def _first_token(loaded: LoadedModel) -> str:
    """Return once the engine has said anything; what it failed with, if it did."""
    try:
        async with aclosing(loaded.generate(PROBE)) as batches:
            async for pieces in batches:
                if not isinstance(pieces[-1], Prefilled):
                    return ""
    except EngineFailed as error:
        return f"idle, it was asked for a token and failed: {error.message}"
    except ClusterError as error:
        # A refusal is an answer; an engine that cannot be reached at all is seen by who waits for its end.
        log.info("the idle probe was refused: %s", error.message)
    return ""
