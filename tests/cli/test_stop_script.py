"""stop.sh, run on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.whole.support import cluster, eventually

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: stop.bat is the script of Windows")


def stop(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / "stop.sh"), *options, "--state-dir", str(state)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state" / "run").mkdir(parents=True)
    return tmp_path / "state"


@pytest.fixture
def stranger(request: pytest.FixtureRequest) -> Generator[subprocess.Popen[bytes]]:
    """A process of somebody else with these words behind its program."""
    words: tuple[str, ...] = request.param
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    "stranger",
    [("server",), ("/opt/observer/client",), ("http_wrapper", "chorus"), ("chorus", "up"), ("/music/chorus.py",)],
    indirect=True,
    ids=lambda words: "_".join(words).replace("/", "-"),
)
@pytest.mark.parametrize("options", [(), ("--force",)], ids=["asked", "forced"])
def test_a_stranger_who_got_a_stale_pid_is_left_alone(
    state: Path, stranger: subprocess.Popen[bytes], options: tuple[str, ...]
) -> None:
    file = state / "run" / "coordinator.pid"
    file.write_text(f"{stranger.pid}\n")
    done = stop(state, *options)
    assert (done.returncode, done.stdout) == (0, f"nothing runs on {state}\n")
    assert stranger.poll() is None
    assert not file.exists()


@pytest.mark.parametrize("content", ["", "-1\n", "0 1\n", "many\n"])
def test_a_damaged_pid_file_stops_nothing(state: Path, content: str) -> None:
    (state / "run" / "up.pid").write_text(content)
    assert stop(state).stdout == f"nothing runs on {state}\n"


def test_what_runs_on_the_folder_is_asked_to_end(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.coordinator()
        hub.ready()
        done = stop(chorus.state_dir)
        assert f"coordinator (pid {hub.process.pid}) stopped" in done.stdout
        assert hub.process.wait(timeout=10) == 0


def test_force_ends_it_at_once(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.coordinator()
        hub.ready()
        done = stop(chorus.state_dir, "--force")
        assert f"coordinator (pid {hub.process.pid}) ended" in done.stdout
        assert hub.process.wait(timeout=10) == -9


@pytest.mark.parametrize(
    "command",
    [("server",), ("./server/",), (str(ROOT / "server"),), ("-P", str(ROOT / "server")), ("cli/../server",)],
    ids=["relative", "dotted", "absolute", "with an option", "another way"],
)
def test_a_bare_checkout_is_stopped_by_the_commands_of_the_readme(
    tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written any other way it is a stranger."""
    state = tmp_path / "state"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHORUS_")}
    with subprocess.Popen(
        [sys.executable, *command, "--grpc-port=0", "--no-console", f"--state-dir={state}"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as hub:
        try:
            eventually(lambda: (state / "run" / "coordinator.pid").exists() or None, within_s=30, what="its pid file")
            done = stop(state)
            assert ("stopped" in done.stdout) == (command != ("cli/../server",)), done
        finally:
            hub.kill()
