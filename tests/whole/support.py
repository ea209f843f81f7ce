"""Real `chorus` processes for tests: started on free ports, waited for by their ready file, all ended at the end.

A test uses `with cluster(tmp_path) as chorus:`; what it starts dies with the block, also when the test fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import psutil

from tests.support.patience import granted_s

START_WITHIN_S = 40.0
STOP_WITHIN_S = 20.0
POLL_S = 0.02

Found = TypeVar("Found")


def eventually(look: Callable[[], Found | None], *, within_s: float, what: str) -> Found:
    """Poll until `look` returns something true, and return it. Fails the test with `what` when it does not in time."""
    ends_at = time.monotonic() + granted_s(within_s)
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > ends_at:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)


def chorus_command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "chorus_cli", *arguments]


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without CHORUS_* of the developer's own, and with answers as they come."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHORUS_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **extra}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that ran to its end."""

    code: int
    out: str
    err: str


def run_chorus(*arguments: str, stdin: str = "", within_s: float = START_WITHIN_S, **environment: str) -> Ended:
    """Run one command to its end; its standard input is `stdin`."""
    done = subprocess.run(
        chorus_command(*arguments),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=within_s,
        env=clean_environment(**environment),
        check=False,
    )
    return Ended(code=done.returncode, out=done.stdout, err=done.stderr)


class Running:
    """One long-lived command. Its output goes to files, so that no pipe can fill up."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], label: str) -> None:
        self.label = label
        self.ready_path = folder / f"{label}.ready.json"
        self.ready_path.unlink(missing_ok=True)
        self._out_path = folder / f"{label}.out"
        with self._out_path.open("wb") as out:
            self.process = subprocess.Popen(
                chorus_command(*arguments, f"--ready-file={self.ready_path}"),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                # A group of its own: a Ctrl+C for the tests, or a CTRL_BREAK for it, hits the right one only.
                start_new_session=sys.platform != "win32",
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP if sys.platform == "win32" else 0,
            )
        self._family: dict[int, psutil.Process] = {}

    @property
    def output(self) -> str:
        """All that it printed so far."""
        return self._out_path.read_text(encoding="utf-8", errors="replace")

    def ready(self, *, within_s: float = START_WITHIN_S) -> dict[str, object]:
        """Wait for the ready file; what it says. Fails the test when the process ends before."""

        def look() -> dict[str, object] | None:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.label} ended with {self.process.returncode}:\n{self.output}")
            with contextlib.suppress(FileNotFoundError):
                return cast("dict[str, object]", json.loads(self.ready_path.read_text(encoding="utf-8")))
            return None

        try:
            return eventually(look, within_s=within_s, what=f"{self.label} is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\noutput of {self.label}:\n{self.output}") from None

    def family(self) -> list[psutil.Process]:
        """This process and everything it started that still runs; keeps knowing those whose parent has died."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            for member in [top, *top.children(recursive=True)]:
                self._family[member.pid] = member
        return [member for member in self._family.values() if alive(member)]

    def ask_to_stop(self) -> None:
        """As `stop.sh`, or a person with Ctrl+Break on Windows, would."""
        self.process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGTERM)

    def stop(self, *, within_s: float = STOP_WITHIN_S) -> int:
        """Ask it to end and wait; the exit code."""
        self.family()
        if self.process.poll() is None:
            self.ask_to_stop()
        return self.process.wait(timeout=within_s)

    def kill(self) -> None:
        """SIGKILL for this process alone; what it started must notice by itself."""
        self.family()
        self.process.kill()
        self.process.wait(timeout=STOP_WITHIN_S)

    def end_all(self) -> list[str]:
        """End it and whatever it left behind; the command lines of those that were still there."""
        left: list[str] = []
        for member in self.family():
            with contextlib.suppress(psutil.Error):
                left.append(" ".join(member.cmdline())[:200])
                member.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=STOP_WITHIN_S)
        return left


def alive(member: psutil.Process) -> bool:
    try:
        return member.is_running() and member.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(slots=True)
class Chorus:
    """The processes of one test, with one state folder."""

    folder: Path
    started: list[Running] = field(default_factory=list[Running])

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def start(self, command: str, *arguments: str, label: str = "", **environment: str) -> Running:
        """Start `chorus COMMAND` in the background; wait for it with `.ready()`. Flags given later win."""
        name = label or f"{command}{len(self.started)}"
        state = f"--state-dir={self.state_dir}"
        one = Running([command, state, *arguments], self.folder, clean_environment(**environment), name)
        self.started.append(one)
        return one

    def up(self, *arguments: str, **environment: str) -> Running:
        """`chorus up` on free ports, its engine with one thread."""
        free = ("--grpc-port=0", "--http-port=0", "--threads=1")
        return self.start("up", *free, *arguments, label="up", **environment)

    def coordinator(self, *arguments: str) -> Running:
        return self.start("coordinator", "--grpc-port=0", "--no-console", *arguments)

    def agent(self, name: str, join: str, *arguments: str, **environment: str) -> Running:
        """One more agent beside others on the same state folder."""
        fixed = (f"--name={name}", f"--join={join}", "--threads=1", "--no-microbench")
        return self.start("agent", *fixed, *arguments, label=f"agent-{name}", **environment)


@contextmanager
def cluster(folder: Path) -> Generator[Chorus]:
    """Processes under `folder`; all of them, and what they started, are gone after the block."""
    chorus = Chorus(folder)
    try:
        yield chorus
    finally:
        for one in chorus.started:
            one.family()
        for one in reversed(chorus.started):
            if one.process.poll() is None:
                one.ask_to_stop()
        for one in reversed(chorus.started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(timeout=5)
            one.end_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    status: int
    body: bytes

    def json(self) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self.body))


def http(url: str, body: Mapping[str, object] | None = None, *, within_s: float = START_WITHIN_S) -> HttpReply:
    """GET, or POST of a JSON body; every status is an answer."""
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=raw, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=within_s) as reply:
            return HttpReply(status=reply.status, body=reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return HttpReply(status=error.code, body=error.read())


def chat(http_url: str, model: str, question: str) -> str:
    """The text of one chat answer at temperature 0."""
    reply = http(
        f"{http_url}/v1/chat/completions",
        {"model": model, "temperature": 0, "messages": [{"role": "user", "content": question}]},
    )
    assert reply.status == 200, reply.body
    choices = cast("list[dict[str, dict[str, str]]]", reply.json()["choices"])
    return choices[0]["message"]["content"]
