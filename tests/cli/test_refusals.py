"""What a person can get wrong at the start, with real processes: exit code 2 and one line that names the fix."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.whole.support import Ended, cluster, run_chorus


def refused(ended: Ended, *said: str) -> None:
    assert ended.code == 2, ended
    for words in said:
        assert words in ended.err, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") == 1, ended.err


@pytest.fixture
def taken_port() -> object:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_grpc_port_in_use(tmp_path: Path, taken_port: int) -> None:
    refused(
        run_chorus("up", "--no-agent", f"--grpc-port={taken_port}", "--http-port=0", f"--state-dir={tmp_path}"),
        f"127.0.0.1:{taken_port}",
        "--grpc-port",
    )


def test_an_http_port_in_use(tmp_path: Path, taken_port: int) -> None:
    refused(
        run_chorus("up", "--no-agent", "--grpc-port=0", f"--http-port={taken_port}", f"--state-dir={tmp_path}"),
        f"127.0.0.1:{taken_port}",
        "--http-port",
    )


@pytest.mark.parametrize("command", ["up", "coordinator", "http", "agent"])
def test_a_state_folder_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    refused(run_chorus(command, f"--state-dir={file / 'state'}"), str(file), "--state-dir")


def test_a_wrong_key_in_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "chorus.toml"
    file.write_text("[coordinator]\nslot = 3\n")
    refused(run_chorus("up", f"--config={file}", f"--state-dir={tmp_path}"), "'slot'", "did you mean 'slots'?")


def test_a_wrong_setting_of_the_agent_is_refused_before_anything_starts(tmp_path: Path) -> None:
    refused(run_chorus("up", "--engines=remotely", f"--state-dir={tmp_path}"), "engines", "'remotely' is not known")


def test_an_agent_that_cannot_start_ends_the_hub_with_its_reason(tmp_path: Path) -> None:
    refused(
        run_chorus("up", "--engines=remote", "--grpc-port=0", "--http-port=0", f"--state-dir={tmp_path}"),
        "the agent of this PC cannot start",
        "remote_url",
    )


@pytest.mark.parametrize("command", ["up", "coordinator", "http"])
def test_an_address_beyond_this_pc_without_protection_and_the_word_for_it(tmp_path: Path, command: str) -> None:
    refused(
        run_chorus(command, "--host=0.0.0.0", "--no-tls", f"--state-dir={tmp_path}"),
        "leave out --no-tls",
        "--insecure",
        "--host 127.0.0.1",
    )


def test_two_coordinators_on_one_state_folder(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        first = chorus.coordinator()
        first.ready()
        refused(
            run_chorus("up", "--grpc-port=0", "--http-port=0", f"--state-dir={chorus.state_dir}"),
            "already runs",
            "--state-dir",
        )
        assert first.stop() == 0


def test_two_coordinators_on_one_port(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        first = chorus.coordinator()
        port = str(first.ready()["grpc_address"]).rpartition(":")[2]
        refused(
            run_chorus("coordinator", f"--grpc-port={port}", f"--state-dir={tmp_path / 'other'}"),
            f"127.0.0.1:{port}",
            "--grpc-port",
        )


def test_a_ready_file_in_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(
        run_chorus(
            "coordinator", "--grpc-port=0", f"--state-dir={tmp_path}", f"--ready-file={tmp_path / 'file' / 'ready'}"
        ),
        "--ready-file",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs POSIX: a folder in which nobody, root included, may write")
def test_a_state_folder_where_nobody_may_write() -> None:
    refused(run_chorus("coordinator", "--state-dir=/proc/chorus-state"), "--state-dir")
