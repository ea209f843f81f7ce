"""Child processes: real ones, in the environment, the bounds and the endings that the agent promises."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from chorus_client import lifeline
from chorus_client.process import ChildProcess, LastLines, clean_environment

AGENT = """
import asyncio, sys
from chorus_client.process import ChildProcess, own_python

async def main():
    ours = await ChildProcess.start(own_python("chorus_client.scripted_server"), python_child=True)
    foreign = await ChildProcess.start(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"], python_child=False)
    while not ("listening" in repr(ours.output.lines()) and "up" in foreign.output.lines()):
        await asyncio.sleep(0.02)
    print(ours.pid, foreign.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def said(child: ChildProcess, words: str) -> None:
    while words not in child.output.lines():
        await asyncio.sleep(0.02)


def run(code: str, *, grace_s: float = 10.0, until_it_says: str = "") -> tuple[int, list[str]]:
    """Run Python code as a foreign program; its exit code (stopped by us when `until_it_says` came) and last lines."""

    async def go() -> tuple[int, list[str]]:
        child = await ChildProcess.start([sys.executable, "-c", code], python_child=False)
        try:
            async with asyncio.timeout(20):
                if until_it_says:
                    await said(child, until_it_says)
                else:
                    await child.wait()
        finally:
            returned = await child.stop(grace_s=grace_s)
        return returned, child.output.lines()

    return asyncio.run(go())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_configures_or_leaks_into_an_engine_is_dropped_from_its_environment() -> None:
    names = ["LLAMA_ARG_TOOLS", "LLAMA_API_KEY", "OLLAMA_HOST", "HF_TOKEN", "LD_PRELOAD", "DYLD_INSERT_LIBRARIES"]
    names += ["CHORUS_REMOTE_API_KEY", "chorus_slots"]
    source = dict.fromkeys([*names, "PYTHONPATH", "PYTHONSTARTUP", "PATH", "HOME"], "x")
    assert set(clean_environment(source)) == {"PATH", "HOME"}


def test_a_child_that_is_chorus_itself_keeps_its_settings_and_nothing_else() -> None:
    source = dict.fromkeys(["CHORUS_REMOTE_API_KEY", "LLAMA_API_KEY", "PATH"], "x")
    assert set(clean_environment(source, own_settings=True)) == {"CHORUS_REMOTE_API_KEY", "PATH"}


def test_the_child_gets_the_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_TOOLS", "all")
    monkeypatch.setenv("CHORUS_REMOTE_API_KEY", "secret")
    code, lines = run("import os; print(sorted(n for n in os.environ if n.startswith(('LLAMA', 'PYTHON', 'CHORUS'))))")
    assert (code, lines) == (0, ["[]"])


def test_the_last_twenty_lines_are_kept_with_control_characters_escaped() -> None:
    code, lines = run(
        "import sys\nfor n in range(100): print(n, flush=True)\nprint('\\x1b[31mred', file=sys.stderr)\nsys.exit(3)"
    )
    assert code == 3
    assert lines == [*(str(n) for n in range(81, 100)), "\\x1b[31mred"]


def test_endless_output_without_a_line_end_stays_bounded() -> None:
    last = LastLines()
    for _ in range(300):
        last.feed(b"x" * 65_536)
    last.feed(b"\n" + b"tail\n" * 3)
    assert last.bytes_seen == 300 * 65_536 + 16
    assert sum(map(len, last.lines())) < 65_536
    assert last.lines()[-1] == "tail"


def test_a_flood_of_output_does_not_block_the_child() -> None:
    code, _ = run("import sys\nfor _ in range(200): sys.stdout.write('y' * 100_000)")
    assert code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without asking")
def test_a_child_is_asked_to_end_first() -> None:
    code = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(7))\nprint('up', flush=True)\n"
    assert run(code + "time.sleep(60)", until_it_says="up")[0] == 7


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without asking")
def test_a_child_that_ignores_the_asking_is_killed_after_the_grace() -> None:
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    started = time.monotonic()
    assert run(code, grace_s=0.2, until_it_says="up")[0] == -9
    assert time.monotonic() - started < 10


def test_a_program_that_does_not_exist_fails_with_its_name() -> None:
    async def check() -> None:
        try:
            child = await ChildProcess.start(["/no/such/program"], python_child=False)
        except OSError:
            return
        async with asyncio.timeout(10):
            assert await child.wait() == 127
        await child.stop()
        assert "/no/such/program" in child.output.lines()[-1]

    asyncio.run(check())


def test_the_memory_of_a_child_is_measured_while_it_lives() -> None:
    async def check() -> None:
        child = await ChildProcess.start(
            [sys.executable, "-c", "b = b'x' * (64 << 20); print('up', flush=True); import time; time.sleep(60)"],
            python_child=False,
        )
        try:
            async with asyncio.timeout(20):
                await said(child, "up")
            held = child.resident()
            assert held is not None
            assert held.total_bytes > 64 << 20
        finally:
            await child.stop()
        assert child.resident() is None

    asyncio.run(check())


def test_a_killed_agent_leaves_no_child_behind(tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text(AGENT)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        children = [int(pid) for pid in agent.stdout.readline().split()]
        assert len(children) == 2
        agent.kill()
        agent.wait(timeout=10)
    deadline = time.monotonic() + 5
    while not all(gone(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in children if not gone(pid)] == []


@pytest.mark.skipif(sys.platform == "win32", reason="the watcher is for POSIX systems without PDEATHSIG")
def test_the_watcher_ends_the_program_when_its_input_ends() -> None:
    """What macOS uses for external binaries, run here through its own function."""
    start = "import sys; from chorus_client import lifeline; sys.exit(lifeline._stand_beside(sys.argv[1:]))"
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            start,
            sys.executable,
            "-c",
            "import os, time; print(os.getpid(), flush=True); time.sleep(60)",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        program = int(watcher.stdout.readline())
        watcher.stdin.close()
        watcher.wait(timeout=10)
    deadline = time.monotonic() + 5
    while not gone(program) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(program)


def test_a_process_that_somebody_started_by_hand_is_tied_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lifeline.PARENT_VARIABLE, raising=False)
    lifeline.tie_to_parent()
    assert os.getpid() > 0


TIED = """
import os, threading
from chorus_client.lifeline import tie_to_parent

tie_to_parent()
print(repr(os.read(0, 1)), flush=True)
threading.Event().wait()
"""
COMPUTING = """
import os
from chorus_client.model_server import worker

class Probe:
    def __init__(self, orders, events):
        self.orders, self.events = orders, events

    def run(self):
        self.events.write(self.orders.read(5) + os.read(0, 1) + b"|")
        self.events.flush()
        self.events.write(self.orders.read())
        self.events.flush()
        return 0

worker.Worker = Probe
worker.main()
"""


@contextmanager
def started(code: str) -> Generator[subprocess.Popen[bytes]]:
    """A child of this process, killed when it says nothing for too long."""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, lifeline.PARENT_VARIABLE: str(os.getpid())},
        start_new_session=True,
    ) as child:
        watch = threading.Timer(20, child.kill)
        watch.start()
        try:
            yield child
        finally:
            watch.cancel()


def test_a_tied_child_has_the_null_device_as_descriptor_0_and_still_ends_with_its_agent() -> None:
    """Whoever looks at descriptor 0, as a DLL does while numpy is imported on Windows, must not meet a pending read."""
    with started(TIED) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"b''"  # while its real input is still open
        child.stdin.close()
        assert child.wait(timeout=20) != 0


def test_the_computing_process_reads_its_orders_beside_descriptor_0() -> None:
    with started(COMPUTING) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"first")
        child.stdin.flush()
        assert child.stdout.read(6) == b"first|"
        child.stdin.write(b"second")
        child.stdin.close()
        assert child.stdout.read() == b"second"
        assert child.wait(timeout=20) == 0
