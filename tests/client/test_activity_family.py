"""Which processes count as Chorus's; the processes are real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import psutil
import pytest

from chorus_client.activity.family import Family, is_chorus

WAIT = "import sys; print('here', flush=True); sys.stdin.read()"


@contextmanager
def process(*arguments: str) -> Generator[subprocess.Popen[bytes]]:
    """Python with these arguments, until the end of the block; it has printed its first line."""
    with subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        one.stdout.readline()
        try:
            yield one
        finally:
            for member in [*psutil.Process(one.pid).children(recursive=True), one]:
                member.kill()


@pytest.mark.parametrize(
    "line",
    [
        ["/opt/venv/bin/python", "-m", "chorus_cli", "up"],
        ["python3", "-I", "-m", "chorus_client.llama_cpp_server", "--model", "x"],
        ["python3", "/opt/venv/bin/chorus", "agent"],
        [r"C:\venv\Scripts\chorus.exe", "agent"] if sys.platform == "win32" else ["chorus.exe", "agent"],
        ["chorus-llama-server", "--model", "x"],
    ],
)
def test_commands_of_chorus_are_known(line: list[str]) -> None:
    assert is_chorus(line)


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["python3", "game.py"],
        ["vim", "chorus.md"],
        ["chorus_of_angels"],
        ["python3", "-m", "http.server", "1", "2", "chorus"],
    ],
)
def test_other_commands_are_not(line: list[str]) -> None:
    assert not is_chorus(line)


def test_what_this_process_started_is_its_family_over_generations() -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}])"
    family = Family()
    with process("-c", nested) as parent:
        family.refresh()
        grandchildren = {one.pid for one in psutil.Process(parent.pid).children(recursive=True)}
        assert grandchildren
        assert {os.getpid(), parent.pid, *grandchildren} <= set(family.members)
        assert os.getppid() not in family.members
    family.refresh()
    assert parent.pid not in family.members


def test_programs_that_compute_for_us_are_family_by_their_name() -> None:
    parent = psutil.Process(os.getppid())
    family = Family(also=[parent.name().upper()[:4]])
    family.refresh()
    assert parent.pid in family.members


class Judging(Family):
    """Calls those processes Chorus that the test names."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: set[int] = set()

    def _is_root(self, process: psutil.Process) -> bool:
        return process.pid in self.roots


def test_a_process_that_became_chorus_after_the_first_look_is_found_at_the_next() -> None:
    family = Judging()
    family.refresh()
    family.roots = {os.getppid()}
    family.refresh()
    assert os.getppid() in family.members
    family.roots = set()
    family.refresh()
    assert os.getppid() in family.members, "the second look was final"
