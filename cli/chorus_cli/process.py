"""One long-lived `chorus` process: its event loop, how it is told to stop, its log file and its pid file."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from chorus_proto import logs
from chorus_proto.settings import SettingsError

_OBJECTS_TO_COLLECT = 20_000
"""Between two looks for cycles of garbage. Python's 700 are the objects of a few requests: a tenth of the hub's CPU."""

Work = Callable[[asyncio.Event], Awaitable[None]]

if sys.platform == "win32":
    STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
else:
    STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_stopped(work: Work) -> None:
    """Run `work` until it returns; the first Ctrl+C or SIGTERM sets the event it gets, a second one ends at once."""

    # What is loaded now stays: walking it again and again would hold up every stream for tens of milliseconds.
    gc.freeze()
    gc.set_threshold(_OBJECTS_TO_COLLECT, 10, 10)

    async def inside() -> None:
        stop = asyncio.Event()
        _listen_for_signals(asyncio.get_running_loop(), stop)
        await work(stop)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(inside())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed (never on Windows): the hub uses up to 12 % less CPU for a streamed request."""
    if sys.platform == "win32" or importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


def ask_to_stop(stop: asyncio.Event) -> None:
    """What Ctrl+C means: end gracefully, and at once when that was already under way."""
    if stop.is_set():
        # Children notice the end of their parent by themselves, so nothing has to be cleaned up here.
        os._exit(1)
    stop.set()


def _listen_for_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def on_windows(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(ask_to_stop, stop)

    for number in STOP_SIGNALS:
        if sys.platform == "win32":
            signal.signal(number, on_windows)
        else:
            loop.add_signal_handler(number, ask_to_stop, stop)


async def first_of(*works: Awaitable[object]) -> None:
    """Wait until one ends, cancel the others, and raise what the ended one raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def logging_to(state_dir: Path, name: str, level: str) -> Generator[None]:
    """Warnings and worse (or what `level` asks for) to stderr, info and up to STATE/logs/NAME.log."""
    file = state_dir.expanduser() / "logs" / f"{name}.log"
    file_level = level if level == "debug" else "info"
    try:
        undo = logs.configure(level, stream=sys.stderr, file=file, file_level=file_level)
    except SettingsError as error:
        raise SettingsError(f"{error}; choose another folder with --state-dir") from None
    try:
        yield
    finally:
        undo()


@contextmanager
def pid_file(state_dir: Path, name: str) -> Generator[None]:
    """Say in STATE/run/NAME.pid who runs, for `stop.sh`; gone afterwards."""
    file = state_dir.expanduser() / "run" / f"{name}.pid"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{os.getpid()}\n", encoding="ascii")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_text(encoding="ascii").strip() == str(os.getpid()):
                file.unlink()
