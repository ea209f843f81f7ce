"""One child process of the agent: started in a clean environment, always drained, stopped with all it started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

import chorus_client
import chorus_proto
from chorus_client import lifeline
from chorus_client.footprint import Resident, footprint
from chorus_client.oom import kills_so_far
from chorus_client.windows_job import JobObject
from chorus_proto.settings import ENV_PREFIX

log = logging.getLogger(__name__)

STOP_GRACE_S = 10.0
_KILL_WAIT_S = 5.0
_LAST_WORDS_S = 0.5
_KILLED = -9

if sys.platform == "win32":
    _WINDOWS_FLAGS = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
else:
    _WINDOWS_FLAGS = 0

_DROPPED_PREFIXES = ("LLAMA_ARG_", "LLAMA_API_KEY", "OLLAMA_", "HF_TOKEN", "LD_", "DYLD_", "PYTHON")


def clean_environment(source: Mapping[str, str], *, own_settings: bool = False) -> dict[str, str]:
    """`source` without what would configure, inject code into or leak a secret to an engine (`LLAMA_ARG_TOOLS`...).

    `own_settings` keeps Chorus's `CHORUS_*`, keys of other servers among them, for a child that is Chorus itself.
    """
    dropped = _DROPPED_PREFIXES if own_settings else (*_DROPPED_PREFIXES, ENV_PREFIX)
    return {name: value for name, value in source.items() if not name.upper().startswith(dropped)}


def own_python(module: str, *arguments: str) -> list[str]:
    """The command line of one of our own modules; `-P` keeps the current folder out of its import path."""
    return [sys.executable, "-P", "-m", module, *arguments]


class LastLines:
    """The end of a process's output: at most `lines` lines and `most_bytes` bytes, whatever it prints."""

    def __init__(self, *, lines: int = 20, most_bytes: int = 65_536) -> None:
        self._kept: deque[bytes] = deque(maxlen=lines)
        self._line_bytes = most_bytes // (lines + 1)
        self._open = b""
        self.bytes_seen = 0

    def feed(self, chunk: bytes) -> None:
        self.bytes_seen += len(chunk)
        first, *rest = chunk.split(b"\n")
        self._open = (self._open + first[: self._line_bytes])[: self._line_bytes]
        for line in rest:
            if self._open.strip():
                self._kept.append(self._open)
            self._open = line[: self._line_bytes]

    def lines(self) -> list[str]:
        """Oldest first, decoded; control characters are escaped so that a log line stays one line."""
        kept = [*self._kept, self._open] if self._open.strip() else list(self._kept)
        return [_escaped(line.decode("utf-8", "replace").rstrip("\r")) for line in kept]


def _escaped(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


class ChildProcess:
    """A running child. Create it with `start`; its owner must `stop` it."""

    def __init__(self, transport: asyncio.SubprocessTransport, watch: _Watch, *, job: JobObject | None) -> None:
        self._transport = transport
        self._watch = watch
        self._job = job
        self.pid = transport.get_pid()
        self._kills_before = kills_so_far()

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        python_child: bool,
        environment: Mapping[str, str] | None = None,
        own_settings: bool = False,
    ) -> ChildProcess:
        """Start `argv` (absolute program first, never a shell). Raises OSError when the program cannot be started.

        `python_child`: the program is one of our own modules and calls `lifeline.tie_to_parent` itself. `environment`
        is added to the agent's own, cleaned one, in which `own_settings` keeps `CHORUS_*`. Call it on a thread that
        lives as long as the child should: Linux ties the child to the thread that started it.
        """
        child_environment = clean_environment(os.environ, own_settings=own_settings) | dict(environment or {})
        command = list(argv)
        if python_child:
            roots = {str(Path(package.__path__[0]).parent): None for package in (chorus_client, chorus_proto)}
            child_environment["PYTHONPATH"] = os.pathsep.join(roots)
            child_environment[lifeline.PARENT_VARIABLE] = str(os.getpid())
        elif sys.platform != "win32":
            command = [sys.executable, "-I", "-S", str(Path(lifeline.__file__)), str(os.getpid()), *command]
        loop = asyncio.get_running_loop()
        transport, watch = await loop.subprocess_exec(
            lambda: _Watch(loop),
            *command,
            stdin=subprocess.PIPE,  # its end tells the child that the agent is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment,
            close_fds=True,
            start_new_session=sys.platform != "win32",
            creationflags=_WINDOWS_FLAGS,
        )
        watch.child_pid = transport.get_pid()
        job = None
        if sys.platform == "win32":
            try:
                job = JobObject(transport.get_pid())
            except OSError as error:
                log.warning("process %s is not tied to the agent's life: %s", transport.get_pid(), error)
        return cls(transport, watch, job=job)

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._transport.get_returncode()

    @property
    def ended_for_memory(self) -> bool:
        """The kernel ended it for lack of memory: by a signal 9, while it counted such an ending somewhere."""
        now = kills_so_far()
        counted = now is not None and self._kills_before is not None and now > self._kills_before
        return self.returncode == _KILLED and counted

    @property
    def output(self) -> LastLines:
        return self._watch.output

    async def wait(self) -> int:
        """Wait for the end and the last output; the exit code, negative for a signal."""
        await asyncio.shield(self._watch.ended)
        return self._transport.get_returncode() or 0

    async def stop(self, *, grace_s: float = STOP_GRACE_S) -> int:
        """Ask it to end, after `grace_s` seconds end it and everything in its group by force; the exit code."""
        try:
            if self.returncode is None:
                self._ask_to_end()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self.wait()
        finally:
            self.kill()
        try:
            async with asyncio.timeout(_KILL_WAIT_S):
                code = await self.wait()
        except TimeoutError:
            log.error("process %s did not end %s s after SIGKILL", self.pid, _KILL_WAIT_S)
            code = -int(signal.SIGTERM)
        self._transport.close()
        return code

    def kill(self) -> None:
        """End the child and everything in its group at once. Does nothing when nothing is left."""
        if self._job is not None:
            self._job.close()
        if self.returncode is None:
            _signal_group(self.pid, kill=True)
            if sys.platform == "win32":
                with contextlib.suppress(ProcessLookupError):
                    self._transport.kill()

    def _ask_to_end(self) -> None:
        if sys.platform == "win32":
            with contextlib.suppress(ProcessLookupError):
                self._transport.terminate()
        else:
            _signal_group(self.pid, kill=False)

    def resident(self) -> Resident | None:
        """Footprint of the child and its descendants now; None when it is gone. Blocks for some milliseconds."""
        try:
            top = psutil.Process(self.pid)
            family = [top, *top.children(recursive=True)]
        except psutil.Error:
            return None
        return footprint(family)


class _Watch(asyncio.SubprocessProtocol):
    """Takes the child's output as it comes and notices its end, even while a grandchild holds the pipes open."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._exited = False
        self._output_over = False
        self.output = LastLines()
        self.ended: asyncio.Future[None] = loop.create_future()
        """The process is gone and its last words are read."""
        self.child_pid: int | None = None
        """Set once it is known; uvloop's transport knows it later than asyncio's."""

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        if isinstance(data, bytes):
            self.output.feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._output_over = True
            self._end_if_over()

    def process_exited(self) -> None:
        # What it started dies with it, also when it crashed by itself.
        if self.child_pid is not None:
            _signal_group(self.child_pid, kill=True)
        self._exited = True
        self._end_if_over()
        # A grandchild that left the group may hold the pipe open for ever.
        self._loop.call_later(_LAST_WORDS_S, self._end)

    def _end_if_over(self) -> None:
        if self._exited and self._output_over:
            self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _signal_group(pid: int, *, kill: bool) -> None:
    if sys.platform != "win32" and pid > 1:  # killpg(0) would be our own group
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL if kill else signal.SIGTERM)
