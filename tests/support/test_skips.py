from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_one(tmp_path: Path, reason: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    """A test run of its own with one test that passes and one that is skipped."""
    file = tmp_path / "test_sample.py"
    file.write_text(
        f"import pytest\n\ndef test_passes():\n    pass\n\n\ndef test_skipped():\n    pytest.skip({reason!r})\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.skips", f"--rootdir={tmp_path}", str(file)],
        cwd=ROOT,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_a_skip_without_a_known_reason_fails_the_run_in_ci(tmp_path: Path) -> None:
    done = run_one(tmp_path, "not today", ci="true")
    assert done.returncode == 1, done.stdout
    assert "test_sample.py::test_skipped: Skipped: not today" in done.stdout


@pytest.mark.parametrize(("reason", "ci"), [("needs Windows: a job object", "true"), ("not today", "")])
def test_other_skips_do_not(tmp_path: Path, reason: str, ci: str) -> None:
    done = run_one(tmp_path, reason, ci=ci)
    assert done.returncode == 0, done.stdout
