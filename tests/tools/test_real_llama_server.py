"""Where the opt-in llama-server lies, and when it is built; test_real_llama_server.py in tests/whole builds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.real_llama_server import CACHE_VARIABLE, PROGRAM, VERSION, cache_folder, real_llama_server

SCRIPT = Path(__file__).parents[2] / "tools" / "real_llama_server.py"
HOME = Path("home")


@pytest.mark.parametrize(
    ("environment", "platform", "folder"),
    [
        ({}, "linux", HOME / ".cache" / "chorus" / "llama-server"),
        ({"XDG_CACHE_HOME": "elsewhere"}, "linux", Path("elsewhere", "chorus", "llama-server")),
        ({}, "darwin", HOME / "Library" / "Caches" / "chorus" / "llama-server"),
        ({"LOCALAPPDATA": "local"}, "win32", Path("local", "chorus", "llama-server")),
        ({CACHE_VARIABLE: "mine", "XDG_CACHE_HOME": "elsewhere"}, "linux", Path("mine")),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_such_files(
    environment: dict[str, str], platform: str, folder: Path
) -> None:
    assert cache_folder(environment, platform, HOME) == folder


def test_a_cached_binary_of_this_version_is_printed_and_nothing_is_built(tmp_path: Path) -> None:
    program = tmp_path / VERSION / PROGRAM
    program.parent.mkdir()
    program.touch()
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, CACHE_VARIABLE: str(tmp_path), "PATH": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{program}\n"), done.stderr
    assert [path.name for path in program.parent.iterdir()] == [PROGRAM]
    assert real_llama_server(tmp_path, jobs=1) == program


def test_a_failed_step_is_named_with_its_last_words_and_leaves_no_binary(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={
            **os.environ,
            CACHE_VARIABLE: str(tmp_path),
            # An index that is an empty folder: pip finds nothing and needs no network to say so.
            "PIP_INDEX_URL": tmp_path.as_uri(),
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(tmp_path),
        },
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("download ended with code 1; see ")
    assert f"llama-cpp-python=={VERSION}" in done.stderr
    assert sorted(path.name for path in (tmp_path / VERSION).iterdir() if path.name != "lock") == ["build.log"]
