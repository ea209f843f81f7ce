from __future__ import annotations

import os
import subprocess
import sys

import pytest

from chorus_cli.commands.config import command as config_command
from chorus_cli.main import COMMANDS, chorus, main


def test_help_lists_every_command_and_loads_neither_grpc_nor_a_web_server() -> None:
    script = (
        "import sys; from chorus_cli.main import main; code = main(['--help']);"
        "print('LOADED', sorted({'grpc', 'quart', 'uvicorn', 'aiohttp', 'rich'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=30, check=True)
    assert "LOADED []" in done.stdout
    assert all(name in done.stdout for name in COMMANDS)


def test_an_agent_carries_no_library_that_only_the_hub_needs() -> None:
    """It runs beside other people's work: certificates alone would take 8 MB of its memory."""
    script = (
        "import sys, chorus_cli.commands.agent;"
        "print('LOADED', sorted({'cryptography', 'quart', 'uvicorn', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert "LOADED []" in done.stdout


def test_a_character_that_the_outputs_encoding_lacks_does_not_end_the_output() -> None:
    """As on Windows, where an output that goes to a file has the encoding of the country."""
    done = subprocess.run(
        [sys.executable, "-m", "chorus_cli", "config", "show"],
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "CHORUS_REGISTRY_URL": "https://caf\u00e9\u2192"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "https://caf\u00e9?".encode("cp1252") in done.stdout


def test_a_process_without_a_console_has_no_output_to_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["frobnicate"]) == 2


def test_every_command_that_is_listed_exists() -> None:
    context = config_command.make_context("chorus", ["show"])
    for name in COMMANDS:
        found = chorus.get_command(context, name)
        assert found is not None
        assert found.name == name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stat"], "did you mean 'status'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["nodes", "--jsn"], "--jsn"),
        (["nodes", "--coordinator", "nonsense"], "is not HOST:PORT"),
        (["nodes", "--coordinator", "pc:99999"], "the port must be 1-65535"),
        (["nodes", "--log-level", "loud"], "one of debug, info"),
        (["up", "--grpc-port", "many"], "flag --grpc-port"),
        (["up", "--slots", "0"], "too small"),
        (["up", "--threads", "-3"], "threads"),
        (["agent", "--join", "no-port"], "is not HOST:PORT"),
        (["agent", "--engines", "lama_server"], "'lama_server' is not known"),
        (["config", "show", "--config", "/does/not/exist.toml"], "does not exist"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("chorus: ")
    assert error.count("\n") == 1


def test_a_coordinator_that_is_away_is_exit_code_1_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["nodes"], ["status"], ["models"], ["ask", "hello"], ["console"]):
        assert main([*command, "--coordinator", "127.0.0.1:1", "--answer-within-s", "3"]) == 1
        error = capsys.readouterr().err
        assert "127.0.0.1:1" in error, command
        assert error.count("\n") == 1, command
