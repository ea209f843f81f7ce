"""The agent that `chorus up` runs on its own PC: a child process, started again when it dies, gone when we are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from chorus_client.process import ChildProcess, own_python
from chorus_proto.clock import Clock
from chorus_proto.settings import SettingsError

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
HEALTHY_AFTER_S = 60.0
"""An agent that ran this long starts with the first pause again."""
STOP_GRACE_S = 15.0
CONFIGURATION_ERROR = 2


class LocalAgent:
    """Supervises one agent process from `start` to `stop`."""

    def __init__(self, arguments: Sequence[str], clock: Clock) -> None:
        """`arguments` follow `chorus agent`."""
        self._command = own_python("chorus_cli", "agent", *arguments)
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """The task ends only when it gives up; see `_run`."""
        self._task = asyncio.create_task(self._run(), name="local-agent")
        return self._task

    async def stop(self) -> None:
        """End the agent gracefully; does nothing when it was never started."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SettingsError):
                await self._task

    async def _run(self) -> None:
        """Keep the agent running until cancelled. Raises SettingsError, with the agent's own last line, when it says
        that its configuration is wrong: starting it again would not help."""
        pause_s = FIRST_PAUSE_S
        while True:
            began_s = self._clock.monotonic_s()
            code, last = await self._one_life()
            if code == CONFIGURATION_ERROR:
                raise SettingsError(f"the agent of this PC cannot start: {last.removeprefix('chorus: ')}")
            if self._clock.monotonic_s() - began_s >= HEALTHY_AFTER_S:
                pause_s = FIRST_PAUSE_S
            log.error("the agent of this PC ended (exit code %d: %s); again in %g s", code, last or "silent", pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _one_life(self) -> tuple[int, str]:
        """From start to end: (exit code, last line of output)."""
        try:
            child = await ChildProcess.start(self._command, python_child=True, own_settings=True)
        except OSError as error:
            return 1, f"cannot be started: {error.strerror}"
        try:
            code = await child.wait()
            return code, next(reversed(child.output.lines()), "")
        finally:
            await child.stop(grace_s=STOP_GRACE_S)
