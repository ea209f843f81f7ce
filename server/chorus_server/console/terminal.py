"""The console on this process's own terminal or pipe: reading beside the loop, Ctrl-C, what the screen can do.

Reading happens in a daemon thread, because neither Windows consoles nor plain files can be awaited.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType

from chorus_server.console.lines import LineSession, ReadLine, Screen, Write

READ_BYTES = 64 * 1024
LINE_CHARACTERS = 1024 * 1024
"""A longer line than any model's context is handed on in pieces."""
INTERRUPT_NOTICED_WITHIN_S = 0.2


class Ended(StrEnum):
    """Why `run_terminal` returned."""

    QUIT = "quit"
    END_OF_INPUT = "end_of_input"
    INTERRUPTED = "interrupted"


async def run_terminal(
    make: Callable[[ReadLine, Write, Screen], LineSession],
    *,
    on_interrupt: Callable[[], None] | None = None,
    input_fd: int | None = None,
) -> Ended:
    """A conversation on standard input and output until it ends. Call it in the main thread.

    Ctrl-C cancels what runs. With none running it calls `on_interrupt`, which stays in charge of Ctrl-C
    afterwards too; without an `on_interrupt` it ends this function and Ctrl-C is as before.
    """
    descriptor = _standard_input() if input_fd is None else input_fd
    if descriptor is None:
        return Ended.END_OF_INPUT
    loop = asyncio.get_running_loop()
    interactive = os.isatty(descriptor) and sys.stdout.isatty()
    lines = _Lines(descriptor, loop)

    async def read_line(prompt: str) -> str | None:
        if interactive:
            _write(prompt)
        return await lines.next()

    screen = Screen(
        width=shutil.get_terminal_size().columns,
        colour=interactive and "NO_COLOR" not in os.environ and not _legacy_windows(),
        live=interactive and not _legacy_windows() and (sys.stdout.encoding or "").lower().startswith("utf"),
    )
    session = make(read_line, _write, screen)
    talking = asyncio.create_task(session.run(), name="console")
    interrupted = False

    def told() -> None:
        nonlocal interrupted
        lines.interrupted.set()
        if session.interrupt():
            return
        if on_interrupt is not None:
            on_interrupt()
        else:
            interrupted = True
            talking.cancel()

    with _interrupts(loop, told, keep=on_interrupt is not None):
        try:
            return Ended.QUIT if await talking else Ended.END_OF_INPUT
        except asyncio.CancelledError:
            if not interrupted:
                raise
            _write("\n")
            return Ended.INTERRUPTED
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)


def _standard_input() -> int | None:
    """None where there is no input: a service, or a Windows program without a console."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _legacy_windows() -> bool:
    """Consoles before Windows 10 print escape sequences instead of obeying them."""
    if sys.platform != "win32":
        return False
    from rich.console import detect_legacy_windows

    return detect_legacy_windows()


def _write(text: str) -> None:
    """To standard output, in what its encoding has; nobody reading it any more is no reason to fall over."""
    encoding = sys.stdout.encoding or "utf-8"
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()


@contextmanager
def _interrupts(loop: asyncio.AbstractEventLoop, told: Callable[[], None], *, keep: bool) -> Generator[None]:
    """Ctrl-C calls `told` in the loop; `keep` leaves it so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if sys.platform == "win32":

        def on_windows(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(told)

        before = signal.signal(signal.SIGINT, on_windows)
        try:
            yield
        finally:
            if not keep:
                signal.signal(signal.SIGINT, before)
    else:
        before = signal.getsignal(signal.SIGINT)
        loop.add_signal_handler(signal.SIGINT, told)
        try:
            yield
        finally:
            if not keep:
                loop.remove_signal_handler(signal.SIGINT)
                signal.signal(signal.SIGINT, before)


class _Lines:
    """Lines of a file descriptor, read by a daemon thread one at a time, when asked for.

    The descriptor is read raw: a thread that waits inside `sys.stdin` holds its lock and would break the process's
    exit, and would read ahead of what is asked for.
    """

    def __init__(self, descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
        self.interrupted = threading.Event()
        self._loop = loop
        self._wanted = threading.Semaphore(0)
        self._ready: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2)
        self._raw = open(descriptor, "rb", buffering=0, closefd=False)  # noqa: SIM115 - the thread uses it to the end
        self._terminal = self._raw.isatty()
        windows_console = sys.platform == "win32" and self._terminal
        encoding = "utf-8" if windows_console else getattr(sys.stdin, "encoding", None) or "utf-8"
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._pending = ""
        self._ended = False
        threading.Thread(target=self._read, name="console input", daemon=True).start()

    async def next(self) -> str | None:
        self._wanted.release()
        return await self._ready.get()

    def _read(self) -> None:
        while True:
            self._wanted.acquire()
            line = self._line()
            try:
                self._loop.call_soon_threadsafe(self._ready.put_nowait, line)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            if line is None:
                return

    def _line(self) -> str | None:
        while True:
            line, end, rest = self._pending.partition("\n")
            if end or (len(line) > LINE_CHARACTERS) or (self._ended and line):
                self._pending = rest
                return line.removesuffix("\r")
            if self._ended:
                return None
            self._more()

    def _more(self) -> None:
        self.interrupted.clear()
        try:
            raw = self._raw.read(READ_BYTES)
        except OSError:
            raw = b""  # the terminal is gone
        # On Windows Ctrl-C makes a waiting read return nothing, which is no end of the input.
        if not raw and self._terminal and self.interrupted.wait(INTERRUPT_NOTICED_WITHIN_S):
            return
        if not raw:
            self._ended = True
        self._pending += self._decoder.decode(raw or b"", final=self._ended)
