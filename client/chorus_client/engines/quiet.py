"""After a cancelled answer: has the engine stopped, or does it compute for nobody?

Closing the connection is how an engine is told. Whether it heard shows in its own count of busy slots: one that calls
more slots busy than answers run here, at every look until the limit, does not stop. An engine in the middle of a batch
of a prompt cannot stop, nor say anything, before the batch is done; that is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chorus_client.watchdog import BATCH_TOKENS, SharedEngine
from chorus_proto.errors import EngineUnavailable
from chorus_proto.generation import Delta, Done, Piece

QUIET_WITHIN_S = 5.0
_FIRST_LOOK_SHARE = 0.4
_LOOK_EVERY_SHARE = 0.1
_ASSUMED_PREFILL_TOKENS_PER_S = 20.0
_SLOWNESS = 2.0


class QuietCheck:
    """Of one engine. `busy_slots` asks it, None when it does not show them; `on_busy` hears why it should be ended."""

    def __init__(
        self,
        busy_slots: Callable[[], Awaitable[int | None]],
        on_busy: Callable[[str], None],
        *,
        within_s: float = QUIET_WITHIN_S,
    ) -> None:
        self._busy_slots = busy_slots
        self._on_busy = on_busy
        self._within_s = within_s
        self._engine = SharedEngine()
        self._running = 0
        self._prompts = 0
        self._cancelled_s = 0.0
        self._cancelled_in_prompt = False
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def began(self) -> None:
        self._running += 1
        self._prompts += 1

    def answers(self) -> None:
        """The first token of one has come."""
        self._prompts -= 1

    def ended(self, last: Piece | None, *, answering: bool) -> None:
        """`last`: the last piece of it; anything but a `Done` means that it was cancelled or broke."""
        self._running -= 1
        if not answering:
            self._prompts -= 1
        if isinstance(last, Done):
            self._engine.measured(last)
        elif not self._closed:
            self._look_later(in_prompt=not isinstance(last, Delta))

    def _look_later(self, *, in_prompt: bool) -> None:
        loop = asyncio.get_running_loop()
        self._cancelled_s = loop.time()
        self._cancelled_in_prompt = in_prompt
        if self._looking is not None and not self._looking.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(self._within_s * _FIRST_LOOK_SHARE, self._begin_to_look)

    def _begin_to_look(self) -> None:
        self._looking = asyncio.create_task(self._look(), name="engine-quiet")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while not await self._is_quiet():
            waited_s = loop.time() - self._cancelled_s
            if waited_s >= self._patience_s:
                self._on_busy(f"{waited_s:.1f} s after an answer was cancelled the engine still works on it")
                return
            await asyncio.sleep(self._within_s * _LOOK_EVERY_SHARE)

    async def _is_quiet(self) -> bool:
        try:
            async with asyncio.timeout(self._within_s):
                busy = await self._busy_slots()
        except (TimeoutError, EngineUnavailable):
            return False
        return busy is None or busy <= self._running

    @property
    def _patience_s(self) -> float:
        if not self._prompts and not self._cancelled_in_prompt:
            return self._within_s
        rate = self._engine.prefill_tokens_per_s or _ASSUMED_PREFILL_TOKENS_PER_S
        return max(self._within_s, _SLOWNESS * BATCH_TOKENS / rate)

    async def aclose(self) -> None:
        """The engine goes: nothing more to look for."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
