"""The processes that a benchmark measures: a whole Chorus, and engines asked directly beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil

START_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A running `chorus up`: its address, its processes, and how long it took until ready."""

    http_url: str
    hub: psutil.Process
    agent: psutil.Process
    ready_s: float


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> dict[str, object]:
    ends_at = time.monotonic() + START_WITHIN_S
    while time.monotonic() < ends_at:
        if path.exists():
            return cast("dict[str, object]", json.loads(path.read_text(encoding="utf-8")))
        if process.poll() is not None:
            raise SystemExit(f"chorus up ended with {process.returncode}")
        time.sleep(0.01)
    raise SystemExit(f"chorus up was not ready within {START_WITHIN_S:g} s")


@contextmanager
def chorus_up(folder: Path, *flags: str) -> Generator[Hub]:
    """`chorus up` on free ports with its state under `folder`; ended at the end of the block."""
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    began_s = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "chorus_cli", "up", "--grpc-port=0", "--http-port=0", "--threads=1"),
            *(f"--state-dir={folder / 'state'}", f"--ready-file={ready}", *flags),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        told = _wait_for(ready, process)
        ready_s = time.perf_counter() - began_s
        hub = psutil.Process(process.pid)
        agent = next(one for one in hub.children() if "agent" in one.cmdline())
        yield Hub(http_url=str(told["http_url"]), hub=hub, agent=agent, ready_s=ready_s)
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def engine(module: str, arguments: Sequence[str]) -> Generator[str]:
    """An engine command of the agent's, run by hand; its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--port", "0", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("listening "):
                yield line.split()[1]
                break
        else:
            raise SystemExit(f"{module} did not start")
    finally:
        process.terminate()
        process.wait(timeout=30)


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds that a process has used so far."""
    times = process.cpu_times()
    return times.user + times.system


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallHub:
    """A hub with agents of their own, in the order they were named; `grpc_address` is where commands ask."""

    http_url: str
    grpc_address: str
    hub: psutil.Process
    agents: tuple[psutil.Process, ...]


@contextmanager
def cluster_of(
    folder: Path, agents: Mapping[str, Sequence[str]], *flags: str, prefix: Sequence[str] = ()
) -> Generator[SmallHub]:
    """A hub with `flags`, and an agent with its own flags for each name; all ready, all ended at the end.

    `prefix` goes before the hub's command, to pin it to a core.
    """
    state = f"--state-dir={folder / 'state'}"
    ready = folder / "hub.json"
    fixed = ("up", "--no-agent", "--grpc-port=0", "--http-port=0", state, f"--ready-file={ready}")
    processes = [_started(*fixed, *flags, prefix=prefix)]
    try:
        told = _wait_for(ready, processes[0])
        for name, own in agents.items():
            mine = folder / f"{name}.json"
            asked = (f"--name={name}", f"--join={told['join']}", "--threads=1", "--no-microbench", state)
            processes.append(_started("agent", *asked, f"--ready-file={mine}", *own))
            _wait_for(mine, processes[-1])
        url = str(told["http_url"])
        _until_serving(url, len(agents))
        hub, *others = (psutil.Process(process.pid) for process in processes)
        yield SmallHub(http_url=url, grpc_address=str(told["join"]), hub=hub, agents=tuple(others))
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=60)


def _started(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    command = [*prefix, sys.executable, "-m", "chorus_cli", *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _until_serving(url: str, agents: int) -> None:
    """Every agent has a ready replica."""
    ends_at = time.monotonic() + START_WITHIN_S
    while time.monotonic() < ends_at:
        with urllib.request.urlopen(f"{url}/status", timeout=5) as reply:
            told = cast("dict[str, list[dict[str, list[dict[str, object]]]]]", json.loads(reply.read()))
        ready = [one for one in told["clients"] if any(r["state"] == "ready" for r in one["replicas"])]
        if len(ready) == agents:
            return
        time.sleep(0.05)
    raise SystemExit(f"not all of {agents} agents served within {START_WITHIN_S:g} s")


def made_key(hub: SmallHub, folder: Path, name: str) -> str:
    """A key for a user of this name, without limits worth the word."""
    command = (
        *(sys.executable, "-m", "chorus_cli", "keys", "create", name, f"--coordinator={hub.grpc_address}"),
        *(f"--state-dir={folder / 'state'}", "--parallel=100000", "--requests-per-minute=1000000"),
    )
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
