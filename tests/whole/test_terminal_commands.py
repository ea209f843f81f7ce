"""The commands for people in a terminal, against a real Chorus: chat, top, completion, councils, loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.whole.support import Ended, chorus_command, clean_environment, cluster, run_chorus

PARIS = "The capital of France is Paris."
QUESTION = "What is the capital of France?"


class Here:
    """A running Chorus, and commands that ask it."""

    def __init__(self, coordinator: str, state_dir: Path) -> None:
        self.flags = (f"--coordinator={coordinator}", f"--state-dir={state_dir}")

    def run(self, *words: str, stdin: str = "", **environment: str) -> Ended:
        return run_chorus(*words, *self.flags, stdin=stdin, within_s=60, **environment)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Generator[Here]:
    weak = Path(__file__).parents[2] / "docs" / "hardware" / "weak.toml"
    with cluster(tmp_path_factory.mktemp("terminal")) as chorus:
        told = chorus.up(f"--hardware={weak}").ready()
        yield Here(str(told["grpc_address"]), chorus.state_dir)


def test_chat_answers_one_question_as_text_from_a_pipe_and_as_json(here: Here) -> None:
    assert here.run("chat", "--temperature=0", QUESTION).out == f"{PARIS}\n"
    assert here.run("chat", "--temperature=0", stdin=QUESTION).out == f"{PARIS}\n"
    told = json.loads(here.run("chat", "--json", "--model=demo-tiny", "--max-tokens=3", QUESTION).out)
    assert (told["model"], told["finish_reason"], told["completion_tokens"]) == ("demo-tiny", "length", 3)
    assert told["text"]


def test_chat_refuses_what_it_cannot_do_with_the_next_step(here: Here) -> None:
    gone = here.run("chat", "--model=nothere", QUESTION)
    assert gone.code == 1
    assert "chorus models pull" in gone.err
    assert here.run("chat", stdin="").code == 2
    away = run_chorus("chat", "hi", "--coordinator=127.0.0.1:1")
    assert away.code == 1
    assert "Traceback" not in away.err


def test_a_council_is_asked_by_its_name(here: Here) -> None:
    told = json.loads(here.run("ask", "--council=all", "--json", "--temperature=0", QUESTION).out)
    assert told["text"] == PARIS
    assert [member["model"] for member in told["members"]] == ["demo-tiny"]
    both = here.run("ask", "--council=all", "--strategy=vote", QUESTION)
    assert (both.code, "--strategy" in both.err) == (2, True)


def test_a_model_is_freed_and_loaded_again_with_progress(here: Here) -> None:
    freed = json.loads(here.run("models", "unload", "demo-tiny", "--json").out)
    assert freed["state"] == "unloaded"
    loaded = here.run("models", "load", "demo-tiny")
    assert loaded.out.startswith("demo-tiny is loaded on "), loaded
    assert "demo-tiny: " in loaded.err
    missing = here.run("models", "load", "nothere")
    assert missing.code == 1
    assert "nothere" in missing.err


def test_top_shows_the_fleet_once_in_a_pipe_and_as_json_lines(here: Here) -> None:
    assert "1 of 1 PCs alive" in here.run("top", COLUMNS="150").out
    looks = here.run("top", "--json", "--looks=2", "--every-s=0.2").out.splitlines()
    assert [len(json.loads(look)["state"]["nodes"]) for look in looks] == [1, 1]


def test_a_shell_completes_commands_models_and_pcs(here: Here) -> None:
    def complete(*words: str) -> list[str]:
        line = " ".join(["chorus", *words])
        done = subprocess.run(
            chorus_command(),
            env=clean_environment(
                _CHORUS_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words)), COLUMNS="100"
            ),
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            check=False,
        )
        return [one.partition(",")[2] for one in done.stdout.split()]

    assert complete("comp") == ["completion"]
    assert "council/all" in complete("chat", *here.flags, "--model", "council")
    (name,) = complete("nodes", "wake", *here.flags, "''")
    assert name
    assert complete("chat", "--coordinator=127.0.0.1:1", "--model", "d") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_the_command_and_where_it_belongs(shell: str) -> None:
    told = run_chorus("completion", shell)
    assert told.code == 0
    assert told.out.startswith("# ")
    assert "_CHORUS_COMPLETE" in told.out
    assert run_chorus("completion", SHELL="/bin/tcsh").code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a pseudo-terminal")
def test_a_conversation_on_a_real_terminal_streams_and_ends(here: Here) -> None:
    import pty

    leader, follower = pty.openpty()
    talking = subprocess.Popen(
        chorus_command("chat", "--temperature=0", *here.flags),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=clean_environment(TERM="xterm", COLUMNS="100", PYTHONIOENCODING="utf-8"),
        start_new_session=True,
    )
    os.close(follower)
    shown = b""
    try:
        os.write(leader, f"{QUESTION}\n/model council/all\n/bye\n".encode())
        while chunk := _read(leader):
            shown += chunk
        assert talking.wait(timeout=20) == 0
    finally:
        talking.kill()
        talking.wait()
        os.close(leader)
    text = shown.decode()
    assert f"{PARIS}\r\n" in text
    assert "tokens/s" in text
    assert "model: council/all" in text


def _read(leader: int) -> bytes:
    """b"" once nobody holds the other end any more."""
    try:
        return os.read(leader, 4096)
    except OSError:
        return b""
