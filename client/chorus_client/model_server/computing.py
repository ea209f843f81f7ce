"""The computing process as the HTTP side sees it: start it, follow its load, give it generations, know its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import psutil

import chorus_client
import chorus_proto
from chorus_client.model_server import frames
from chorus_client.model_server.frames import (
    Begin,
    Cancel,
    Ended,
    Failed,
    Load,
    Loading,
    Prefilled,
    Ready,
    Refused,
    Said,
)
from chorus_client.process import own_python
from chorus_proto.errors import EngineFailed

log = logging.getLogger(__name__)

CallEvent: TypeAlias = Prefilled | Said | Ended | Refused

_END_WAIT_S = 5.0
_WEIGHTS = "reading the weights"
_SHARE_BEFORE_WEIGHTS, _SHARE_OF_WEIGHTS = 0.2, 0.75
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


class Call:
    """One generation. What comes is kept until it is read; the context's length bounds it."""

    def __init__(self, number: int, cancel: Callable[[], None]) -> None:
        self.number = number
        self._cancel = cancel
        self._events: list[CallEvent] = []
        self._came = asyncio.Event()
        self.ended = False

    def put(self, event: CallEvent) -> None:
        self._events.append(event)
        self._came.set()

    async def next(self) -> list[CallEvent]:
        """All that came since the last time, at least one event. After Ended or Refused nothing comes."""
        await self._came.wait()
        self._came.clear()
        events, self._events = self._events, []
        return events

    def cancel(self) -> None:
        """Stop it, unless it has ended."""
        if not self.ended:
            self._cancel()


class Computing:
    """The child process. `start` it once, `follow` it in a task, and `stop` it."""

    def __init__(self, load: Load, *, file_bytes: int) -> None:
        self._load = load
        self._file_bytes = file_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._calls: dict[int, tuple[Call, Callable[[], None]]] = {}
        self._last_number = 0
        self._resident_before_weights = 0
        self.ready: Ready | None = None
        self.stage = "starting"
        self.failure: str | None = None

    async def start(self) -> None:
        """Raises OSError when the process cannot be started."""
        roots = {str(Path(package.__path__[0]).parent): None for package in (chorus_client, chorus_proto)}
        self._process = await asyncio.create_subprocess_exec(
            *own_python("chorus_client.model_server.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _OFFLINE | {"PYTHONPATH": os.pathsep.join(roots)},
            limit=frames.MOST_FRAME_BYTES,
        )
        self._send(self._load)

    async def follow(self) -> int:
        """Hand out what the process says until it ends; its exit code. Every open call then fails."""
        assert self._process is not None and self._process.stdout is not None
        try:
            while events := await frames.read_events(self._process.stdout):
                for event in events:
                    self._take(event)
        except EngineFailed as error:
            self.failure = error.message
            self._kill()
        code = await self._process.wait()
        if self.failure is None:
            self.failure = f"the computing process ended with code {code}"
        for call, _ in list(self._calls.values()):
            self._take(Refused(number=call.number, code=EngineFailed.code, message=self.failure))
        return code

    def _take(self, event: frames.Event) -> None:
        if isinstance(event, Loading):
            self.stage = event.stage
            if event.stage == _WEIGHTS:
                self._resident_before_weights = self._resident_bytes()
            print(f"{self._load.folder}: {event.stage}", file=sys.stderr, flush=True)
        elif isinstance(event, Ready):
            self.ready, self.stage = event, "ready"
        elif isinstance(event, Failed):
            self.failure = event.words
        elif found := self._calls.get(event.number):
            call, on_end = found
            if isinstance(event, Ended | Refused):
                del self._calls[event.number]
                call.ended = True
                on_end()
            call.put(event)

    def begin(self, make: Callable[[int], Begin], on_end: Callable[[], None]) -> Call:
        """Start a generation; `on_end` is called once, when the process has let go of it."""
        self._last_number += 1
        number = self._last_number
        call = Call(number, lambda: self._send(Cancel(number)))
        self._calls[number] = (call, on_end)
        if self.failure is not None:
            self._take(Refused(number=number, code=EngineFailed.code, message=self.failure))
        else:
            self._send(make(number))
        return call

    def _send(self, order: frames.Order) -> None:
        # Not awaited: what is on its way is bounded by the slots, and a cancel must not wait.
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(frames.encoded(order))

    def share(self) -> float:
        """How far the load is, 0-1; while weights are read, by the memory that the process took for them."""
        if self.ready is not None:
            return 1.0
        if self.stage != _WEIGHTS:
            return {"starting": 0.0, "importing torch and transformers": 0.05, "reading the tokenizer": 0.1}.get(
                self.stage, _SHARE_BEFORE_WEIGHTS + _SHARE_OF_WEIGHTS
            )
        grown = max(0, self._resident_bytes() - self._resident_before_weights)
        return _SHARE_BEFORE_WEIGHTS + _SHARE_OF_WEIGHTS * min(1.0, grown / max(1, self._file_bytes))

    def _resident_bytes(self) -> int:
        assert self._process is not None
        try:
            return psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:
            return 0

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self, reason: str) -> None:
        """End the process; whatever it computes is lost, and `reason` is what its callers hear."""
        if self._process is None:
            return
        self.failure = self.failure or reason
        self._kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_WAIT_S):
                await self._process.wait()


def killed_for_memory(code: int) -> bool:
    """Whether a process that ended with `code` was killed, as Linux does when memory runs out."""
    return sys.platform != "win32" and code == -signal.SIGKILL
