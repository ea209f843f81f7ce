"""A generation under its watchdog: pieces pass through, and one that stands still ends as a failure of the engine.

Every token of every answer comes through here, so a batch costs no task and no timer of its own: one timer for the
whole generation sleeps as long as the watchdog can be sure, and breaks the pending wait when the engine hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chorus_client.watchdog import Hung, Watchdog
from chorus_proto.clock import Clock
from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Delta, Done, Generation, PieceBatches, Prefilled

LATE_S = 1.0
"""A timer that comes later than this tells of a PC that slept or a loop that was blocked, not of the engine."""

_BYTES_PER_TOKEN = 3


def prompt_tokens_about(generation: Generation) -> int:
    """What the watchdog goes by until the engine tells: rather too many than too few, so that it errs to patience."""
    return len(generation.encoded()) // _BYTES_PER_TOKEN


async def watched(
    batches: PieceBatches,
    watchdog: Watchdog,
    clock: Clock,
    on_hung: Callable[[str], None],
    on_done: Callable[[Done], None] | None = None,
) -> PieceBatches:
    """The same batches. Closing it, its end and its failure close `batches`, which stops the engine's work.

    `on_done` hears of an answer that came to its end. When the engine hangs, `on_hung` hears the reason and
    EngineFailed(reason) is raised. Only time in which the caller waits for the next piece counts: one who does not read
    on (a slow client) hangs nobody's engine.
    """
    now_s = clock.monotonic_s
    current_task = asyncio.current_task
    following = batches.__anext__
    timer = _Timer(watchdog, clock, on_hung)
    watchdog.joins()
    watchdog.excused(now_s())
    try:
        while True:
            timer.waiter = current_task()
            pieces = await following()
            timer.waiter = None
            came_s = now_s()
            tokens = 0
            for piece in pieces:
                if isinstance(piece, Delta):
                    tokens += piece.tokens
                elif isinstance(piece, Prefilled):
                    watchdog.prefilled(piece.tokens, piece.of_tokens, came_s)
                else:
                    watchdog.engine.measured(piece)
                    if on_done is not None:
                        on_done(piece)
            watchdog.produced(came_s, tokens)
            yield pieces
            watchdog.unasked(now_s() - came_s)
    except StopAsyncIteration:
        if (hung := timer.broke()) is not None:
            raise hung from None
    except BaseException:
        # Whatever the broken wait turned into on its way here: it ended because we broke it.
        if (hung := timer.broke()) is not None:
            raise hung from None
        raise
    finally:
        timer.end()
        watchdog.leaves(now_s())
        await batches.aclose()


class _Timer:
    """Asks the watchdog when its word runs out; `waiter` is the task that waits for a piece now, None between waits."""

    def __init__(self, watchdog: Watchdog, clock: Clock, on_hung: Callable[[str], None]) -> None:
        self._watchdog = watchdog
        self._clock = clock
        self._on_hung = on_hung
        self._loop = asyncio.get_running_loop()
        self._broken: tuple[asyncio.Task[object], int, str] | None = None
        self.waiter: asyncio.Task[object] | None = None
        self._due_at_s = self._loop.time()
        self._handle: asyncio.Handle = self._loop.call_soon(self._look)

    def _look(self) -> None:
        if self.waiter is None:
            self._look_in(self._watchdog.limit_s)
            return
        now_s = self._clock.monotonic_s()
        if self._loop.time() - self._due_at_s > LATE_S:
            self._watchdog.excused(now_s)
        verdict = self._watchdog.verdict(now_s)
        if isinstance(verdict, Hung):
            # As asyncio.timeout does it: the only way to end a wait from outside, whatever is waited for.
            self._broken = (self.waiter, self.waiter.cancelling(), verdict.reason)
            self.waiter.cancel()
            self._on_hung(verdict.reason)
        else:
            self._look_in(verdict.due_in_s)

    def _look_in(self, seconds: float) -> None:
        self._due_at_s = self._loop.time() + seconds
        self._handle = self._loop.call_at(self._due_at_s, self._look)

    def broke(self) -> EngineFailed | None:
        """The failure to raise when this timer ended the wait; None when it did not, or somebody else cancels too."""
        if self._broken is None:
            return None
        task, cancelling, reason = self._broken
        self._broken = None
        return EngineFailed(reason) if task.uncancel() <= cancelling else None

    def end(self) -> None:
        self._handle.cancel()
