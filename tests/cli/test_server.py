"""`chorus server` as a person uses it: real commands, real servers, a real terminal for the question."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.local_servers import answers, end_all, free_ports, server, servers_file, strangers_server
from tests.whole.support import Ended, chorus_command, clean_environment, eventually, run_chorus


class Servers:
    """Two configured servers and the command on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports(2)
        self.file = servers_file(
            folder, server("one", self.ports[0]), server("two", self.ports[1]), default_local_server="one"
        )

    @property
    def options(self) -> tuple[str, ...]:
        return ("server", f"--config={self.file}", f"--state-dir={self.folder}")

    def run(self, *arguments: str) -> Ended:
        return run_chorus(*self.options, *arguments)

    def states(self) -> list[str]:
        rows: list[dict[str, str]] = json.loads(self.run("list", "--json").out)
        return [row["state"] for row in rows]


@pytest.fixture
def servers(tmp_path: Path) -> Generator[Servers]:
    yield Servers(tmp_path)
    end_all(tmp_path)


def test_list_start_status_switch_and_stop(servers: Servers) -> None:
    started = servers.run("start")
    assert started.code == 0, started
    assert f"one runs on port {servers.ports[0]}" in started.out
    assert "one needs " in started.err
    listed = servers.run("list").out.splitlines()
    assert listed[0].split() == ["NAME", "PORT", "STATUS", "MODEL"]
    assert listed[1].split() == ["one", str(servers.ports[0]), "Running", "demo-tiny-q8_0.gguf"]
    assert listed[2].split() == ["two", str(servers.ports[1]), "Stopped", "demo-tiny-q8_0.gguf"]
    status = servers.run("status", "one").out
    assert "one (default)" in status
    assert "MiB" in status
    switched = servers.run("switch", "two")
    assert switched.code == 0
    assert "chorus server start two" in switched.out
    endpoint = json.loads(servers.file.read_text("utf-8"))["llm_endpoint"]
    assert endpoint["default_local_server"] == "two"
    assert endpoint["api_base_url"] == f"http://127.0.0.1:{servers.ports[1]}/v1"
    assert answers(servers.ports[0]), "a switch stops nothing"
    assert servers.run("stop", "one").out == "one is stopped\n"
    assert servers.run("stop", "one").out == "one was not running\n"
    assert servers.states() == ["Stopped", "Stopped"]


def test_without_a_terminal_a_second_server_is_refused_and_force_starts_it(servers: Servers) -> None:
    assert servers.run("start", "one").code == 0
    refused = servers.run("start", "two")
    assert refused.code == 2
    assert "  • one (port " in refused.err
    assert "Running multiple LLM servers simultaneously may cause memory issues." in refused.err
    assert "one holds " in refused.err
    assert "two needs " in refused.err
    assert "--force" in refused.err.splitlines()[-1]
    assert not answers(servers.ports[1])
    assert servers.run("start", "two", "-f").code == 0
    assert servers.states() == ["Running", "Running"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a pseudo terminal")
@pytest.mark.parametrize(("answer", "code", "runs"), [("y", 0, True), ("n", 1, False), ("", 1, False)])
def test_on_a_terminal_the_person_decides(servers: Servers, answer: str, code: int, runs: bool) -> None:
    assert servers.run("start", "one").code == 0
    said, ended = on_a_terminal([*servers.options, "start", "two"], "Are you sure", answer)
    assert "Are you sure you want to start 'two'? [y/N]: " in said
    assert ended == code, said
    assert answers(servers.ports[1]) is runs


def on_a_terminal(arguments: list[str], question: str, answer: str) -> tuple[str, int]:
    """Run the command on a pseudo terminal, answer its question; what it printed and its exit code."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        command = chorus_command(*arguments)
        os.execve(command[0], command, clean_environment())
    os.set_blocking(terminal, False)
    said = ""

    def read() -> bool:
        nonlocal said
        try:
            said += os.read(terminal, 65_536).decode("utf-8", "replace")
        except BlockingIOError:
            return False
        except OSError:
            return True  # the other end is closed
        return False

    def asked() -> bool:
        read()
        return question in said

    eventually(asked, within_s=20, what=f"the question; so far: {said}")
    os.write(terminal, answer.encode() + b"\n")
    eventually(read, within_s=30, what="the end of the command")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return said, os.waitstatus_to_exitcode(status)


def test_a_strangers_server_is_used_and_stop_leaves_it_alone(servers: Servers) -> None:
    with strangers_server(servers.ports[0]) as stranger:
        started = servers.run("start", "one")
        assert started.code == 0
        assert "already runs" in started.out
        assert f"process {stranger.pid}" in started.out
        stopped = servers.run("stop", "one")
        assert stopped.code == 1
        assert "left alone" in stopped.err
        assert f"process {stranger.pid}" in stopped.err
        assert stranger.poll() is None
        assert answers(servers.ports[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("start", "nobody"), "'nobody'"), (("switch", "twwo"), "did you mean 'two'"), (("switch",), "NAME")],
)
def test_a_wrong_name_is_one_line_and_code_2(servers: Servers, arguments: tuple[str, ...], said: str) -> None:
    ended = servers.run(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_a_missing_file_names_the_option(tmp_path: Path) -> None:
    ended = run_chorus("server", f"--state-dir={tmp_path}", "list")
    assert ended.code == 2
    assert "servers.json" in ended.err
    assert "--config" in ended.err
    assert run_chorus("server", "start", "--help").code == 0
